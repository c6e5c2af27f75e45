"""Two machines: network namespaces with a cable between them. One has the scheduler and the command, both have a worker."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pipeline.config import ROOT
from store.storage.listing import files_below

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
SCHEDULER = "tcp://10.77.0.1:8786"


class Machine:
    """A network namespace."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.children: list[subprocess.Popen[str]] = []

    def start(self, *command: str, said: int = subprocess.PIPE) -> subprocess.Popen[str]:
        """A program on it. ``said``: where its output goes."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        whole = ["ip", "netns", "exec", self.name, *command]
        child = subprocess.Popen(
            whole, cwd=ROOT, env=environment, start_new_session=True, stdout=said, stderr=said, text=True
        )
        self.children.append(child)
        return child

    def dask(self, *arguments: str) -> None:
        self.start(sys.executable, "-m", "dask", *arguments, said=subprocess.DEVNULL)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@pytest.fixture
def machines() -> Iterator[tuple[Machine, Machine]]:
    tag = uuid.uuid4().hex[:6]
    left, right = Machine(f"left-{tag}"), Machine(f"right-{tag}")
    try:
        for machine in (left, right):
            ip("netns", "add", machine.name)
        ip("link", "add", f"l{tag}", "netns", left.name, "type", "veth", "peer", "name", f"r{tag}", "netns", right.name)
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", "") or error
        pytest.skip(f"no network namespaces here: {said}")
    for machine, end, address in ((left, f"l{tag}", "10.77.0.1/24"), (right, f"r{tag}", "10.77.0.2/24")):
        ip("-n", machine.name, "addr", "add", address, "dev", end)
        for device in ("lo", end):
            ip("-n", machine.name, "link", "set", device, "up")
    yield left, right
    for machine in (left, right):
        for child in machine.children:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        ip("netns", "del", machine.name)


def cable(machine: Machine, state: str) -> None:
    """Pull it out (down), or put it in (up)."""
    ip("-n", machine.name, "link", "set", f"{machine.name[0]}{machine.name.partition('-')[2]}", state)


def workers(left: Machine, right: Machine) -> None:
    left.dask("scheduler", "--host", "10.77.0.1", "--port", "8786", "--no-dashboard")
    for machine, host in ((left, "10.77.0.1"), (right, "10.77.0.2")):
        machine.dask("worker", SCHEDULER, "--host", host, "--nworkers", "1", "--nthreads", "1", "--no-dashboard")


def shards(project: Any) -> dict[str, bytes]:
    found = (path for path in files_below(project.store) if path.suffix == ".parquet" or "c" in path.parts)
    return {path.relative_to(project.store).as_posix(): path.read_bytes() for path in found}


def command(machine: Machine, project: Any, *arguments: str) -> subprocess.Popen[str]:
    return machine.start(
        sys.executable, "cli.py", "--params", str(project.params), *arguments, "--scheduler", SCHEDULER
    )


def until(condition: Callable[[], Any], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_both_compute_one_store(finished: Any, machines: tuple[Machine, Machine]) -> None:
    left, right = machines
    expected = shards(finished)
    shutil.rmtree(finished.store / "tiny" / "masks")
    workers(left, right)
    child = command(left, finished, "extract", "--stage", "masks")
    said = child.communicate()
    assert child.returncode == 0, said
    assert shards(finished) == expected


def test_a_cable_that_is_pulled_out_stops_nothing(finished: Any, machines: tuple[Machine, Machine]) -> None:
    """The other machine's worker is out of reach in the middle of the work: the one that is left does it all."""
    left, right = machines
    expected = shards(finished)
    shutil.rmtree(finished.store / "tiny" / "masks")
    workers(left, right)
    child = command(left, finished, "extract", "--stage", "masks")
    until(lambda: child.poll() is not None or any("masks" in name for name in shards(finished)))
    cable(right, "down")
    said = child.communicate()
    assert child.returncode in (0, 75), said
    cable(right, "up")
    again = command(left, finished, "extract", "--stage", "masks")
    said = again.communicate()
    assert again.returncode == 0, said
    assert shards(finished) == expected
