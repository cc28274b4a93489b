"""Methods for images; those without image-specific parts run on vectors too."""
