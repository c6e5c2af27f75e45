"""Checks that can fail before a model is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec


def check_reporting(report_to: Sequence[str]) -> None:
    """Raise ValueError unless everything that the Trainer has to report to is known to it and installed."""
    from transformers.integrations import integration_utils

    known = integration_utils.INTEGRATION_TO_CALLBACK
    there = {*integration_utils.get_available_reporting_integrations(), *(["flyte"] if find_spec("flytekit") else [])}
    for name in report_to:
        if name not in known:
            raise ValueError(
                f"train.report_to: found {name!r}, expected some of {', '.join(sorted(known))}; [] reports to DVCLive alone"
            )
        if name not in there:
            raise ValueError(f"train.report_to: {name} is not installed; install it, or --set train.report_to=[]")
