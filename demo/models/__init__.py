"""The tiny trained models, and their training."""
