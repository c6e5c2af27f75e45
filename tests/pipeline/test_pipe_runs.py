"""A run has a name and is known again; another one of that name replaces nothing by itself, and what messages say to type works."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config import InputError
from pipeline.params_file import load_settings
from pipeline.runs import resolve
from stages.evaluate import read
from stages.train.folder import claim
from store.storage.files import file_sha256

SMALL = (
    *("--set", "train.epochs=1", "--set", "train.batch_size=3", "--set", "train.elisa.max_new_tokens=4"),
    *("--set", "train.llmseg.mask_encoder=demo_alphaclip"),
)


@pytest.fixture(scope="module")
def trained_once(finished_once: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A project with a finished run ``elisa``. Read only."""
    project = finished_once.copy(tmp_path_factory.mktemp("trained"))
    done = project.run("train", "--system", "elisa", before=SMALL)
    assert done.code == 0, done.err
    return project


@pytest.fixture
def trained(trained_once: Any, tmp_path: Path) -> Any:
    return trained_once.copy(tmp_path)


def runs(project: Any) -> Path:
    return project.folder / "trained"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def commands(text: str) -> list[list[str]]:
    """What a message says to type, each without ``python cli.py``."""
    found = re.findall(r"python cli\.py (.*?)(?: measures it| trains again|; |$)", text, re.MULTILINE)
    return [shlex.split(line) for line in found]


def test_another_run_of_the_same_name_is_refused_and_what_it_says_works(
    trained: Any, cli: Callable[..., Any], capsys: Any
) -> None:
    before = contents(runs(trained) / "elisa")
    digest = json.loads(before["run.json"])["digest"]
    done = trained.run(
        "train", "--system", "elisa", before=(*SMALL, "--set", "train.seed=1", "--set", "train.clip=2.0")
    )
    assert done.code == 2
    assert "holds a finished run " + digest[:12] in done.err
    assert "  train.seed: 0 -> 1\n" in done.err
    assert "  train.clip: 1.0 -> 2.0\n" in done.err
    assert done.err.count(" -> ") == 2
    assert contents(runs(trained) / "elisa") == before
    renamed, replace = commands(done.err)
    assert renamed[-4:] == ["--system", "elisa", "--name", "elisa-2"]
    done = cli(*renamed)
    assert done.code == 0, done.err
    assert contents(runs(trained) / "elisa") == before
    assert json.loads((runs(trained) / "elisa-2/run.json").read_text())["params"]["seed"] == 1
    (measure,) = commands(done.out)
    measured = cli(*measure)
    assert measured.code == 0, measured.err
    assert "# elisa-2 on tiny, val" in measured.out
    done = cli(*replace)
    assert done.code == 0, done.err
    assert contents(runs(trained) / f"elisa-{digest[:12]}") == before
    assert json.loads((runs(trained) / "elisa/run.json").read_text())["params"]["seed"] == 1
    # What was moved aside is still a run, under its new name.
    words = ("evaluate", "--name", f"elisa-{digest[:12]}", "--split", "val")
    assert trained.run(*words, before=SMALL).code == 0


def test_restart_keeps_the_same_run_too(trained: Any) -> None:
    before = contents(runs(trained) / "elisa")
    for number in ("", "-2"):
        done = trained.run("train", "--system", "elisa", "--restart", before=SMALL)
        assert done.code == 0, done.err
        (moved,) = [
            path
            for path in runs(trained).iterdir()
            if path.name.endswith(f"{json.loads(before['run.json'])['digest'][:12]}{number}")
        ]
        assert str(moved) in done.err
    assert contents(runs(trained) / "elisa")["trained.safetensors"] == before["trained.safetensors"]
    assert len(list(runs(trained).iterdir())) == 3


def test_answering_parameters_belong_to_the_predictions(trained: Any) -> None:
    before = contents(runs(trained) / "elisa")
    for value in (1, 2):
        done = trained.run(
            "evaluate",
            "--system",
            "elisa",
            "--split",
            "val",
            "--json",
            before=(*SMALL, "--set", f"train.elisa.beams={value}"),
        )
        assert done.json()["answering"]["elisa.beams"] == value
        meta, _ = read(runs(trained) / "elisa/predictions/tiny/val.parquet")
        assert json.loads(meta.answering)["elisa.beams"] == value
        assert meta.run == json.loads(before["run.json"])["digest"]
        assert set(json.loads(meta.columns)) >= {
            f"tiny/{name}/val" for name in ("images", "targets", "masks/sam", "image_features/demo_clip")
        }
    assert (
        "trained with these parameters"
        in trained.run("train", "--system", "elisa", before=(*SMALL, "--set", "train.elisa.repeats=true")).out
    )
    after = contents(runs(trained) / "elisa")
    assert {name: data for name, data in after.items() if "predictions" not in name} == before


