"""ELISA: masks are words of the language model."""
