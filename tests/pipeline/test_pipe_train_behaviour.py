"""How a training behaves: signals, progress without a terminal, what it needs before it begins, and the files it leaves."""

from __future__ import annotations

import json
import os
import re
import shlex
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

import stages.train.elisa.system
import stages.train.run
from pipeline.params_file import load_settings
from stages.train import callbacks
from stages.train.folder import held

SMALL = (
    *("--set", "train.epochs=1", "--set", "train.batch_size=3", "--set", "train.elisa.max_new_tokens=4"),
    *("--set", "train.llmseg.mask_encoder=demo_alphaclip"),
)


def runs(project: Any) -> Path:
    return Path(project.folder / "trained")


def test_every_file_has_the_mode_of_the_umask(finished: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    old = os.umask(0o027)
    try:
        small = (*SMALL, "--set", "train.batch_size=1")
        interrupted(monkeypatch, 1)
        words = ("train", "--system", "elisa")
        assert finished.run(*words, before=(*small, "--set", "train.save_steps=1")).code == 130
        assert list(runs(finished).rglob("checkpoint-1/trained.safetensors"))
        places = [*runs(finished).rglob("*")]
        monkeypatch.undo()
        assert finished.run(*words, before=small).code == 0
        assert finished.run("evaluate", "--system", "elisa", "--split", "val", before=small).code == 0
        assert finished.run("report", "--split", "val", before=small).code == 0
        places += [*runs(finished).rglob("*"), *(finished.folder / "report/tiny").rglob("*.html")]
        places += [
            *(finished.folder / "report/tiny/pictures").rglob("*"),
            *(finished.folder / "report/tiny/evaluate").rglob("*"),
        ]
        wrong = {
            str(path): oct(path.stat().st_mode)
            for path in places
            if path.exists() and stat.S_IMODE(path.stat().st_mode) != (0o750 if path.is_dir() else 0o640)
        }
    finally:
        os.umask(old)
    assert not wrong


class StopAt(TrainerCallback):
    """A signal in the middle of an update."""

    def __init__(self, step: int, error: type[BaseException] = KeyboardInterrupt) -> None:
        self.step, self.error = step, error

    def on_step_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        if state.global_step == self.step:
            raise self.error


def interrupted(monkeypatch: pytest.MonkeyPatch, step: int, error: type[BaseException] = KeyboardInterrupt) -> None:
    """The next trainings are stopped after ``step`` updates."""
    whole = stages.train.run.train
    monkeypatch.setattr(stages.train.run, "train", partial(whole, callbacks=[StopAt(step, error)]))


def test_a_stopped_training_says_what_is_kept(finished: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.errors import Terminated

    before = (*SMALL, "--set", "train.batch_size=1", "--set", "train.save_steps=2")
    for step, error, code, words in (
        (1, KeyboardInterrupt, 130, "stopped by Ctrl-C; nothing is kept yet; run the same command again"),
        (3, Terminated, 75, "stopped by SIGTERM; kept: step 2; run the same command again"),
        (4, torch.OutOfMemoryError, 75, "out of memory: "),
    ):
        with monkeypatch.context() as patch:
            interrupted(patch, step, error)
            done = finished.run("train", "--system", "elisa", before=before)
        assert done.code == code, done.err
        assert words in done.err
        assert "committed" not in done.err
    found = held(runs(finished) / "elisa")
    assert found is not None
    assert found.step == 4
    done = finished.run("train", "--system", "elisa", before=before)
    assert done.code == 0, done.err
    assert "train elisa: step 4 of 5" in done.err

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(stages.train.run, "predict", stop)
    done = finished.run("evaluate", "--system", "elisa", "--split", "val", before=before)
    assert done.code == 130
    assert "stopped by Ctrl-C; no answers are written" in done.err


def test_what_a_stopped_restart_says_to_type_goes_on(
    finished: Any, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (*SMALL, "--set", "train.batch_size=1", "--set", "train.save_steps=2")
    with monkeypatch.context() as patch:
        interrupted(patch, 3)
        assert finished.run("train", "--system", "elisa", before=before).code == 130
        done = finished.run("train", "--system", "elisa", "--restart", before=before)
    assert done.code == 130
    (typed,) = re.findall(r"kept: step 2; to go on: python cli\.py (.*)$", done.err, re.MULTILINE)
    done = cli(*shlex.split(typed))
    assert done.code == 0, done.err
    assert "train elisa: step 2 of 5" in done.err

    # Stopped before anything is moved aside: what is in the folder is another run's, or the whole one.
    monkeypatch.setattr(stages.train.run, "train", raises(KeyboardInterrupt))
    for more, option in ((("--set", "train.seed=9"), "--replace"), ((), "--restart")):
        done = finished.run("train", "--system", "elisa", option, before=(*before, *more))
        assert done.code == 130
        assert f"stopped by Ctrl-C; {runs(finished) / 'elisa'} is as it was; run the same command again" in done.err


def test_a_training_that_is_stopped_before_it_begins_says_so(finished: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.commands.train.held", raises(KeyboardInterrupt))
    done = finished.run("train", "--system", "elisa", before=SMALL)
    assert done.code == 130
    assert "stopped by Ctrl-C; nothing was changed; run the same command again" in done.err


def raises(error: type[BaseException]) -> Callable[..., Any]:
    def function(*_: Any, **__: Any) -> Any:
        raise error

    return function


def test_where_nobody_looks_there_is_a_line_a_minute(finished: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callbacks, "QUIET_SECONDS", 0.0)
    monkeypatch.setattr("stages.progress.QUIET_SECONDS", 0.0)
    done = finished.run("train", "--system", "elisa", before=(*SMALL, "--set", "train.batch_size=1"))
    assert done.code == 0, done.err
    assert "\r" not in done.out + done.err
    assert re.search(
        r"^train elisa: step 2 of 5, loss \d.*, learning rate \S+, \S+ steps/s, \d+ s left$", done.err, re.MULTILINE
    )
    assert "{" not in done.out
    done = finished.run(
        "evaluate", "--system", "elisa", "--split", "val", before=(*SMALL, "--set", "train.batch_size=1")
    )
    assert re.search(r"^answers: 3 of 3 questions, \S+ questions/s, 0 s left$", done.err, re.MULTILINE)
    assert re.search(r"^evaluate: 2 of 3 texts, \S+ texts/s, \d+ s left$", done.err, re.MULTILINE)
    assert "\r" not in done.err


@pytest.mark.parametrize("name", ["wandb", "tensorboard", "mlflow", "no-such-thing"])
def test_reporting_that_is_not_there_is_said_before_any_work(
    finished: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(*_: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(stages.train.elisa.system.Elisa, "build", loaded)
    done = finished.run("train", "--system", "elisa", before=(*SMALL, "--set", f"train.report_to=[{name}]"))
    assert done.code == 2, done.err
    assert f"train.report_to: found '{name}', expected some of" in done.err or f"{name} is not installed" in done.err
    assert not runs(finished).exists()


@pytest.mark.parametrize("change", ["train.optimizer=adam_w", "train.schedule=cosinus", "train.warmup_steps=3"])
def test_what_the_trainer_does_not_know(finished: Any, change: str) -> None:
    done = finished.run("train", "--system", "elisa", before=(*SMALL, "--set", "train.warmup=0.5", "--set", change))
    assert done.code == 2, done.err
    assert not runs(finished).exists()


def test_fewer_questions_than_a_batch(finished: Any) -> None:
    done = finished.run("train", "--system", "elisa", before=(*SMALL, "--set", "train.batch_size=64"))
    assert done.code == 0, done.err
    assert "fewer questions than train.batch_size 64: batches are of 5" in done.err
    for path in (finished.data / "train").glob("*.json"):
        path.write_text(json.dumps({"shapes": [], "text": [], "is_sentence": True}))
    finished.configure(run__max_failures=9)
    finished.build("index --split train", "extract --split train", "normalize")
    done = finished.run("train", "--system", "elisa", "--name", "none", before=SMALL)
    assert done.code == 2
    assert "found 0 questions in tiny/train whose image and columns are complete" in done.err


def test_of_two_gpus_one_is_used_and_it_is_said(
    finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    params = load_settings(finished.params).train
    arguments = stages.train.run.arguments_of(params, tmp_path, "cuda")
    assert arguments.n_gpu == 1
    assert arguments.train_batch_size == params.batch_size
    assert (
        "2 GPUs are there and the first is used; for all of them: torchrun --nproc-per-node 2"
        in capsys.readouterr().err
    )


def test_a_checkpoint_of_another_number_of_processes_is_not_gone_on_from(
    finished: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (*SMALL, "--set", "train.batch_size=1", "--set", "train.save_steps=2")
    with monkeypatch.context() as patch:
        interrupted(patch, 3)
        assert finished.run("train", "--system", "elisa", before=before).code == 130
    place = runs(finished) / "elisa/checkpoints/checkpoint-2/loader.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), "processes": 2}))
    done = finished.run("train", "--system", "elisa", before=before)
    assert done.code == 2
    typed = f"torchrun --nproc-per-node 2 cli.py --params {finished.params}"
    assert f"written by 2 processes, found 1; go on with as many: {typed}" in done.err
    assert place.is_file()
