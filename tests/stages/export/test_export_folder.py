"""The folder of an export: refused, begun, continued, finished; the same bytes each time; names that lead nowhere else."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.export import FORMATS, ExportError, format_of
from stages.export.content import Asked, Note
from stages.export.folder import BEGUN, DONE, begun
from stages.export.names import file_name
from stages.export.write import write_export
from stages.images import ImageFailure
from store.storage.files import TEMPORARY

HOW = {"labelme": ("targets",)}


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def how(to: str) -> dict[str, Any]:
    whats = HOW.get(to, ("masks", "instances", "targets", "predictions"))
    return {"whats": whats, "encoders": ("x",) if FORMATS[to].vectors else ()}


@pytest.mark.parametrize("to", FORMATS)
def test_a_stopped_export_goes_on_and_has_the_same_bytes(to: str, contents: Callable[..., Any], tmp_path: Path) -> None:
    form = replace(FORMATS[to], unit_images=2)
    needs = [need for what in how(to)["whats"] for need in form.needs.get(what, ())]
    what = contents(needs=needs, pictures=form.pictures[0], **how(to))
    whole = write_export(form, what, tmp_path / "whole", {"export": to})
    seen: list[int] = []

    def stopped(asked: Any, items: Any, number: int) -> Any:
        if len(seen) == 3:
            raise KeyboardInterrupt
        seen.append(number)
        return form.unit(asked, items, number)

    folder = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        write_export(replace(form, unit=stopped), what, folder, {"export": to})
    assert (folder / BEGUN).read_text().count("\n") == 4
    with (folder / BEGUN).open("a") as file:
        file.write('{"counts": {"ima')  # a kill in the middle of a line
    (folder / f"{TEMPORARY}left").write_bytes(b"")
    counted = replace(form, unit=lambda asked, items, number: (seen.append(number), form.unit(asked, items, number))[1])
    again = write_export(counted, what, folder, {"export": to})
    assert seen == [0, 1, 2, 3, 4, 5], "each run of images once"
    assert again == whole
    (folder / f"{TEMPORARY}left").unlink(missing_ok=True)  # just made: its writer may be about to begin
    assert files(folder) == files(tmp_path / "whole")
    assert json.loads((folder / DONE).read_text())["counts"]["images"] == 11


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ({"mine.txt": "mine"}, "holds mine.txt; expected a folder that is empty"),
        ({DONE: "{}"}, "holds a finished export"),
        ({BEGUN: '{"export": "png"}\n'}, "an unfinished export of something else (export)"),
        ({BEGUN: "no JSON\n"}, "an unfinished export of something else (it cannot be read)"),
        ({BEGUN: "[1]"}, "cannot be read"),
    ],
)
def test_a_folder_with_something_else_is_refused(tmp_path: Path, there: dict[str, str], said: str) -> None:
    for name, text in there.items():
        (tmp_path / name).write_text(text)
    before = files(tmp_path)
    with pytest.raises(ExportError, match=said.replace("(", r"\(").replace(")", r"\)")):
        with begun(tmp_path, {"export": "coco"}):
            pytest.fail("begun")
    assert files(tmp_path) == before


def test_only_one_process_writes(tmp_path: Path) -> None:
    with begun(tmp_path / "out", {}):
        with pytest.raises(ExportError, match="another process is at work"):
            with begun(tmp_path / "out", {}):
                pytest.fail("begun twice")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="is a file, expected a folder"):
        with begun(tmp_path / "file", {}):
            pytest.fail("begun")


def test_an_unknown_format_names_the_choices() -> None:
    with pytest.raises(
        ExportError, match=r"found 'cocoo', expected one of coco, labelme, .* \(did you mean 'coco'\?\)"
    ):
        format_of("cocoo")


def test_what_the_format_cannot_hold_is_not_counted(contents: Callable[..., Any], tmp_path: Path) -> None:
    def unit(asked: Asked, items: Any, number: int) -> Any:
        made = FORMATS["coco"].unit(asked, items, number)
        first, second = (next(item for item in items if len(item.targets) == n) for n in (2, 1))
        made.left_out = [Note(first.image_id, "targets", "no"), Note(second.image_id, "image", "never")]
        made.left_out += [Note(second.image_id, "targets", "no")]
        return made

    what = contents(("targets",))
    form = replace(FORMATS["coco"], unit=unit)
    summary = write_export(form, what, tmp_path, {})
    asked = sum(len(record.targets) for record in what.opened)
    assert summary.counts == {"images": 10, "pictures": 0, "targets": asked - 2}


HOSTILE = ["../up", "/etc/passwd", "a/../../b", "..", ".", ".hidden", "a\0b", "a\nb", "CON\\x", "", "n" * 300, "%2F/x"]


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("image_id", HOSTILE, ids=ascii)
def test_names_from_the_data_stay_in_the_folder(to: str, image_id: str, item: Any, tmp_path: Path) -> None:
    form = FORMATS[to]
    what = "masks"
    asked = Asked("d", "val", (what,), 1, "copy", "sam")
    picture = type("Picture", (), {"data": b"pixels", "path": tmp_path})()
    made = form.unit(asked, [item(image_id, [np.eye(4, 6, dtype=bool)], path="x.jpg", picture=picture)], 0)
    root = (tmp_path / "out").resolve()
    for name in (*made.files, *made.links):
        assert (root / name).resolve().is_relative_to(root)
        assert "\0" not in name
        assert not {"", ".", ".."} & set(name.split("/"))
    assert made.files or [note.image_id for note in made.left_out] == [image_id]


@given(st.lists(st.text(max_size=12), unique=True, max_size=20))
def test_different_images_have_different_names(image_ids: list[str]) -> None:
    names = []
    for image_id in image_ids:
        try:
            names.append(file_name(image_id))
        except (ImageFailure, UnicodeEncodeError):
            continue
    assert len(set(names)) == len(names)
    assert all("/" not in name and not name.startswith(".") for name in names)
