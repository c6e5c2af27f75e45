"""``python -m pipeline.receipts``: let DVC track receipts in place of the columns, for a store in a bucket or a very large one.

A receipt is a small file below ``<report_dir>/metrics`` with the digests of a stage's columns in one split, which every command
writes. The columns below ``outs`` of ``dvc.yaml`` are left out, and a stage depends on the receipts of the columns that it reads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from pipeline.compute import OUTPUTS
from pipeline.config import ROOT

METRICS = "${run.report_dir}/metrics"
STAGE_OF = {column: stage for stage, columns in OUTPUTS.items() for column in columns}
_COLUMN = re.compile(r"\$\{store\}/(?P<dataset>\$\{[\w.]+\})/(?P<column>\w+)")
_MEANS = "${store}/means"
_HEAD = """# Made of the dvc.yaml before it by `python -m pipeline.receipts`: DVC tracks receipts, small files with the digests of
# columns, and no column. The store may be in a bucket (docs/object_stores.md).
"""


def main() -> None:
    """Rewrite ``dvc.yaml``."""
    path = ROOT / "dvc.yaml"
    path.write_text(rewritten(path.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"{path.name}: DVC tracks receipts below <report_dir>/metrics, and no column")


def rewritten(text: str) -> str:
    """A ``dvc.yaml`` that tracks receipts; one that already does is returned unchanged."""
    stages = {name: _stage(name, stage) for name, stage in yaml.safe_load(text)["stages"].items()}
    return _HEAD + yaml.safe_dump({"stages": stages}, sort_keys=False, width=120)


def _stage(name: str, stage: Mapping[str, Any]) -> dict[str, Any]:
    if "do" in stage:
        return {**stage, "do": _stage(name, stage["do"])}
    found = dict(stage)
    found["deps"] = list(dict.fromkeys(_receipt(dep) for dep in stage.get("deps", ())))
    outs = [out for out in stage.get("outs", ()) if not _is_column(out)]
    if len(outs) < len(stage.get("outs", ())):
        del found["outs"]
        if outs:
            found["outs"] = outs
        if name == "means":
            found["metrics"] = [{f"{METRICS}/means.json": {"persist": True}}]
    return found


def _receipt(dep: str) -> str:
    if dep == _MEANS:
        return f"{METRICS}/means.json"
    column = _COLUMN.fullmatch(dep)
    return dep if column is None else f"{METRICS}/{STAGE_OF[column['column']]}/{column['dataset']}"


def _is_column(out: str | Mapping[str, Any]) -> bool:
    (name,) = [out] if isinstance(out, str) else out
    return name.startswith("${store}/")


if __name__ == "__main__":
    main()
