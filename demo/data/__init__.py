"""The generated ReasonSeg-format data set."""
