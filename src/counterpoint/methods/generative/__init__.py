"""Methods that learn to say what they see: an encoder and a decoder, trained together."""
