"""Methods for a target that is a number."""
