"""A GPU that fails under a worker: its work goes to the others, a new process tries it once more, and then it is left out."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
from lost_card import SAID, work

from pipeline.dask.executor import DaskExecutor
from pipeline.errors import INTERNAL, INTERRUPTED, WorkersLostError, exit_code_of, lost_card
from pipeline.params_file import load_settings

pytestmark = pytest.mark.timeout(200)


def run(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, fails: dict[str, int], count: int = 12, **options: Any
) -> list[tuple[int, str]]:
    """Tasks on two workers, each with a card of its own."""
    monkeypatch.setattr("pipeline.dask.executor.visible_cards", lambda: ("0", "1"))
    folder: Path = tiny.folder / "failures"
    folder.mkdir()
    changes = {"run.workers": 2, "run.device": "auto", **options}
    with contextlib.ExitStack() as stack:
        executor = DaskExecutor(load_settings(tiny.params, [f"{key}={value}" for key, value in changes.items()]), stack)
        return [found for _, found in executor.map(work, [(folder, fails, number) for number in range(count)])]


def test_it_is_tried_once_more_in_a_new_process(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    found = run(tiny, monkeypatch, {"1": 1})
    assert sorted(number for number, _ in found) == list(range(12))
    said = capfd.readouterr().err
    assert said.count(f"failed ({SAID}); its work goes to the others, and the card is tried once more") == 1
    assert "left out" not in said


@pytest.mark.slow
def test_it_is_left_out_when_it_fails_again(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """There is work for long enough that the new process gets some."""
    found = run(tiny, monkeypatch, {"1": 99}, count=80)
    assert {card for _, card in found} == {"0"}
    said = capfd.readouterr().err
    assert (said.count("tried once more"), said.count("and the card is left out")) == (1, 1)
    assert len(list((tiny.folder / "failures").iterdir())) == 2


@pytest.mark.slow
def test_where_all_fail_the_run_ends_and_says_why(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WorkersLostError) as caught:
        run(tiny, monkeypatch, {"0": 99, "1": 99}, **{"run.worker_timeout_s": 3})
    assert exit_code_of(caught.value)[0] == INTERRUPTED


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nCompile with ..."), INTERRUPTED),
        (RuntimeError("CUDA error: unspecified launch failure"), INTERRUPTED),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), INTERRUPTED),
        (RuntimeError("CUDA error: no kernel image is available for execution on the device"), INTERNAL),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), INTERNAL),
        (RuntimeError("The size of tensor a must match"), INTERNAL),
    ],
)
def test_in_one_process_it_is_said_and_the_command_can_be_run_again(error: Exception, code: int) -> None:
    found, message = exit_code_of(error)
    assert found == code
    assert (lost_card(error) is not None) == (code == INTERRUPTED)
    if code == INTERRUPTED:
        assert message.startswith(f"the GPU failed: {str(error).partition(chr(10))[0]}; ")
        assert "run the same command again" in message
        assert lost_card(ValueError("of an image")) is None
        wrapped = ValueError("while a batch was computed")
        wrapped.__cause__ = error
        assert lost_card(wrapped) == lost_card(error)
