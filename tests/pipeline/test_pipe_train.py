"""Training from the store alone: by the command line, resumed exactly, without a vision backbone, without a pickle."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import open_clip.transformer
import pytest
import segment_anything.modeling
import torch
import transformers
from safetensors.torch import load_file
from transformers import TrainerCallback

from pipeline.config import ROOT
from pipeline.params_file import load_settings
from pipeline.runs import resolve
from stages.encoders import dinov2_vit
from stages.train.folder import held
from stages.train.run import columns, train
from stages.weights import locate
from store import open_split

QUICK = (
    *("--set", "train.epochs=2", "--set", "train.batch_size=2", "--set", "train.elisa.max_new_tokens=8"),
    *("--set", "train.llmseg.mask_encoder=demo_alphaclip"),
)


@pytest.fixture
def backbones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every vision backbone raises when it is made."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a vision backbone was built")

    for kind in (
        segment_anything.modeling.ImageEncoderViT,
        open_clip.transformer.VisionTransformer,
        dinov2_vit.DINOv2,
        transformers.CLIPVisionModel,
    ):
        monkeypatch.setattr(kind, "__init__", refuse)


@pytest.mark.usefixtures("backbones")
@pytest.mark.parametrize(
    ("system", "base"), [("elisa", "float32"), ("elisa", "bfloat16"), ("llmseg", "float32"), ("lisa", "float32")]
)
def test_trained_evaluated_and_not_trained_twice(finished: Any, system: str, base: str) -> None:
    before = (*QUICK, "--set", f"train.base={base}")
    done = finished.run("train", "--system", system, before=before)
    assert done.code == 0, done.err
    assert "trained.safetensors: trained; python cli.py --params " in done.out
    assert "fits a card of 24 GB" in done.err
    folder = resolve(load_settings(finished.params), system, None).folder
    assert sorted(path.name for path in folder.iterdir()) == ["curves", "run.json", "trained.safetensors"]
    history = json.loads((folder / "run.json").read_text())["history"]
    assert history[-1]["train_loss"] > 0
    assert all(value.dtype == torch.float32 for value in load_file(folder / "trained.safetensors").values())
    assert "already" in finished.run("train", "--system", system, before=before).out
    found = finished.run("evaluate", "--system", system, "--split", "val", "--json", before=before)
    assert found.code == 0, found.err
    figures = found.json()
    assert figures["mode"] == "generated"
    assert figures["groups"]["all"][system]["miou_per_sample"]["value"] >= 0
    assert {"oracle best mask", "largest mask"} <= set(figures["groups"]["all"])
    report = finished.folder / "report/tiny/evaluate" / system
    metrics = finished.folder / f"report/metrics/evaluate/{system}/tiny/val.json"
    assert json.loads(metrics.read_text()) == figures
    assert f"# {system} on tiny, val" in (report / "val.md").read_text()
    assert figures["run"] == json.loads((folder / "run.json").read_text())["digest"]
    forced = finished.run(
        "evaluate", "--system", system, "--split", "val", "--mode", "teacher_forced", "--json", before=before
    )
    if system == "elisa":
        assert forced.code == 2
        assert "expected generated" in forced.err
    else:
        assert forced.code == 0, forced.err
        assert forced.json()["groups"]["all"][f"{system}-teacher_forced"]
    with_truth = finished.run(
        "evaluate", "--system", system, "--split", "val", "--setting", "proposals+gt", "--json", before=before
    )
    if system == "lisa":
        assert with_truth.code == 2
        assert "setting: found proposals+gt, but it chooses no proposals" in with_truth.err
    else:
        assert with_truth.code == 0, with_truth.err
        named = with_truth.json()["groups"]["all"][f"{system}-proposals+gt"]
        assert {"elisa_precision", "elisa_recall", "elisa_f1"} <= named.keys()
        assert "elisa_f1" not in figures["groups"]["all"][system]
    other = finished.run("evaluate", "--system", system, "--split", "val")
    assert other.code == 2
    assert f"  train.epochs: 2 -> {finished.values['train']['epochs']}\n" in other.err


def test_controls_stand_beside(finished: Any) -> None:
    without = (*QUICK, "--set", "train.without=image")
    for before in (QUICK, without):
        assert finished.run("train", "--system", "elisa", before=before).code == 0
    done = finished.run("evaluate", "--system", "elisa", "--split", "val", "--controls", before=QUICK)
    assert done.code == 0, done.err
    rows = [line.split(" | ")[0] for line in done.out.splitlines()]
    for name in ("elisa", "elisa-shuffled-images", "elisa-shuffled-questions", "elisa-without-image", "largest mask"):
        assert f"| {name}" in rows
    assert "elisa was not trained without the question; to have that row: python cli.py --params " in done.err
    assert finished.run("evaluate", "--system", "elisa", "--split", "val", before=without).code == 0
    assert (finished.folder / "report/tiny/evaluate/elisa-without-image/val.md").is_file()


def test_usage_errors_name_the_choices(finished: Any) -> None:
    done = finished.run("evaluate", "--system", "elisa", "--split", "val", "--mode", "nothing")
    assert done.code == 2
    assert "--mode: found 'nothing', expected one of generated, teacher_forced" in done.err
    done = finished.run("evaluate", "--predictions", "theirs.jsonl", "--split", "val", "--controls")
    assert done.code == 2
    assert "found --mode or --controls with --predictions" in done.err
    for wrong, why in (
        (["--predictions", "theirs.jsonl", "--setting", "proposals+gt"], "found --setting with --predictions"),
        (["--system", "elisa", "--controls", "--setting", "proposals+gt"], "found --setting with --controls"),
        (["--system", "elisa", "--setting", "gt"], "--setting: found 'gt', expected one of proposals, proposals+gt"),
    ):
        done = finished.run("evaluate", "--split", "val", *wrong)
        assert (done.code, why in done.err) == (2, True), done.err
    done = finished.run("train", "--system", "lisa2")
    assert done.code == 2
    assert "--system: found 'lisa2', expected one of elisa, llmseg, lisa" in done.err
    assert finished.run("evaluate", "--split", "val").code == 2
    done = finished.run("train", "--system", "elisa", before=("--set", "train.llava=no/such-model"))
    assert done.code == 2
    assert "no/such-model" in done.err
    done = finished.run("train", "--system", "elisa", before=("--set", "train.image_encoder=clip_vit_l14"))
    assert done.code == 2
    assert "image_features/clip_vit_l14" in done.err


class StopAt(TrainerCallback):
    """Ctrl-C in the middle of an update."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize(("accumulation", "stop", "kept"), [(1, 3, 2), (1, 4, 4), (2, 3, 2)])