def test_evaluate_names_what_differs_and_how_to_ask_the_run_as_it_was_trained(
    trained: Any, cli: Callable[..., Any]
) -> None:
    other = (
        *SMALL,
        "--set",
        "train.seed=7",
        "--set",
        "train.elisa.align={epochs: 1, learning_rate: 0.1, temperature: 1.0}",
    )
    done = trained.run("evaluate", "--system", "elisa", "--split", "val", before=other)
    assert done.code == 2
    assert "  train.seed: 0 -> 7\n" in done.err
    assert '  train.elisa.align: null -> {"epochs": 1' in done.err
    as_trained, train = commands(done.err)
    assert train[-1] == "--replace"
    assert cli(*as_trained).code == 0
    done = trained.run("evaluate", "--system", "lisa", "--split", "val", before=SMALL)
    assert done.code == 2
    assert "lisa is not trained; run: python cli.py --params " in done.err


def test_an_unfinished_run_is_not_forgotten(trained: Any, cli: Callable[..., Any]) -> None:
    folder = runs(trained) / "elisa"
    about = json.loads((folder / "run.json").read_text())
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    claim(folder, {name: about[name] for name in ("system", "version", "params", "llava", "columns")}, aside=False)
    whole, half = (folder / f"checkpoints/checkpoint-{step}" for step in (4, 6))
    whole.mkdir()
    half.mkdir()  # was being written when the run was stopped
    (whole / "loader.json").write_text("{}")
    before = contents(folder)
    other = (*SMALL, "--set", "train.seed=1")
    done = trained.run("train", "--system", "elisa", before=other)
    assert done.code == 2
    assert "holds an unfinished run (kept: step 4)" in done.err
    go_on = commands(done.err)[-1]
    assert go_on[-5:] == ["--set", "train.seed=0", "train", "--system", "elisa"]
    done = trained.run("evaluate", "--system", "elisa", "--split", "val", before=SMALL)
    assert done.code == 2
    assert "holds an unfinished run (kept: step 4)" in done.err
    assert "to go on: python cli.py" in done.err
    assert contents(folder) == before
    assert trained.run("train", "--system", "elisa", "--replace", before=other).code == 0
    (moved,) = [path for path in runs(trained).iterdir() if path != folder]
    assert contents(moved) == before


def test_files_without_a_record_are_not_overwritten(trained: Any) -> None:
    (runs(trained) / "elisa/run.json").write_text('{"cut')
    before = contents(runs(trained) / "elisa")
    for verb in (("train",), ("evaluate", "--split", "val")):
        done = trained.run(*verb, "--system", "elisa", before=SMALL)
        assert done.code == 2
        assert "files of a run without a record of its parameters" in done.err
    assert contents(runs(trained) / "elisa") == before
    assert trained.run("train", "--system", "elisa", "--replace", before=SMALL).code == 0
    assert contents(runs(trained) / "elisa-unknown") == before


