"""Loaders of data sets, one small module a family, by the name that ``format`` of a data set gives."""

from __future__ import annotations

from collections.abc import Mapping

from stages.datasets import reasonseg
from stages.datasets.base import Dataset

DATASETS: Mapping[str, Dataset] = {"reasonseg": reasonseg}
