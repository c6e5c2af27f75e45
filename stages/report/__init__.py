"""Pictures and plots of a split, for people to look at. Imports no torch."""