def test_a_section_of_runs(finished: Any) -> None:
    finished.configure(
        runs={"long": {"system": "elisa", "seed": 3, "elisa": {"top_k": 9}}, "elisa": {"system": "elisa", "clip": 0.5}}
    )
    settings = load_settings(finished.params)
    run = resolve(settings, None, "long")
    assert (run.system, run.params.seed, run.params.elisa.top_k) == ("elisa", 3, 9)
    assert run.params.elisa.beams == settings.train.elisa.beams
    assert run.params.clip == settings.train.clip
    assert resolve(settings, "elisa", None).params.clip == 0.5
    assert resolve(settings, "lisa", None).params == settings.train
    done = finished.run("train", "--name", "long", before=(*SMALL, "--set", "runs.long.seed=4"))
    assert done.code == 0, done.err
    assert json.loads((runs(finished) / "long/run.json").read_text())["params"]["seed"] == 4
    done = finished.run("evaluate", "--name", "long", "--split", "val", before=SMALL)
    assert done.code == 2
    assert "  train.seed: 4 -> 3" in done.err
    asked = next(words for words in commands(done.err) if "evaluate" in words)
    assert finished.run(*asked[2:]).code == 0
    done = finished.run("train", "--name", "long", "--system", "lisa")
    assert done.code == 2
    assert "the run long is of elisa" in done.err


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"a": {"seed": 1}}, "runs.a.system: found nothing, expected one of elisa, llmseg, lisa"),
        ({"lisa": {"system": "elisa"}}, "runs.lisa.system: found elisa, expected lisa"),
        ({"a": {"system": "elisa", "epochs": 0}}, "runs.a.epochs: found 0, expected 1 or more"),
        (
            {"a": {"system": "elisa", "elisa": {"topk": 3}}},
            "runs.a.elisa.topk: unknown parameter; did you mean elisa.top_k?",
        ),
    ],
)
def test_what_is_wrong_in_a_run_is_named(empty: Any, given: Any, words: str) -> None:
    empty.configure(runs=given)
    with pytest.raises(InputError, match=re.escape(words)):
        load_settings(empty.params)


@pytest.mark.parametrize(
    ("system", "name", "words"),
    [
        (None, None, "expected --system"),
        (None, "mine", "name its system: --system"),
        ("lisa", "elisa", "the run elisa is of elisa"),
        ("elisa", "../mine", "expected letters, digits"),
        ("elisa", "a/b", "expected letters, digits"),
        ("elisa", ".hidden", "expected letters, digits"),
        ("elisa", "mine-teacher_forced", "expected a name without -teacher_forced at its end"),
        ("elisa", "mine-shuffled-images", "expected a name without -shuffled-images at its end"),
        ("elisa", "elisa-without-image", "found 'elisa-without-image', the name of a control"),
        (None, "elisa-without-question", "--set train.without=question"),
    ],
)
def test_names(empty: Any, system: str | None, name: str | None, words: str) -> None:
    with pytest.raises(InputError, match=re.escape(words)):
        resolve(load_settings(empty.params), system, name)


def test_a_run_keeps_the_parameters_with_which_it_was_trained(trained: Any) -> None:
    about = yaml.safe_load((runs(trained) / "elisa/run.json").read_text())
    assert about["name"] == "elisa"
    assert len(about["digest"]) == 64
    assert about["params"]["elisa"]["max_new_tokens"] == 4
    assert about["params"]["adam_betas"] == [0.9, 0.999]


def test_a_run_begins_with_the_weights_of_another(trained: Any) -> None:
    from safetensors.numpy import load_file

    before = contents(runs(trained) / "elisa")
    slow = [*SMALL, "--set", "train.max_steps=1"]
    slow += [word for rate in ("", "lora_") for word in ("--set", f"train.elisa.{rate}learning_rate=1e-12")]
    done = trained.run("train", "--system", "elisa", "--name", "elisa-ft", "--from", "elisa", before=tuple(slow))
    assert done.code == 0, done.err
    one, other = (load_file(runs(trained) / name / "trained.safetensors") for name in ("elisa", "elisa-ft"))
    assert all(abs(one[name] - other[name]).max() < 1e-6 for name in one)
    record = json.loads((runs(trained) / "elisa-ft/run.json").read_text())
    assert record["params"]["start"] == "elisa"
    assert record["start"] == file_sha256(runs(trained) / "elisa/trained.safetensors")
    assert contents(runs(trained) / "elisa") == before
    again = trained.run("train", "--system", "elisa", "--name", "elisa-ft", "--from", "elisa", before=tuple(slow))
    assert "trained with these parameters on these data already" in again.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--name", "elisa", "--from", "elisa"], "the run itself; expected another one"),
        (["--name", "x", "--from", "elsa"], "found 'elsa', which is not a finished run in"),
        (
            ["--name", "own", "--from", "lisa"],
            "runs.own of the params begins with elisa (its own start); change it there",
        ),
    ],
)
def test_a_run_to_begin_with_has_to_be_there(trained_once: Any, words: list[str], said: str) -> None:
    own = ("--set", "runs.own.system=elisa", "--set", "runs.own.start=elisa")
    done = trained_once.run("train", "--system", "elisa", *words, before=[*SMALL, *own])
    assert done.code == 2
    assert said in done.err
