"""Training an encoder that is already trained, together with a classifier, on labelled items."""
