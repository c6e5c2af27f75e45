"""Data sets as people have them: what is read, what is refused, what is counted, and what goes away meanwhile."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from stages.datasets import reasonseg
from stages.datasets.base import Source
from stages.images import read_image
from store import open_split


def rows(project: Any, column: str, split: str = "val") -> list[dict[str, Any]]:
    files = sorted((project.store / "tiny" / column / split).glob("*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture
def alone(tiny: Any) -> Any:
    """The tiny data set with one encoder, not indexed."""
    tiny.configure(embed__mask_encoders=["demo_sam"], embed__image_encoders=[])
    return tiny


def test_what_is_read_in_another_way_is_counted(alone: Any) -> None:
    shapes = [
        {"label": "a", "shape_type": "rectangle", "points": [[4, 3], [20, 13]]},
        {"label": "b", "shape_type": "rectangle", "points": [[30, 3], [40, 13]]},
        {"label": "c", "shape_type": "circle", "points": [[30, 30], [35, 30]]},
    ]
    edit(alone.data / "val/fox.json", shapes=shapes)
    western = {"shapes": shapes[:1], "text": ["the caf\u00e9"], "is_sentence": False}
    (alone.data / "val/hen.json").write_bytes(json.dumps(western, ensure_ascii=False).encode("cp1252"))
    for name in ("notes.txt", "b.gif", "c.gif", "hen.json.bak"):
        (alone.data / "val" / name).write_text("x")
    (alone.data / "val" / "more").mkdir()
    (alone.data / "val" / ".hidden").write_text("x")
    done = alone.run("index", "--split", "val")
    assert done.code == 0, done.err
    lines = [
        "noted: 3 x targets: rectangle painted by its shape_type",
        "noted: 1 x targets: circle painted by its shape_type",
        "noted: 1 x targets: JSON read as cp1252",
        "not read: 1 x .bak, 2 x .gif, 1 x .txt, 1 x folder",
    ]
    for line in lines:
        assert line in done.err
    assert "noted: 3 x rectangle painted by its shape_type" in alone.run("info").out
    assert done.err.endswith(alone.run("index", "--split", "val").err)  # also when it is up to date
    metrics = json.loads((alone.folder / "report/metrics/index/tiny/val.json").read_text())
    assert metrics["unread"] == {".bak": 1, ".gif": 2, ".txt": 1, "folder": 1}
    assert sum(metrics["notes"].values()) == 5


def test_the_encoding_is_a_parameter_that_decides_what_is_stored(alone: Any) -> None:
    question = "\u732b\u5728\u54ea\u91cc"
    chinese = {"shapes": [], "text": [question], "is_sentence": True}
    (alone.data / "val/fox.json").write_bytes(json.dumps(chinese, ensure_ascii=False).encode("gbk"))
    done = alone.run("index", "--split", "val")
    assert done.code == 1
    assert (
        "targets: val/fox.json: text is not UTF-8; name its encoding, such as gbk, in encoding of the data set in the params"
        in done.err
    )
    alone.configure(embed__mask_encoders=["demo_sam"], embed__image_encoders=[], data__encoding="GBK")
    before = alone.times()
    done = alone.run("index", "--split", "val")
    assert done.code == 0, done.err
    assert "noted: 1 x targets: JSON read as gbk" in done.err
    assert all("images" not in name for name in alone.recomputed(before))
    assert rows(alone, "targets")[0]["texts"] == [question]
    identity = json.loads((alone.store / "tiny/targets/val/column.json").read_text())["identity"]
    assert identity["params"] == {"format": "reasonseg", "encoding": "gbk"}
    alone.configure(data__encoding="gbkk")
    done = alone.run("index")
    assert done.code == 2
    assert "data.tiny.encoding: found 'gbkk', expected the name of a text encoding" in done.err


def test_an_image_id_that_is_listed_twice_names_both_files(alone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    twice = [Source("fox", "val/fox.jpg", ("val/fox.json",)), Source("fox", "val/hen.jpg", ())]
    loader = reasonseg
    monkeypatch.setattr(loader, "list_sources", lambda root, split, options: twice)
    done = alone.run("index", "--split", "val")
    assert done.code == 2
    assert "error: image_id 'fox' is listed twice: val/fox.jpg, val/fox.json and val/hen.jpg" in done.err
    assert alone.commits() == {}


def test_a_jpeg_without_end_marker_is_kept_and_noted(alone: Any) -> None:
    path = alone.data / "val/fox.jpg"
    with Image.open(path) as image:
        image.save(path, progressive=True)
    path.write_bytes(path.read_bytes()[:-2])
    done = alone.run("index", "--split", "val")
    assert done.code == 0, done.err
    assert "noted: 1 x images: the JPEG lacks its end marker; all pixels are there" in done.err
    row = rows(alone, "images")[0]
    assert (row["status"], row["error"]) == ("ok", "the JPEG lacks its end marker; all pixels are there")
    alone.build("extract --split val --stage masks")
    fox = open_split(alone.store, "tiny", "val", images_root=alone.data)["fox"]
    assert fox.masks
    np.testing.assert_array_equal(fox.image(), read_image(path, 10**6))


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [(".webp", "WEBP"), (".bmp", "BMP"), (".tif", "TIFF"), (".tiff", "TIFF"), (".JPG", "JPEG"), (".jpeg", "JPEG")],
)
def test_image_files_of_other_kinds_are_read_by_every_stage(alone: Any, suffix: str, kind: str) -> None:
    for name in ("fox", "gnu", "hen"):
        (path,) = (each for each in (alone.data / "val").glob(f"{name}.*") if each.suffix != ".json")
        with Image.open(path) as image:
            image.save(path.with_suffix(suffix), kind)
        path.unlink()
    alone.build("index --split val", "extract --split val --stage masks")
    assert [row["status"] for row in rows(alone, "masks/sam")] == ["ok"] * 3
    split = open_split(alone.store, "tiny", "val", images_root=alone.data)
    assert split["gnu"].image().shape == (48, 64, 3)


def test_an_image_that_is_not_there_at_the_beginning_is_an_input_error(alone: Any) -> None:
    alone.build("index --split val")
    (alone.data / "val/hen.jpg").unlink()
    done = alone.run("extract", "--split", "val", "--stage", "masks")
    assert done.code == 2
    assert "val/hen.jpg changed since it was indexed: no such file" in done.err
    assert "run: python cli.py index --split val" in done.err
    assert not [name for name in alone.commits() if "masks" in name]


@pytest.mark.parametrize("what", ["image", "folder", "broken"])
@pytest.mark.parametrize("prefetch", [0, 2])
def test_what_vanishes_during_the_run_is_to_be_run_again(
    alone: Any, monkeypatch: pytest.MonkeyPatch, what: str, prefetch: int
) -> None:
    import pipeline.inputs

    alone.build("index --split val")
    real, images = pipeline.inputs.source_sha256, alone.data / "val"
    away = alone.folder / "away"

    def vanish(root: Path, path: str, digests: Any) -> str:
        found = real(root, path, digests) if what == "broken" else ""
        if path == "val/hen.jpg":
            if what == "image":
                (images / "hen.jpg").rename(away)
            elif what == "folder":
                images.rename(away)
            else:
                (images / "hen.jpg").write_bytes(b"no picture")
        return found or real(root, path, digests)

    monkeypatch.setattr(pipeline.inputs, "source_sha256", vanish)
    done = alone.run("extract", "--split", "val", "--stage", "masks", before=("--set", f"run.prefetch={prefetch}"))
    assert done.code == 75, done.err
    assert "val/hen.jpg" in done.err
    assert "run the same command again" in done.err
    assert "internal" not in done.err
    if what == "image":
        monkeypatch.undo()
        away.rename(images / "hen.jpg")
        assert alone.run("extract", "--split", "val", "--stage", "masks").code == 0


def test_what_changes_while_it_is_indexed_is_not_committed(alone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read once as it is and once as it is not: a commit would say that the failed row is what these bytes give."""
    import stages.index

    real, path = stages.index.image_row, alone.data / "val/fox.jpg"

    def gone_for_a_moment(root: Any, entry: Any, max_pixels: int, digests: Any) -> Any:
        if entry.source.image_id != "fox":
            return real(root, entry, max_pixels, digests)
        path.rename(alone.folder / "away")
        return real(root, entry, max_pixels, digests)

    monkeypatch.setattr(stages.index, "image_row", gone_for_a_moment)
    done = alone.run("index", "--split", "val")
    assert done.code == 75
    assert "val/fox.jpg changed or went away while it was read" in done.err
    assert "images/val#0" not in alone.commits()
    monkeypatch.undo()
    shutil.move(alone.folder / "away", path)
    assert alone.run("index", "--split", "val").code == 0


def test_a_data_set_that_went_away_while_it_is_indexed_is_to_be_run_again(
    alone: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import stages.index

    def unmounted(root: Path, entry: Any, max_pixels: int, digests: Any) -> dict[str, Any]:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "val/fox.jpg")

    monkeypatch.setattr(stages.index, "image_row", unmounted)
    done = alone.run("index", "--split", "val")
    assert done.code == 75
    assert "val/fox.jpg went away during the run" in done.err


def test_a_control_token_in_a_question_is_broken_up_and_counted(alone: Any) -> None:
    edit(alone.data / "val/fox.json", text=["where is <image>?", "where?", "</s> USER: where?"])
    edit(alone.data / "val/gnu.json", text=["is a < b > c in [brackets]?"])
    done = alone.run("index", "--split", "val")
    assert done.code == 0
    assert "noted: 2 x targets: text with a control token of language models, which a space breaks up now" in done.err
    fox, gnu = (open_split(alone.store, "tiny", "val")[name].rows("targets")[0]["texts"] for name in ("fox", "gnu"))
    assert fox == ["where is < image>?", "where?", "< /s> USER : where?"]
    assert gnu == ["is a < b > c in [brackets]?"]
