"""Several modalities, one space."""
