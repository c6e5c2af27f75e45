"""Dask's workers and scheduler gone, missing, of another checkout or store: said at once, never taken for success."""

from __future__ import annotations

import contextlib
import os
import pickle
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import pytest
from code_copy import copy_code
from distributed import Client, Future

from pipeline.config import ROOT, InputError
from pipeline.dask import remote
from pipeline.dask.executor import DaskExecutor
from pipeline.errors import INTERRUPTED, WorkersLostError, exit_code_of
from pipeline.params_file import load_settings
from pipeline.preflight import require_needs
from stages.names import SplitRef

pytestmark = pytest.mark.timeout(300)

CODE = ("cli.py", "weights.lock", "pipeline", "demo", "stages", "store")
Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts ``python -m dask ...`` in a folder; ends it after the test."""
    children: list[subprocess.Popen[bytes]] = []

    def run(*arguments: str, cwd: Path = ROOT) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1"}
        with (tmp_path / f"dask{len(children)}.log").open("wb") as log:
            command = [sys.executable, "-m", "dask", *arguments]
            child = subprocess.Popen(command, cwd=cwd, env=environment, stdout=log, stderr=log, start_new_session=True)
        children.append(child)
        return child

    yield run
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


@pytest.fixture
def nowhere(tmp_path: Path) -> Path:
    """A folder from which the project cannot be imported."""
    folder = tmp_path / "nowhere"
    folder.mkdir()
    return folder


def scheduler_in(start: Start, cwd: Path, tmp_path: Path) -> tuple[str, subprocess.Popen[bytes]]:
    """Address of a scheduler, and its process."""
    file = tmp_path / "scheduler.json"
    child = start(
        "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file), cwd=cwd
    )
    until(lambda: file.is_file() and file.stat().st_size > 0)
    with Client(scheduler_file=str(file), set_as_default=False) as client:
        return client.scheduler.address, child


def worker(start: Start, address: str, cwd: Path) -> subprocess.Popen[bytes]:
    return start("worker", address, "--nthreads", "1", "--no-dashboard", cwd=cwd)


def until(condition: Callable[[], Any], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_no_worker_and_a_worker_without_the_project_are_said_and_end_in_time(
    tiny: Any, start: Start, nowhere: Path, tmp_path: Path
) -> None:
    address, _ = scheduler_in(start, nowhere, tmp_path)
    tiny.configure(run__worker_timeout_s=1)
    done = tiny.run("index", "--split", "val", "--scheduler", address)
    assert done.code == INTERRUPTED
    assert f"no worker is connected to the Dask scheduler {address}; waiting for one, 1 s more" in done.err
    assert f"cd {ROOT} && python -m dask worker {address}" in done.err
    assert not tiny.commits()

    tiny.configure(run__worker_timeout_s=4)
    worker(start, address, nowhere)
    with Client(address, set_as_default=False) as client:
        client.wait_for_workers(1, timeout=60)
    done = tiny.run("index", "--split", "val", "--scheduler", address)
    assert done.code == INTERRUPTED
    assert "cannot load the project and gets no work: ModuleNotFoundError: No module named 'pipeline'" in done.err
    assert f"(in {nowhere} on " in done.err
    assert "1 cannot load the project) for" in done.err
    assert "(run.worker_timeout_s)" in done.err

    # And one as it is printed, on a scheduler that cannot import the project either.
    tiny.configure(run__worker_timeout_s=60)
    command = done.err.split("to start one: ")[1].split("; ")[0].strip()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    child = subprocess.Popen(
        ["bash", "-c", f"exec {command.partition(' && ')[2]}"],
        cwd=command.split()[1],
        env={**os.environ, "PATH": path},
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        done = tiny.run("index", "--split", "val", "--scheduler", address)
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    assert done.code == 0, done.err
    assert len(tiny.commits()) == 6


def test_a_worker_of_another_checkout_is_refused_with_both_values(tiny: Any, start: Start, tmp_path: Path) -> None:
    """Its store is another one though the params are the same: relative paths are those of a checkout."""
    address, _ = scheduler_in(start, ROOT, tmp_path)
    other = copy_code(CODE, tmp_path / "other")
    child = worker(start, address, other)
    store = os.path.relpath(tmp_path / "ours" / "store", ROOT)
    tiny.configure(store=store)
    done = tiny.run("index", "--split", "val", "--scheduler", address)
    assert done.code == 2
    assert f"started in {other}" in done.err
    assert f"store: found {other / store}" in done.err
    assert f"expected {ROOT / store}" in done.err
    assert not list(tmp_path.glob("**/*.parquet"))
    os.killpg(child.pid, signal.SIGKILL)

    # The same store, and another version of the code; then other digests of weights.
    tiny.configure()
    with (other / "store/errors.py").open("a") as file:
        file.write("# changed\n")
    with (other / "weights.lock").open("a") as file:
        file.write("\n")
    worker(start, address, other)
    done = tiny.run("index", "--split", "val", "--scheduler", address)
    assert done.code == 2
    assert "the code: found " in done.err
    assert "weights.lock: found " in done.err
    assert not tiny.commits()


def test_every_worker_is_asked_for_what_the_work_needs(tiny: Any, start: Start, tmp_path: Path) -> None:
    """Weights lie next to the code, so that one of two workers may lack them though both agree on everything else."""
    tiny.build("index --split val")
    address, _ = scheduler_in(start, ROOT, tmp_path)
    other = copy_code(CODE, tmp_path / "other")
    lacking = other / "demo/models/demo_sam.safetensors"
    kept = lacking.rename(tmp_path / "kept")
    worker(start, address, ROOT)
    lacks = worker(start, address, other)
    with Client(address, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=60)
    extract = ("extract", "--split", "val", "--stage", "masks", "--scheduler", address)
    done = tiny.run(*extract)
    assert done.code == 2, done.err
    assert "the Dask worker tcp://" in done.err
    assert f"started in {other}) lacks what the work here needs: " in done.err
    assert str(lacking) in done.err
    assert not any("masks" in name for name in tiny.commits())
    os.killpg(lacks.pid, signal.SIGKILL)

    # One that joins later is asked, too, and gets work when it has what it lacked.
    settings = load_settings(tiny.params, (), {"--scheduler": address, "--executor": "dask"})
    with contextlib.ExitStack() as stack:
        executor = DaskExecutor(settings, stack)
        require_needs(settings, ["masks/sam"], executor)
        worker(start, address, other)
        with pytest.raises(InputError, match=f"started in {other}\\) lacks what the work here needs"):
            list(executor.map(time.sleep, [0.2] * 200))
    shutil.copy(kept, lacking)
    with contextlib.ExitStack() as stack:
        executor = DaskExecutor(settings, stack)
        require_needs(settings, ["masks/sam"], executor)
        assert len(executor._connected().usable()) == 2


@pytest.mark.skipif(
    subprocess.run(["unshare", "-rmu", "true"], capture_output=True, check=False).returncode != 0,
    reason="needs namespaces of its own",
)
def test_a_worker_that_sees_another_folder_under_the_same_path_is_refused(
    tiny: Any, start: Start, nowhere: Path, tmp_path: Path
) -> None:
    """As on another machine, where the same path is not the same file system."""
    tiny.build("index --split val")
    address, _ = scheduler_in(start, nowhere, tmp_path)
    other = tmp_path / "another store"
    shutil.copytree(tiny.store, other)
    program = (
        f"hostname elsewhere && mount --bind {shlex.quote(str(other))} {shlex.quote(str(tiny.store))} && "
        f"exec {sys.executable} -m dask worker {address} --nthreads 1 --no-dashboard --no-nanny"
    )
    with (tmp_path / "elsewhere.log").open("wb") as log:
        child = subprocess.Popen(
            ["unshare", "-rmu", "bash", "-c", program], cwd=ROOT, stdout=log, stderr=log, start_new_session=True
        )
    try:
        done = tiny.run("extract", "--split", "val", "--stage", "masks", "--scheduler", address)
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    assert done.code == 2, done.err
    assert "on elsewhere, started in" in done.err
    assert f"store: found another {tiny.store} on elsewhere, without .tmp-" in done.err
    assert "expected the same folder on both" in done.err
    assert not any("masks" in name for name in tiny.commits())
    assert not list(tiny.store.glob(".tmp-*"))


def test_success_is_told_from_commits(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline import committed
    from pipeline.compute import compute_stage
    from pipeline.shard import ShardResult, run_shard

    class Liar:
        def map(self, function: Any, tasks: Any) -> Iterator[tuple[int, ShardResult]]:
            assert function is run_shard
            for number, task in enumerate(tasks):
                yield number, ShardResult(task.shard, task.count, dict.fromkeys(task.columns, "0" * 64))

    monkeypatch.setattr(committed, "SEEN_WITHIN_S", 0.1)
    settings = load_settings(tiny.params)
    with pytest.raises(
        InputError, match="committed shard 0 of tiny/images/val, but .*/tiny/images/val has no such shard"
    ):
        compute_stage(settings, "index", SplitRef("tiny", "val"), Liar())
    tiny.build("index --split val")
    tiny.configure(data__max_pixels=50_000)
    with pytest.raises(Exception, match="was committed by another writer meanwhile") as caught:
        compute_stage(load_settings(tiny.params), "index", SplitRef("tiny", "val"), Liar(), replace=True)
    assert exit_code_of(caught.value)[0] == INTERRUPTED


def test_a_scheduler_that_dies_is_no_internal_error(tiny: Any, start: Start, nowhere: Path, tmp_path: Path) -> None:
    address, child = scheduler_in(start, nowhere, tmp_path)
    worker(start, address, ROOT)

    def kill() -> None:
        time.sleep(1)
        child.kill()

    with contextlib.ExitStack() as stack:
        executor = DaskExecutor(load_settings(tiny.params, [f"run.scheduler={address}"]), stack)
        assert list(executor.map(len, ["ab"])) == [(0, 2)]
        threading.Thread(target=kill, daemon=True).start()
        with pytest.raises(WorkersLostError, match=f"the Dask scheduler {address} went away") as caught:
            list(executor.map(time.sleep, [300]))
    code, message = exit_code_of(caught.value)
    assert code == INTERRUPTED
    assert "run the same command again" in message


def test_lost_workers_cancelled_tasks_and_errors_are_raised_not_returned(
    tiny: Any, start: Start, nowhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.dask.executor._LOSSES", 0)
    address, _ = scheduler_in(start, nowhere, tmp_path)
    worker(start, address, ROOT)
    with contextlib.ExitStack() as stack:
        executor = DaskExecutor(load_settings(tiny.params, [f"run.scheduler={address}"]), stack)
        with pytest.raises(ValueError, match="invalid literal"):
            list(executor.map(int, ["x"]))

        # One that is busy for somebody else can be given work all the same.
        with Client(address, set_as_default=False) as other, contextlib.ExitStack() as inner:
            theirs = other.submit(time.sleep, 3)
            until(lambda: any(other.processing().values()))
            mine = DaskExecutor(
                load_settings(tiny.params, [f"run.scheduler={address}", "run.worker_timeout_s=2"]), inner
            )
            assert list(mine.map(len, ["ab"])) == [(0, 2)]
            assert theirs.status == "finished"

        def cancel() -> None:
            crew = executor._crew
            assert crew is not None
            until(lambda: [key for key in crew.client.futures if key.startswith("run-")])
            with Client(address, set_as_default=False) as other:
                other.cancel([Future(key, other) for key in crew.client.futures if key.startswith("run-")], force=True)

        threading.Thread(target=cancel, daemon=True).start()
        with pytest.raises(WorkersLostError, match="gave up a task"):
            list(executor.map(time.sleep, [5]))
        with pytest.raises(Exception) as caught:  # noqa: PT011
            list(executor.map(os._exit, [1]))
        code, message = exit_code_of(caught.value)
        assert code == INTERRUPTED, message
        assert "lost" in message


@pytest.mark.parametrize(
    "answer", [ValueError("no"), None, b"", pickle.dumps(ValueError("no")), pickle.dumps(("ok", 1))]
)
def test_an_exception_is_never_taken_for_a_result(answer: object) -> None:
    with pytest.raises((TypeError, EOFError)):
        remote.unpack(answer)


def test_every_error_of_ours_travels() -> None:
    from pipeline.errors import WorkersLostError
    from stages.checkpoints import WeightsError
    from stages.datasets.base import DatasetError
    from store import errors

    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    for kind in [*kinds, DatasetError, WeightsError, InputError, WorkersLostError]:

        def fail(task: str, kind: type[Exception] = kind) -> None:
            raise kind(task)

        sort, error = remote.unpack(remote.answer(fail, "it is so"))
        assert (sort, type(error)) == (remote.FAILED, kind)
        assert "it is so" in str(error)
        assert exit_code_of(error)[0] == exit_code_of(kind("it is so"))[0]

    class UnpicklableError(Exception):
        pass

    def fail_otherwise(task: str) -> None:
        raise UnpicklableError(task)

    _, error = remote.unpack(remote.answer(fail_otherwise, "of a kind"))
    assert str(error) == "UnpicklableError: of a kind"


def test_a_cluster_that_does_not_start_is_no_internal_error(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(**options: Any) -> None:
        raise RuntimeError("Cluster failed to start: a worker died")

    monkeypatch.setattr("distributed.LocalCluster", fails)
    done = tiny.run("index", "--split", "val", "--executor", "dask")
    assert done.code == INTERRUPTED
    assert "2 workers could not be started here: Cluster failed to start" in done.err


def slowly_named(_: int) -> int:
    """The process of the worker that ran it, after a while in which it may be killed."""
    time.sleep(0.3)
    return os.getpid()


def test_a_worker_that_dask_gives_up_is_started_again(tiny: Any) -> None:
    """Dask closes what restarts a worker if that takes longer than ``lost-worker-timeout``, 15 s, and never starts it again.

    Torch alone may take as long to import. With a timeout of 0 every crash is such a case.
    """
    settings = load_settings(tiny.params, ["run.workers=2", "run.device=cpu"])
    with dask.config.set({"distributed.deploy.lost-worker-timeout": "0s"}), contextlib.ExitStack() as stack:
        executor = DaskExecutor(settings, stack)
        before = set(dict(executor.map(slowly_named, [0] * 8)).values())
        assert len(before) == 2
        for process in before:
            os.kill(process, signal.SIGKILL)
        after: set[int] = set()
        until(lambda: after.update(dict(executor.map(slowly_named, [0] * 8)).values()) or len(after) == 2)
        assert not after & before
