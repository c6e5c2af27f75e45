"""``evaluate`` by a protocol, of every text and of all splits: one training, few images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from factory import full_store

from pipeline.commands.evaluate_run import COLUMNS, _cells
from pipeline.params_file import load_settings
from pipeline.runs import resolve
from stages.evaluate.protocol_figures import figures_of
from stages.evaluate.protocols import PROTOCOLS
from stages.predictions import read

QUICK = (
    *("--set", "train.epochs=1", "--set", "train.batch_size=2", "--set", "train.llmseg.max_new_tokens=4"),
    *("--set", "train.llmseg.mask_encoder=demo_alphaclip"),
)


def test_every_text_and_every_split(finished: Any) -> None:
    path = finished.data / "val/fox.json"
    value = json.loads(path.read_text())
    path.write_text(json.dumps({**value, "text": ["the fox", "which one is it?", "what waits?"]}))
    finished.build("index --split val", "extract --split val")
    values = finished.values
    finished.configure(splits=["train", "val", "later"])
    assert values is not finished.values
    done = finished.run("train", "--system", "llmseg", before=QUICK)
    assert done.code == 0, done.err

    run = resolve(load_settings(finished.params), "llmseg", None)
    ask = ("evaluate", "--system", "llmseg", "--data", "tiny", "--split", "val")
    assert finished.run(*ask, before=QUICK).code == 0
    usual = run.folder / "predictions/tiny/val.parquet"
    first = usual.read_bytes()
    assert b"texts" not in pq.read_metadata(usual).metadata

    found = finished.run(*ask, "--protocol", "refcoco", "--json", before=QUICK).json()
    assert found["texts"] == "every"
    assert list(found["groups"]["all"]["llmseg-every-text"]) == list(figures_of("refcoco"))
    meta, answers = read(run.folder / "predictions/tiny/val-every-text.parquet")
    assert (meta.texts, meta.mode, meta.system) == ("every", "generated", "llmseg-every-text")
    assert [one.text_index for one in answers if one.target_id == "fox/0"] == [0, 1, 2]
    assert len(answers) == found["questions"] == 5
    assert usual.read_bytes() == first
    _, firsts = read(usual)
    assert [one for one in answers if not one.text_index] == firsts

    done = finished.run(*ask, "--protocol", "lisa", before=QUICK)
    assert done.code == 0, done.err
    assert done.out.startswith("# llmseg-teacher_forced on tiny, val, protocol lisa\n")
    assert "- Protocol lisa, as LISA's released validation: first text, teacher-forced. " in done.out
    assert "external" not in done.out

    done = finished.run(*ask, "--protocol", "per_text", "--controls", before=QUICK)
    assert (done.code, "found --controls with --protocol per_text; controls ask the first text" in done.err) == (
        2,
        True,
    )

    done = finished.run("evaluate", "--system", "llmseg", "--all", before=QUICK)
    assert done.code == 0, done.err
    rows = [line.split(" | ")[:5] for line in done.out.splitlines() if line.startswith("| tiny")]
    assert rows == [
        ["| tiny/train (trained on)", "", "first", "generated", "5"],
        ["| tiny/val", "", "first", "generated", "3"],
    ]
    assert "- Left out: tiny/later: " in done.out
    assert "largest mask" not in done.out
    one = finished.run(
        "evaluate", "--system", "llmseg", "--all", "--split", "val", "--protocol", "gres", "--json", before=QUICK
    ).json()
    assert [figures["protocol"] for figures in one] == ["gres"]
    assert one[0]["published"] == []

    done = finished.run("evaluate", "--system", "llmseg", "--all", "--split", "later", before=QUICK)
    assert (done.code, "there is no split to score: tiny/later: " in done.err) == (2, True)
    for wrong in (["--system", "llmseg", "--controls"], ["--predictions", str(usual)]):
        done = finished.run("evaluate", "--all", *wrong)
        assert (done.code, "found --all with" in done.err) == (2, True)


def test_the_help_lists_every_protocol(cli: Callable[..., Any]) -> None:
    text = " ".join(cli("evaluate", "--help").out.replace("│", " ").split())
    option = text[text.index("--protocol") :]
    for name in PROTOCOLS:
        assert name in option


@pytest.mark.parametrize("protocol", [None, *PROTOCOLS])
def test_all_splits_have_the_main_figures(protocol: str | None) -> None:
    names = ("miou_per_sample", "ciou", "nciou") if protocol is None else tuple(figures_of(protocol))
    cells = _cells(dict.fromkeys(names, 1.0), protocol)
    assert cells
    assert set(cells) <= {heading for heading, _ in COLUMNS}
    assert ("ncIoU" in cells) == (protocol == "llmseg")


def test_external_boxes_by_a_protocol(empty: Any, tmp_path: Path) -> None:
    empty.configure(dataset="d", splits=["val"], means={"tiny": {"train": ["val"]}}, embed__max_masks=16)
    known = full_store(empty.store)
    entries = [
        {"target_id": target["target_id"], "text_index": text, "bbox": [1, 1, 2, 2]}
        for targets in known.targets
        for target in targets
        for text in range(2)
    ]
    path = tmp_path / "boxes.jsonl"
    path.write_text("\n".join(map(json.dumps, entries)))
    done = empty.run("evaluate", "--predictions", str(path), "--protocol", "gres")
    assert done.code == 0, done.err
    assert "# boxes on d, val, protocol gres" in done.out
    assert "- These predictions are external: the protocol fixes only how they are scored." in done.out
    count = len(entries)
    assert (
        f"- {count} of {count} answers are boxes: each is scored as the filled box, against the target's mask."
        in done.out
    )
    assert "- The protocol is meant for data of the format grefer; d is of the format reasonseg." in done.out
    assert "| system | gIoU | cIoU | N-acc | T-acc | Pr@0.7 | Pr@0.8 | Pr@0.9 |" in done.out
    first = empty.run("evaluate", "--predictions", str(path), "--protocol", "hub")
    assert f"- {count // 2} predictions for other texts than the first one of a target are not scored." in first.out
