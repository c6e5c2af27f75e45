"""``make check-gpu``: its parts with tiny models on the CPU and on a pretended card, command line, table and profile."""

from __future__ import annotations

import inspect
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import yaml

from pipeline.params_file import load_settings
from pipeline.scale import profiles as shipped
from pipeline.scale.amounts import Workload
from pipeline.scale.seconds import parts as plan
from stages.proposers.sam import first_use
from stages.weights import WEIGHTS
from tests.benchmarks.gpu import __main__ as check_gpu
from tests.benchmarks.gpu import report
from tests.benchmarks.gpu.part import Part
from tests.benchmarks.gpu.parts import BATCH_SIZE, CARD_GB, parts
from tests.benchmarks.gpu.run import ROOT
from tests.benchmarks.training import real_size
from tests.stages.pretendcard import pretend_card

PARTS = {part.name: part for part in parts()}
COMMAND = [sys.executable, "-m", "tests.benchmarks.gpu"]
ELSEWHERE = {"kernel", "page-locked batches"}
"""Parts that are not run in this process: the test of the command runs the first; the second needs a CUDA device."""
QUICK = [
    "demo, float16", "ViT-H, float32", "out of memory, injected", "out of memory, real", "whole images, float16",
    "training: weights", "training: store", "ELISA, from the store", "LISA, 4 bit, from the store",
    "ELISA, with the original's encoders in each step", "AlphaCLIP L/14 and pooling, float16", "networks, bfloat16",
    "batches, float16", "CUDA graph, float16", "an image of 4096 px",
]  # fmt: skip
"""One of each kind, in an order in which each finds what it needs."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gpu")


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    """Parts have processes of their own, and leave traces: other digests of weights, more threads."""
    published, threads = dict(WEIGHTS), torch.get_num_threads()
    yield
    WEIGHTS.update(published)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, Any]]:
    """Figures by part."""
    return {}


@pytest.mark.parametrize("name", QUICK)
def test_a_part_in_small(name: str, folder: Path, found: dict[str, dict[str, Any]]) -> None:
    """In this process: a command imports everything again for each part."""
    part = PARTS[name]
    assert part.tiny is not None
    earlier = {each: found[each] for each in part.after}
    figures = part.find(json.loads(json.dumps(part.tiny)), "cpu", str(folder), earlier)
    found[name] = json.loads(json.dumps(figures))
    assert set(figures) >= {figure for figure, goal in part.goals.items() if goal.everywhere}
    on_a_gpu = {"GPU busy, %", "measured, part of what is planned for these tokens"}
    assert set(part.goals) - set(figures) <= on_a_gpu
    table = report.markdown(document({name: figures}), [part])
    assert report.verdict(document({name: figures}), [part]) == report.HOLDS, table
    assert f"| {part.name}: {part.about} |" in table


def document(figures: dict[str, dict[str, Any]], rehearsal: bool = True, device: str = "a card") -> dict[str, Any]:
    records = {
        name: {
            "status": "ok",
            "ended": "2031-01-02 03:04:05",
            "timed": each.get("timed", []),
            "figures": {figure: value for figure, value in each.items() if figure not in ("made", "timed")},
        }
        for name, each in figures.items()
    }
    return {"rehearsal": rehearsal, "machine": {"device": device, "driver": "1"}, "parts": records}


@pytest.mark.parametrize(
    "name",
    [
        "demo, float32",
        "ViT-H, float32",
        "out of memory, injected",
        "AlphaCLIP L/14 and pooling, float16",
        "networks, float16",
    ],
)
def test_a_part_on_a_pretended_card(name: str, tmp_path: Path) -> None:
    """Nothing is on two devices at once; the pretended card has no 16 bit, and its kernel is the CPU's."""
    part = PARTS[name]
    task = {**(part.tiny or {}), "precision": "float32"}
    with mock.patch.object(first_use, "kernel_is_right", return_value=False), pretend_card() as card:
        figures = part.find(task, "cuda", str(tmp_path), {})
    assert sum(card.waits.values()) > 0
    for figure, goal in part.goals.items():
        assert goal.reached(figures[figure]) or not goal.everywhere, (figure, figures[figure])


