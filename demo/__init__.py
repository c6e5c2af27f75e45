"""The built-in demo: a generated data set in ReasonSeg's format and tiny trained models. Imports no torch."""
