"""A mistyped store, data set or split is an error that says what there is; an address is no folder."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from store.storage import mounts

ADDRESSES = ("s4://bucket/store", "file:///data/store", "https://example.org/store")


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("command", [("index",), ("info",), ("verify",)], ids=lambda words: words[0])
def test_a_store_at_an_address_is_refused(tiny: Any, address: str, command: tuple[str, ...]) -> None:
    done = tiny.run(*command, before=("--set", f"store={address}"))
    assert (done.code, f"found the address '{address}', expected a folder" in done.err) == (2, True), done.err
    assert not Path(address.split("/")[0]).exists()


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("az://bucket/store", "Account must be specified"),
    ],
)
def test_a_bucket_without_credentials(tiny: Any, monkeypatch: pytest.MonkeyPatch, address: str, said: str) -> None:
    for name in [name for name in os.environ if name.startswith(("AWS_", "AZURE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")  # nobody is there
    monkeypatch.setattr("store.storage.remote._RETRIES", {"max_retries": 0})
    mounts._of_scheme.cache_clear()
    done = tiny.run("info", before=("--set", f"store={address}"))
    mounts._of_scheme.cache_clear()
    assert (done.code, said in done.err, address.rpartition("/")[0] in done.err) == (2, True, True), done.err


def test_folders_of_other_sections_are_no_addresses_either(tiny: Any) -> None:
    for name in ("data.tiny.root", "run.weights_dir", "run.report_dir", "run.train_dir"):
        done = tiny.run("info", before=("--set", f"{name}=s3://bucket/x"))
        assert (done.code, f"{name}: found the address" in done.err) == (2, True), done.err


MISTYPED = {
    "store": (lambda project: ("--set", f"store={project.folder / 'stroe'}"), "there is no folder"),
    "data set": (
        lambda project: ("--set", "data={tyni: {format: reasonseg, images: tyni, root: d, splits: [train, val]}}"),
        "holds tiny (train, val)",
    ),
    "split": (
        lambda project: ("--set", "data.tiny.splits=[train,val,tset]"),
        "the data set tiny has the splits train, val",
    ),
}


@pytest.mark.parametrize("name", MISTYPED)
def test_extract_and_verify_say_what_there_is(finished: Any, name: str) -> None:
    options, words = MISTYPED[name]
    before = options(finished)
    split = ("--split", "tset") if name == "split" else ()
    for command in (("extract", *split), ("verify", "--deep", *split), ("verify", "--repair", *split)):
        done = finished.run(*command, before=before)
        assert done.code == 2, done.out
        assert words in done.err, command
    folders = sorted(path.name for path in finished.folder.iterdir() if path.is_dir())
    # The cache is there only if files had settled when their digests were taken.
    assert [name for name in folders if name != "cache"] == ["data", "report", "store"]


def test_info_of_a_new_store_is_none(tiny: Any) -> None:
    done = tiny.run("info")
    assert done.code == 0
    assert "split tiny/train is not indexed; run: python cli.py index --split train" in done.out


def test_a_split_that_is_not_there_is_named_next_to_those_that_are(finished: Any) -> None:
    done = finished.run("verify", before=("--set", "data.tiny.splits=[train,val,test]"))
    assert done.code == 0
    assert "not there: tiny/test" in done.out


@pytest.mark.parametrize("number", [errno.EACCES, errno.ESTALE, errno.EIO])
@pytest.mark.parametrize("command", ["verify", "info", "extract"])
def test_a_folder_that_cannot_be_listed_is_an_error(
    finished: Any, monkeypatch: pytest.MonkeyPatch, command: str, number: int
) -> None:
    real = os.scandir

    def scandir(path: Any = ".") -> Any:
        if Path(path) == finished.store / "tiny/masks/sam/val":
            raise OSError(number, os.strerror(number), str(path))
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", scandir)
        done = finished.run(command, *(["--deep"] if command == "verify" else []))
    assert done.code == (2 if number == errno.EACCES else 75), done.out
    assert "tiny/masks/sam/val" in done.err
