"""The embedded default: a generated ReasonSeg-format data set and tiny trained models. Imports no torch."""
