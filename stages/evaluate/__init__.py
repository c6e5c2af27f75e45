"""Evaluation: the format of predictions, metrics, baselines and tables. Imports no torch.

scores = score(split, predictions, baselines=BASELINE_NAMES)
print(as_markdown(summarise(scores.systems, resamples=1000, seed=0)))
"""

from stages.predictions import Meta, Prediction, PredictionError, read, write

from .external import read_external
from .score import BASELINE_NAMES, Scores, score
from .tables import as_json, as_markdown, summarise

__all__ = [
    "BASELINE_NAMES",
    "Meta",
    "Prediction",
    "PredictionError",
    "Scores",
    "as_json",
    "as_markdown",
    "read",
    "read_external",
    "score",
    "summarise",
    "write",
]
