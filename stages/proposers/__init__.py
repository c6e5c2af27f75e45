"""Generators of masks."""
