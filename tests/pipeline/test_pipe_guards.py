"""The command line's words, exit codes and imports."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config import Settings
from pipeline.params_file import load_settings
from pipeline.params_yaml import NotYamlError, yaml_value

ROOT = Path(__file__).resolve().parents[2]
VERBS = (
    "demo",
    "index",
    "extract",
    "normalize",
    "runs",
    "compare",
    "figure",
    "info",
    "browse",
    "verify",
    "weights",
    "export",
)


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
    "arguments", [["--help"], ["info"], ["runs"], ["verify", "--deep", "--complete"]], ids=lambda value: value[0]
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
    assert "store.split" in found
    assert (
        found & {"torch", "dask", "distributed", "zarr", "pyarrow.parquet", "cv2", "pydantic", "typer", "PIL"} == set()
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("!!int x", "line 1: not YAML: found 'x', which is not a valid int"),
        ("!!bool x", "line 1: not YAML: found 'x', which is not a valid bool"),
        ("a: 1\nb: 2026-13-01", "line 2: not YAML: found '2026-13-01', which is not a valid timestamp"),
        ("{a: 1, [b]: 2}", "line 1: not YAML: found a list or a section in the place of a key"),
        ("[{a: [1", "such as [{a: [1]}]"),
        ("caf\udce9", "found '\\udce9', expected UTF-8"),
        ("{a: " * 3000 + "1" + "}" * 3000, "within each other"),
        ("!!python/object:os.system {}", "line 1: not YAML: could not determine a constructor"),
    ],
)
def test_whatever_yaml_raises_is_an_error_of_the_text(text: str, words: str) -> None:
    with pytest.raises(NotYamlError, match=re.escape(words)):
        yaml_value(text)


def test_unknown_and_missing_parameters(empty: Any, cli: Callable[..., Any]) -> None:
    empty.configure(colour="red", proposers__sam__points=3)
    done = empty.run("info")
    assert done.code == 2
    assert f"{empty.params}: 2 values are wrong" in done.err
    assert "colour: unknown parameter" in done.err
    assert "proposers.sam.points: unknown parameter; did you mean proposers.sam.points_per_side?" in done.err
    done = cli("--params", "nowhere.yaml", "info")
    assert (done.code, "name one with --params FILE" in done.err) == (2, True)


@pytest.mark.parametrize(
    "verb",
    [
        "index", "extract --dry-run", "normalize", "info", "verify", "weights", "report --split val --out {out}",
        "train --system nope", "evaluate --split val --predictions nope",
    ],
)  # fmt: skip
def test_set_params_and_debug_may_follow_the_verb(
    finished: Any, cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """Whatever the order, every verb gets the same."""
    seen: list[tuple[Any, ...]] = []
    real = load_settings

    def spy(path: Path, overrides: list[str], options: dict[str, str]) -> Settings:
        seen.append((path, tuple(overrides)))
        return real(path, overrides, options)

    monkeypatch.setattr("pipeline.params_file.load_settings", spy)
    words = verb.format(out=tmp_path / "out").split()
    extra = ("--set", "run.workers=3", "--set=run.threads=1")
    after = cli(*words, "--params", str(finished.params), *extra)
    before = cli("--params", str(finished.params), *extra, *words)
    assert (after.code, after.err) == (before.code, before.err)
    assert after.code == (2 if "nope" in verb else 0), after.err
    assert seen == [(finished.params, ("run.workers=3", "run.threads=1"))] * 2
    if after.code:
        with pytest.raises(Exception, match="nope"):
            cli(*words, "--params", str(finished.params), "--debug")


def test_a_parameter_that_has_a_default_can_be_set(finished_once: Any) -> None:
    assert "worker_timeout_s" not in finished_once.values["run"]
    assert finished_once.run("info", "--set", "run.worker_timeout_s=5").code == 0
    done = finished_once.run("info", "--set", "run.worker_timeout_s=-5")
    assert "run.worker_timeout_s: found -5, expected 0 or more" in done.err


@pytest.mark.parametrize(
    "command",
    [
        "extract --device cuda", "extract --set run.device=cuda", "extract --stage match --device cuda",
        "train --system elisa --device cuda", "evaluate --system elisa --split val --device cuda",
    ],
)  # fmt: skip
def test_a_missing_gpu_is_an_error_also_where_nothing_is_to_do(
    finished_once: Any, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    done = finished_once.run(*command.split())
    assert (done.code, done.out) == (2, "")
    assert "run.device: found cuda, but torch sees no GPU" in done.err
    assert "use --device cpu or --device auto" in done.err


def test_the_device_is_said_once_a_command_that_computes(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    tiny.configure(run__device="auto", embed__mask_encoders=["demo_sam"], embed__image_encoders=[])
    assert "device:" not in tiny.run("index", "--split", "val").err
    for again in (False, True):
        done = tiny.run("extract", "--split", "val", *(["--replace", "--set", "embed.max_masks=32"] if again else []))
        assert done.code == 0, done.err
        assert done.err.count("device: ") == 1
        assert "device: cpu, chosen by run.device auto (torch sees no GPU" in done.err
    assert "device:" not in tiny.run("extract", "--split", "val", "--set", "embed.max_masks=32").err  # nothing to do
    assert "device:" not in tiny.run("extract", "--split", "val", "--device", "cpu").err


def test_an_internal_error_is_70_and_debug_shows_it(finished_once: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import pipeline.commands.info

    def broken(*_: Any) -> None:
        raise ZeroDivisionError("that is ours")

    monkeypatch.setattr(pipeline.commands.info, "describe", broken)
    done = finished_once.run("info")
    assert done.code == 70
    assert done.err.startswith("internal error: ZeroDivisionError: that is ours; run again with --debug")
    with pytest.raises(ZeroDivisionError):
        finished_once.run("info", before=("--debug",))


@pytest.mark.parametrize(("number", "code"), [(28, 75), (5, 75)])
def test_a_failing_disk_is_75(finished_once: Any, monkeypatch: pytest.MonkeyPatch, number: int, code: int) -> None:
    import pipeline.commands.info

    def broken(*_: Any) -> None:
        raise OSError(number, "disk")

    monkeypatch.setattr(pipeline.commands.info, "describe", broken)
    done = finished_once.run("info")
    assert done.code == code
    assert "run the same command again" in done.err


def test_no_bar_where_no_terminal_is(tiny: Any) -> None:
    child = tiny.child("index")
    out, err = child.communicate(timeout=60)
    assert child.returncode == 0, err
    assert "\r" not in err
    assert "index tiny/val: 3 of 3 images" in err
    assert "index tiny/val: 2 of 2 shards computed" in out


def test_a_cuda_that_is_not_there(tiny: Any) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    tiny.build("index --split val")
    done = tiny.run("extract", "--split", "val", "--stage", "masks", "--device", "cuda")
    assert done.code == 2
    assert "use --device cpu or --device auto" in done.err


def test_weights_are_listed_with_what_the_params_need(finished_once: Any, tmp_path: Path) -> None:
    done = finished_once.run("weights", "--set", f"run.weights_dir={tmp_path}")
    lines = done.out.splitlines()
    header, rows = lines[0], lines[1 : lines.index("")]
    assert header.split("  ")[0] == "name"
    starts = [header.index(word) for word in ("needed by", "state", "size", "licence", "file", "published by")]
    assert all(row[start - 2 : start] == "  " and row[start] != " " for row in rows for start in starts)
    cells = {row.split()[0]: [row[a:b].strip() for a, b in itertools.pairwise(starts)] for row in rows}
    assert cells["demo_sam"][:2] == ["masks, embed, train", "here"]
    assert cells["sam_vit_h"][:3] == ["-", "missing", "2565 MB"]
    assert lines[-1] == "the params need 3 of them; not here: none"

    (tmp_path / "sam_vit_h_4b8939.pth").write_bytes(b"<html>")
    wanted = ("--set", "embed.mask_encoders=[alphaclip_vit_b16]", "--set", "proposers.sam.model=sam_vit_h")
    lines = finished_once.run("weights", "--set", f"run.weights_dir={tmp_path}", *wanted).out.splitlines()
    assert any(line.startswith("sam_vit_h ") and " masks  " in line and " wrong  " in line for line in lines)
    assert "not here: sam_vit_h, clip_vit_b16, alphaclip_vit_b16" in lines[-3]
    assert lines[-2] == "to fetch: python cli.py weights sam_vit_h clip_vit_b16"
    assert lines[-1].endswith("python cli.py weights alphaclip_vit_b16 --from FILE")


def test_a_page_is_not_adopted_in_place_of_weights(finished_once: Any, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<!DOCTYPE html><html>log in first</html>")
    lock = (ROOT / "weights.lock").read_bytes()
    for name, word in (("alphaclip_vit_b16", "nothing was kept"), ("sam_vit_h", "of the registry; nothing was kept")):
        arguments = ("weights", name, "--from", str(page), "--set", f"run.weights_dir={tmp_path / 'w'}")
        done = finished_once.run(*arguments)
        assert done.code == 2
        assert "an HTML page" in done.err
        assert word in done.err
        assert not list((tmp_path / "w").iterdir())
    assert (ROOT / "weights.lock").read_bytes() == lock
    assert finished_once.run("weights", "sam_vit_h", "--replace").code == 2
