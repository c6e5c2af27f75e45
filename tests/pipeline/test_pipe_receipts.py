"""DVC tracks receipts in place of columns, where the store is in a bucket."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import test_pipe_dvc
import yaml
from test_pipe_dvc import dvc, edit, run

from pipeline.receipts import rewritten
from tests.s3 import Server, environment

repository = test_pipe_dvc.repository
ROOT = Path(__file__).resolve().parents[2]


def parts(stage: dict[str, Any], *names: str) -> set[str]:
    """What a stage has below these keys."""
    found = [item for name in names for item in stage.get("do", stage).get(name, ())]
    return {item if isinstance(item, str) else next(iter(item)) for item in found}


def test_no_column_is_tracked_and_every_receipt_is_made() -> None:
    text = (ROOT / "dvc.yaml").read_text()
    receipts = rewritten(text)
    assert "${store}" not in receipts
    assert rewritten(receipts) == receipts
    before, after = yaml.safe_load(text)["stages"], yaml.safe_load(receipts)["stages"]
    assert before.keys() == after.keys()
    made = {
        name.replace("${key}", "${item.images}")
        for stage in after.values()
        for name in parts(stage, "outs", "metrics", "plots")
    }
    for name, stage in after.items():
        needed = {dep.replace("${key}", "${item.images}") for dep in parts(stage, "deps") if "metrics" in dep}
        assert all(dep in made or any(each.startswith(f"{dep}/") for each in made) for dep in needed), name
        assert stage.get("do", stage)["cmd"] == before[name].get("do", before[name])["cmd"]
    embed = parts(after["embed"], "deps")
    assert embed >= {"${run.report_dir}/metrics/masks/${item.images}", "${run.report_dir}/metrics/index/${key}"}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_store_in_a_bucket_under_dvc(
    repository: Path, project_at: Callable[[Path], Any], server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run, no-op, one parameter changed, and what a clone pulls."""
    monkeypatch.setattr(test_pipe_dvc, "ENVIRONMENT", {**test_pipe_dvc.ENVIRONMENT, **environment(server.address)})
    data = project_at(repository)
    data.configure(
        store=f"s3://{server.bucket()}/store",
        data__root="tiny-set",
        embed__mask_encoders=["demo_sam"],
        embed__image_encoders=[],
        run__report_dir="data/report",
        run__train_dir="data/train",
    )
    for number, split in enumerate(("train", "val")):
        for seed in (0, 1):
            data.add(split, f"{split}{seed}", 2 * number + seed)
    data.data.rename(repository / "tiny-set")
    for name in ("means.tiny", "train"):
        edit(repository, name, "train", ["tiny/train"])
    run(repository, "python", "-m", "pipeline.receipts")
    run(repository, "git", "add", "--all")
    run(repository, "git", "commit", "--quiet", "--message", "begin")
    first = dvc(repository, "repro", "verify")
    assert "masks@tiny" in first
    assert sorted((repository / "data/report/metrics").glob("*/tiny/val.json"))
    again = dvc(repository, "repro", "verify")
    assert "Running stage" not in again
    lock = (repository / "dvc.lock").read_text()
    assert ".parquet" not in lock
    edit(repository, "embed", "max_masks", 32)
    changed = dvc(repository, "repro", "verify")
    assert "Running stage 'embed@tiny'" in changed
    assert "Running stage 'index@tiny'" not in changed
    cached = [path for path in (repository / ".dvc/cache").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in cached) < 1_000_000
