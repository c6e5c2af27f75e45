"""Pictures and plots of a split that a person would rather look at. Imports no torch."""
