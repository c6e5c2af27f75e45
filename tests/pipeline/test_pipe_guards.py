"""The command line's words, exit codes and imports."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
VERBS = ("demo", "index", "extract", "normalize", "info", "verify", "weights")


def modules_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(chr(10).join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True)
    return set(done.stdout.splitlines())


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(cli: Callable[..., Any], verb: str) -> None:
    done = cli(verb, "--help")
    assert done.code == 0
    assert re.search(rf"python cli\.py {verb}", done.out), done.out


def test_help_lists_the_verbs_and_the_exit_codes(cli: Callable[..., Any]) -> None:
    done = cli("--help")
    assert done.code == 0
    assert all(re.search(rf"^\W*{verb}\b", done.out, re.M) for verb in VERBS)
    words = " ".join(done.out.replace("│", " ").split())
    for code in ("0 done", "4 damaged store", "75 interrupted", "130 Ctrl-C"):
        assert code in words
    assert cli().code == 2
    assert "Usage" in cli().out + cli().err


@pytest.mark.parametrize(
    "arguments", [["--help"], ["info"], ["verify", "--deep", "--complete"]], ids=lambda value: value[0]
)
def test_light_verbs_import_no_torch(finished_once: Any, arguments: list[str]) -> None:
    argv = ["cli.py", "--params", str(finished_once.params), *arguments]
    found = modules_after(f"sys.argv = {argv!r}\nimport cli\nassert cli.main() == 0")
    heavy = {"torch", "zarr", "dask", "distributed", "transformers", "open_clip", "segment_anything", "matplotlib"}
    assert "typer" in found
    assert found & heavy == set()
    if arguments == ["--help"]:
        assert not {"pyarrow.parquet", "cv2", "pandas"} & found


def test_the_store_is_light() -> None:
    found = modules_after("import store")
    assert "store.reader" in found
    assert (
        found & {"torch", "dask", "distributed", "zarr", "pyarrow.parquet", "cv2", "pydantic", "typer", "PIL"} == set()
    )


BAD = {
    "unknown verb": (["paint"], "No such command 'paint'"),
    "unknown option": (["index", "--splits", "val"], "No such option"),
    "unknown split": (["index", "--split", "nope"], "--split: found 'nope', expected one of train, val"),
    "unknown stage": (["extract", "--stage", "paint"], "--stage: found 'paint', expected masks, embed or match"),
    "unknown encoder": (["extract", "--encoder", "nope"], "--encoder: nope not in section embed of the params"),
    "limit of zero": (["extract", "--limit", "0"], "--limit"),
    "executor": (["index", "--executor", "ray"], "run.executor"),
    "device": (["extract", "--device", "tpu"], "run.device"),
    "set without value": (["--set", "masks.max_masks", "info"], "expected key=value"),
    "set of an unknown key": (["--set", "masks.point=3", "info"], "no parameter 'masks.point'"),
    "set of an unknown section": (["--set", "nope.point=3", "info"], "no parameter 'nope.point'"),
    "set to no YAML": (["--set", "masks.max_masks=[", "info"], "expected a value in YAML"),
    "set to a wrong type": (["--set", "masks.max_masks=many", "info"], "masks.max_masks"),
    "set out of range": (["--set", "masks.pred_iou_thresh=1.5", "info"], "less than or equal to 1"),
    "not a multiple": (["--set", "masks.max_masks=17", "info"], "expected a multiple of 16"),
    "features with crops": (["--set", "masks.crop_n_layers=1", "info"], "set masks.save_features to false"),
    "unknown model": (["--set", "masks.model=sam_vit_x", "info"], "unknown SAM model 'sam_vit_x'; choose one of"),
    "unknown mask encoder": (["--set", "embed.mask_encoders=[x]", "info"], "unknown mask encoder 'x'; choose one of"),
    "image encoder for masks": (
        ["--set", "embed.mask_encoders=[demo_clip]", "info"],
        "unknown mask encoder 'demo_clip'",
    ),
    "a name that is a path": (["--set", "dataset=../up", "info"], "dataset"),
    "no splits": (["--set", "splits=[]", "info"], "splits"),
    "unknown weights": (["weights", "nope"], "unknown weights 'nope'; choose one of"),
    "from without name": (["weights", "--from", "FILE"], "python cli.py weights NAME --from FILE"),
}


@pytest.mark.parametrize("name", BAD)
def test_errors_say_what_was_expected(finished_once: Any, name: str) -> None:
    arguments, words = BAD[name]
    done = finished_once.run(*arguments)
    assert done.code == 2, done.out + done.err
    assert words in done.err
    assert "Traceback" not in done.out + done.err
    assert done.out == ""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("masks: [", "not YAML"),
        ("- a\n- b\n", "found list, expected sections and keys"),
        ("", "found NoneType"),
        ("store: a\nstore: b\n", "the key 'store' stands twice"),
        ("masks:\n  model: a\n  model: b\n", "the key 'model' stands twice"),
        ("store: data/store\n", "masks: Field required"),
        ("store: !!python/object:os.system {}\n", "not YAML"),
        (b"store: \xff\n", "not YAML in UTF-8"),
    ],
)
def test_bad_params_files(cli: Callable[..., Any], tmp_path: Path, text: str | bytes, words: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    done = cli("--params", str(path), "info")
    assert (done.code, words in done.err) == (2, True), done.err
    assert "Traceback" not in done.err


def test_unknown_and_missing_parameters(empty: Any, cli: Callable[..., Any]) -> None:
    empty.configure(colour="red", masks__points=3)
    done = empty.run("info")
    assert done.code == 2
    assert "2 value(s) are wrong" in done.err
    assert "colour: Extra inputs are not permitted" in done.err
    assert "masks.points: Extra inputs are not permitted" in done.err
    done = cli("--params", "nowhere.yaml", "info")
    assert (done.code, "name one with --params FILE" in done.err) == (2, True)


def test_an_internal_error_is_70_and_debug_shows_it(finished_once: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import pipeline.info

    def broken(*_: Any) -> None:
        raise ZeroDivisionError("that is ours")

    monkeypatch.setattr(pipeline.info, "describe", broken)
    done = finished_once.run("info")
    assert done.code == 70
    assert done.err.startswith("internal error: ZeroDivisionError: that is ours; run again with --debug")
    with pytest.raises(ZeroDivisionError):
        finished_once.run("info", before=("--debug",))


@pytest.mark.parametrize(("number", "code"), [(28, 75), (5, 75)])
def test_a_failing_disk_is_75(finished_once: Any, monkeypatch: pytest.MonkeyPatch, number: int, code: int) -> None:
    import pipeline.info

    def broken(*_: Any) -> None:
        raise OSError(number, "disk")

    monkeypatch.setattr(pipeline.info, "describe", broken)
    done = finished_once.run("info")
    assert done.code == code
    assert "run the same command again" in done.err


def test_no_bar_where_no_terminal_is(tiny: Any) -> None:
    child = tiny.child("index")
    out, err = child.communicate(timeout=60)
    assert child.returncode == 0, err
    assert "\r" not in err
    assert "index val: 3 of 3 images" in err
    assert "index val: 2 of 2 shards computed" in out


def test_a_cuda_that_is_not_there(tiny: Any) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    tiny.build("index --split val")
    done = tiny.run("extract", "--split", "val", "--stage", "masks", "--device", "cuda")
    assert done.code == 2
    assert "use --device cpu or --device auto" in done.err