def test_a_stopped_run_ends_where_an_unbroken_one_does(
    finished: Any, tmp_path: Path, accumulation: int, stop: int, kept: int
) -> None:
    """Of five targets in batches of one: the last update of an epoch is of fewer batches where they are accumulated."""
    settings = load_settings(
        finished.params,
        [
            "train.epochs=2",
            "train.batch_size=1",
            f"train.accumulation={accumulation}",
            "train.save_steps=2",
            "train.elisa.adapter.dropout=0.2",
            "run.device=cpu",
        ],
    )
    split = open_split(settings.store_path, "tiny", "train", columns=sorted(columns(settings.train, "elisa")))
    weights = partial(locate, folder=ROOT / "data/weights", lock=settings.weights_lock)
    go = partial(train, settings.train, "elisa", {"train": split}, device="cpu", weights=weights)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    go(folder=whole)
    with pytest.raises(KeyboardInterrupt):
        go(folder=stopped, callbacks=[StopAt(stop)])
    found = held(stopped)
    assert found is not None
    assert (found.finished, found.step) == (False, kept)
    assert [path.name for path in (stopped / "checkpoints").glob("checkpoint-*")] == [f"checkpoint-{kept}"]
    assert not list(stopped.rglob("training_args.bin"))
    go(folder=stopped)
    found = held(stopped)
    assert found is not None
    assert found.finished
    left, right = load_file(whole / "trained.safetensors"), load_file(stopped / "trained.safetensors")
    assert left.keys() == right.keys()
    assert any("lora_" in name for name in left)
    assert all(bool((left[name] == right[name]).all()) for name in left)
    log, other = (json.loads((folder / "run.json").read_text()) for folder in (whole, stopped))
    assert log["digest"] == other["digest"]
    assert log["history"][-1]["step"] == other["history"][-1]["step"]
    steps = [
        line.partition("\t")[0] for line in (stopped / "curves/plots/metrics/loss.tsv").read_text().split("\n")[1:-1]
    ]
    assert steps == ["1", *(["10"] if accumulation == 1 else [])], "a step is logged twice, or none"


def test_a_question_with_a_control_token_is_named_and_stops_nothing_halfway(
    finished: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index breaks up those that it knows; a tokenizer may have others."""
    monkeypatch.setattr("stages.datasets.words.CONTROL", re.compile("(?!)"))
    path = finished.data / "train/cat.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "text": ["where?", "what is in this <image>?"]}))
    finished.build()
    for system in ("elisa", "llmseg", "lisa"):
        done = finished.run("train", "--system", system, before=QUICK)
        assert done.code == 2
        assert "train/cat (target cat/0): '<image>' in 'what is in this <image>?'" in done.err


def test_pictures_without_annotation_cannot_be_trained_on(finished: Any) -> None:
    for path in (finished.data / "train").glob("*.json"):
        path.unlink()
    finished.build()
    done = finished.run("train", "--system", "elisa", before=QUICK)
    assert done.code == 2
    assert "found 0 questions in tiny/train" in done.err