def test_the_command_runs_parts_is_stopped_and_looks_for_no_gpu_before_it_forks(tmp_path: Path) -> None:
    """One process for all three: it imports everything that is imported before parts are forked."""
    guard = (
        "import os, sys, torch\n"
        "parent = os.getpid()\n"
        "for owner, name in ((torch.cuda, 'is_available'), (torch.cuda, 'device_count'), (torch.cuda, '_lazy_init'),\n"
        "                    (torch._C, '_cuda_getDeviceCount')):\n"
        "    def asks(*words, real=getattr(owner, name), name=name, **more):\n"
        "        assert os.getpid() != parent, f'the process that forks called {name}'\n"
        "        return real(*words, **more)\n"
        "    setattr(owner, name, asks)\n"
        "from tests.benchmarks.gpu.__main__ import main\n"
        "sys.exit(main())\n"
    )
    path = tmp_path / "found.json"
    words = ["--rehearse", "--only", "kernel", "demo, float32", "--json", str(path)]
    process = subprocess.Popen(
        [sys.executable, "-c", guard, *words], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if line.startswith("[2/2]"):
            process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == report.UNFINISHED, said
    assert f"stopped; what was measured is in {path}, and the same command goes on\n" in said
    records = json.loads(path.read_text())["parts"]
    assert set(records) == {"kernel"}
    assert records["kernel"]["figures"]["the small input as on the CPU"] is True
    assert records["kernel"]["arguments"] == json.loads(json.dumps(PARTS["kernel"].tiny))
    assert "stages/proposers/sam/kernels.py" in records["kernel"]["sources"]
    table = subprocess.run([*COMMAND, "--table", *words], cwd=ROOT, text=True, capture_output=True, check=False)
    assert table.returncode == report.UNFINISHED
    assert table.stdout.startswith(
        "**A rehearsal on the CPU with tiny models: no figure below says anything of a GPU.**"
    )
    assert "| largest difference of a box, px | 0 | at most 1 | yes |" not in table.stdout.splitlines()[0]
    assert "|  | largest difference of a box, px | 0 | at most 1 | yes |" in table.stdout.splitlines()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_what_was_found_and_what_to_type(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    done = subprocess.run([*COMMAND, "--json", str(path)], cwd=ROOT, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stdout, path.exists()) == (2, "", False)
    assert done.stderr.startswith("check-gpu: expected a CUDA device, but torch sees no GPU")
    assert done.stderr.endswith("make check-gpu GPU_OPTIONS=--rehearse\n")


def test_figures_of_another_card_are_not_mixed_with_these(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    path.write_text(json.dumps(document({}, rehearsal=False, device="NVIDIA H200")))
    check_gpu.same_machine(path, False, "NVIDIA H200")
    for rehearse, device in ((False, "NVIDIA L40"), (True, "NVIDIA H200")):
        with pytest.raises(ValueError, match="name another file with --json"):
            check_gpu.same_machine(path, rehearse, device)


def test_of_several_cards_the_one_in_the_table_has_to_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for card in ("H200", "L40"):
        measured = document({"training: weights": {"weights, GB": 9.0}}, rehearsal=False, device=card)
        (tmp_path / f"{card}.json").write_text(json.dumps(measured))
    monkeypatch.setattr(check_gpu, "FOLDER", tmp_path)
    words = ["check-gpu", "--table", "--only", "training: weights"]
    monkeypatch.setattr(sys, "argv", words)
    assert check_gpu.main() == check_gpu.USAGE
    assert f"--table: found H200.json and L40.json in {tmp_path}, expected one; name" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", [*words, "--json", str(tmp_path / "L40.json")])
    assert check_gpu.main() == 0
    assert capsys.readouterr().out.startswith("L40;")
    (tmp_path / "H200.json").unlink()
    monkeypatch.setattr(sys, "argv", words)
    assert check_gpu.main() == 0


def test_parts_are_chosen_by_the_beginning_of_their_names() -> None:
    every = parts()
    assert check_gpu.named(every, None) == every
    assert [part.name for part in check_gpu.named(every, ["vit-h", "kernel"])] == [
        "kernel", "ViT-H, float16", "ViT-H, bfloat16", "ViT-H, float32"
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"--only: found 'kernl' \(did you mean 'kernel'\?\); --list names the parts"):
        check_gpu.named(every, ["kernl"])
    assert check_gpu.listed(every).count("\n") == len(every)


def test_the_parts_fit_together() -> None:
    every, seen = parts(), set()
    assert real_size.BATCH_SIZE == BATCH_SIZE
    assert len({part.name for part in every}) == len(every)
    for part in every:
        assert seen.issuperset(part.after), part.name
        seen.add(part.name)
        assert part.seconds <= check_gpu.LIMIT_S / 2, "a slower card has to come to the end, too"
        assert part.function().__doc__
        assert (
            part.tiny is None
            or part.name in ELSEWHERE
            or kind(part) in {kind(PARTS[name]) for name in QUICK} | {"larger_llava"}
        )
        given = {"device", "folder", "earlier"} & set(inspect.signature(part.function()).parameters)
        for arguments in (part.real, part.tiny or part.real):
            inspect.signature(part.function()).bind(**arguments, **dict.fromkeys(given))
    assert sum(part.seconds for part in every) < 15 * 60 - 60, "all of them on an H200, with time to start"
    assert all(part.gpu_gb < CARD_GB for part in every if part.name != "an image of 8192 px")


def kind(part: Part) -> str:
    return part.does.rpartition(":")[2]


def test_the_page_of_results_has_the_table() -> None:
    """Either all of it says that nothing was measured, or it was pasted as the command printed it."""
    page = (ROOT / "docs/results.md").read_text("utf-8").partition("\n## On a GPU\n")[2].partition("\n## ")[0]
    lines = [line for line in page.splitlines() if line.startswith("|")]
    assert lines[0] == "| " + " | ".join(report.HEADER) + " |"
    if "Not yet measured on a GPU." in page:
        assert report.markdown({"rehearsal": False, "machine": {}, "parts": {}}, parts()) in page
    else:
        titles = [f"{part.name}: {part.about}" for part in parts()]
        assert [cells for line in lines[2:] if (cells := line.split("|")[1].strip())] == titles


def test_what_is_missing_from_a_measurement_is_no_goal_reached() -> None:
    part = PARTS["whole images, float16"]
    measured = document({part.name: {"images/s": 14.0}}, rehearsal=False)
    assert "| GPU busy, % | not found | at least 85, aim 95 | no |" in report.markdown(measured, [part])
    assert report.verdict(measured, [part]) == report.MISSED
    measured = document({part.name: {"images/s": 14.0, "GPU busy, %": 90.0}}, rehearsal=False)
    assert "| images/s | 14 | at least 8, aim 13 | yes, the aim too |" in report.markdown(measured, [part])
    assert report.verdict(measured, [part]) == report.HOLDS
    assert report.verdict(measured, parts()) == report.UNFINISHED


def test_what_was_timed_can_be_taken_over_as_it_is(
    found: dict[str, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The written lines go into the profiles, and ``extract --plan`` counts with them."""
    timed = [
        {"network": network, "precision": "float16", "per": per, "ms": 0.5}
        for network, per in (("sam_vit_h", "image"), ("sam_vit_h", "point"), ("dinov2_vitl14", "image"))
    ]
    measured = document({"networks, float16": {"timed": timed}}, rehearsal=False, device="NVIDIA H200")
    check_gpu.write_profile(measured, tmp_path / "found.json")
    lines = yaml.safe_load((tmp_path / "found.timed.yaml").read_text())
    assert lines[0]["source"] == "make check-gpu on NVIDIA H200, 2031-01-02"
    values = yaml.safe_load(shipped.FILE.read_text("utf-8"))
    changed = shipped.Profiles.model_validate({**values, "timed": [*values["timed"], *lines]})
    words = ["proposers.sam_vit_h.precision=float16", "embed.precision=float16"]
    settings = load_settings(ROOT / "params/reasonseg.yaml", words)
    work = Workload("reasonseg", 100, 480, 640, 75, 1, 1, 4)
    spent = {part.name: part for part in plan(settings, changed, "h200", work)}
    assert (spent["sam_vit_h, points"].kind, spent["sam_vit_h, points"].seconds) == ("measured", pytest.approx(0.512))
    assert spent["dinov2_vitl14, images"].kind == "measured"
    assert spent["alphaclip_vit_b16, masks"].kind == "derived"
    real = (
        {line["network"] for line in found["networks, bfloat16"]["timed"]} if "networks, bfloat16" in found else set()
    )
    assert real <= {"demo_sam", "demo_alphaclip", "demo_dinov2", "demo_clip"}


def test_every_network_of_the_real_params_is_timed() -> None:
    settings = load_settings(ROOT / "params/reasonseg.yaml")
    wanted = {*settings.embed.mask_encoders, *settings.embed.image_encoders} - {*settings.embed.sam_features}
    for precision in ("float16", "bfloat16"):
        real = PARTS[f"networks, {precision}"].real
        assert wanted <= set(real["encoders"])
        assert (real["called"],) == tuple(settings.embed.sam_features)


def test_every_command_line_of_the_docs_parses(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = [ROOT / "Makefile", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    texts = [check_gpu.EXAMPLES, *(path.read_text("utf-8") for path in pages)]
    lines = [line for text in texts for line in re.findall(r'make check-gpu GPU_OPTIONS=("[^"]+"|\S+)', text)]
    assert len(lines) >= 6
    for line in lines:
        words = subprocess.run(
            ["sh", "-c", f"printf '%s\\n' {line.strip(chr(34)).strip('`')}"], capture_output=True, text=True
        )
        monkeypatch.setattr(sys, "argv", ["check-gpu", *words.stdout.splitlines()])
        options = check_gpu.parse()
        check_gpu.named(parts(), options.only)


@pytest.mark.slow
def test_a_whole_rehearsal(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    done = subprocess.run(
        [*COMMAND, "--rehearse", "--json", str(path)],
        cwd=ROOT,
        text=True,
        capture_output=True,
        check=False,
        env={**os.environ},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    records = json.loads(path.read_text())["parts"]
    assert {name: each["status"] for name, each in records.items()} == {
        part.name: "skipped" if part.tiny is None else "ok" for part in parts()
    }
    assert all(
        each["arguments"] == json.loads(json.dumps(PARTS[name].tiny))
        for name, each in records.items()
        if PARTS[name].tiny
    )
