"""LISA: a state of the language model drives SAM's mask decoder."""
