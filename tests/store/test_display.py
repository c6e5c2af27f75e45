"""What a notebook shows of a split, a record, a slice and a mask, what they print elsewhere, and pictures with outlines."""

from __future__ import annotations

import base64
import hashlib
import io
import pickle
import re
import subprocess
import sys
from copy import copy
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from borrowers import lent_store
from factory import full_store, write_table
from PIL import Image

from store import FailedImageError, Split, StoreError, open_split, rle
from store.format.schema import OK
from store.outlines import colour_of

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>\u202e$\\href{javascript:alert(3)}{x}$"
NAME = "<img src=x onerror=alert(4)>&quot;.png"
TAGS = {"div", "p", "b", "bdi", "figure", "figcaption", "img", "table", "thead", "tbody", "tr", "th", "td"}


class Read(HTMLParser):
    """Tags, attributes and text of a page, as a browser understands it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attributes

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def pictures(self) -> list[Image.Image]:
        sources = [value or "" for name, value in self.attributes if name == "src"]
        assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
        return [Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) for source in sources]


def shown(value: Any) -> Read:
    """What a notebook gets of a value: harmless and bounded, whatever the data say."""
    page = value._repr_html_()
    assert len(page) < 1_000_000
    found = Read(page)
    assert found.tags <= TAGS
    assert {name for name, _ in found.attributes} <= {"class", "style", "src", "alt", "width", "height"}
    return found


def make(folder: Path, pixels: list[np.ndarray | None], masks: list[np.ndarray], texts: list[str]) -> Path:
    """A data set ``d/val`` with a file of each picture below ``data`` (None: the image failed), and its store below ``store``.

    Every image has the same masks, of two proposers and as instances, and the same questions.
    """
    (folder / "data").mkdir()
    rows = []
    for k, picture in enumerate(pixels):
        path = f"{k}{NAME}"
        row = {
            "image_index": k,
            "image_id": f"{k}{HOSTILE}",
            "path": path,
            "sha256": "0" * 64,
            "status": OK,
            "error": None,
        }
        size = {"height_px": 0, "width_px": 0}
        if picture is None:
            row |= {"status": "failed", "error": HOSTILE * 100}
        else:
            Image.fromarray(picture).save(folder / "data" / path)
            row["sha256"] = hashlib.sha256((folder / "data" / path).read_bytes()).hexdigest()
            size = {"height_px": picture.shape[0], "width_px": picture.shape[1]}
        rows.append({**row, **size})
    store = folder / "store"
    status = [row["status"] for row in rows]
    errors = {k: row["error"] for k, row in enumerate(rows) if row["error"]}
    images = write_table(store, "d/images/val", [[row] for row in rows], {}, len(rows), errors)
    failed, how = {k: "no pixels" for k in errors}, {"shard_images": len(rows), "upstream": {"images": images}}
    counts = [rle.encode(mask) for mask in masks]
    regions = {"segmentation": counts, "area": [int(mask.sum()) for mask in masks]}
    regions["bbox"] = [list(rle.bbox(found, len(mask))) for found, mask in zip(counts, masks, strict=True)]
    empty = {name: [] for name in regions}

    def of_images(name: str, **more: list[Any]) -> None:
        own = [
            [{"image_index": k, "status": status[k], "error": failed.get(k), **(empty if k in failed else regions)}
             | {field: [] if k in failed else values for field, values in more.items()}]
            for k in range(len(rows))
        ]  # fmt: skip
        write_table(store, f"d/{name}/val", own, failed=failed, **how)

    scores = [0.5] * len(masks)
    for proposer in ("sam", "sparse"):
        points, boxes = [[1.0, 2.0]] * len(masks), [[0, 0, 6, 4]] * len(masks)
        more = {"predicted_iou": scores, "stability_score": scores, "point_coords": points, "crop_box": boxes}
        of_images(f"masks/{proposer}", **more)
    of_images("instances", label=[HOSTILE] * len(masks))
    asked = [
        {"target_id": f"{number}", "texts": [text, "another wording"], "is_sentence": True, "kind": HOSTILE,
         "instances": [0], "segmentation": counts[0], "ignore": counts[-1], "answer": None}
        for number, text in enumerate(texts)
    ]  # fmt: skip
    targets = [[] if k in failed else [{**target, "image_index": k} for target in asked] for k in range(len(rows))]
    write_table(store, "d/targets/val", targets, failed=failed, **how)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images of 60 x 80 px, the last one failed; a rectangle, and a smaller one with a hole."""
    pixels = np.full((60, 80, 3), 200, np.uint8)
    masks = [np.zeros((60, 80), bool) for _ in range(2)]
    masks[0][10:30, 20:50] = True
    masks[1][35:55, 5:25] = True
    masks[1][40:50, 10:20] = False
    return make(tmp_path_factory.mktemp("display"), [pixels, pixels, None], masks, [HOSTILE])


def opened(made: Path, **how: Any) -> Split:
    return open_split(made / "store", "d", "val", **{"images_root": made / "data", **how})


def test_names_and_texts_are_shown_and_do_nothing(made: Path) -> None:
    split = opened(made)
    for value in (split, split[:3], split[0], split[2], split[0].instances[0]):
        assert "alert(1)" in shown(value).text
        assert "mathjax_ignore" in value._repr_html_()
    assert f"{HOSTILE} (and 1 other wordings)" in shown(split[0]).text
    assert f"0{NAME}, 80 x 60 px" in shown(split[0]).text


def test_a_split_shows_its_columns_and_its_first_images(made: Path) -> None:
    found = shown(opened(made))
    assert found.text.startswith("d/val: 3 images")
    assert re.search(r"masks/sparsetable21 failed", found.text)
    assert [picture.size for picture in found.pictures] == [(160, 120)] * 2, "the failed one has none"
    assert shown(opened(made, images_root=None)).pictures == []


def test_a_record_shows_the_masks_of_each_proposer_and_the_instances(made: Path) -> None:
    found = shown(opened(made)[0])
    assert [picture.size for picture in found.pictures] == [(320, 240)] * 3
    assert all(f"{name}: 2" in found.text for name in ("masks/sam", "masks/sparse", "instances"))
    chosen = shown(opened(made).of_proposer("sparse")[0])
    assert len(chosen.pictures) == 2
    assert "masks/sam: " not in chosen.text
    failed = shown(opened(made)[2])
    assert failed.pictures == []
    assert "masks/sam: image 2: no pixels" in failed.text


def test_a_mask_shows_its_outline_and_its_fields(made: Path) -> None:
    mask = opened(made, proposer="sam")[0].masks[1]
    found = shown(mask)
    assert found.text.startswith("masks/sam 1 of d/val, image 0")
    assert "bbox[5, 35, 20, 20]" in found.text
    assert np.array_equal(
        np.asarray(found.pictures[0]), np.asarray(_as_jpeg(opened(made)[0].show("masks/sam", [1], side_px=384)))
    )
    assert shown(pickle.loads(pickle.dumps(mask))).pictures == []


def _as_jpeg(picture: Image.Image) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
    return Image.open(file)


def test_lines_run_along_the_borders_of_masks_and_nowhere_else(made: Path) -> None:
    record = opened(made, proposer="sam")[1]
    picture = np.asarray(record.show(side_px=240))  # three times as large
    assert picture.shape == (180, 240, 3)
    for number, borders in enumerate(
        [[(30, 90), (90, 90), (60, 60), (60, 150)], [(105, 30), (165, 30), (120, 45), (150, 45)]]
    ):
        for y, x in borders:
            near = picture[y - 1 : y + 2, x - 1 : x + 2].reshape(-1, 3)
            assert (near == colour_of(number)).all(axis=1).any(), (number, y, x)
    far = np.ones(picture.shape[:2], bool)
    far[25:95, 55:155] = far[100:170, 10:80] = False
    assert (picture[far] == 200).all()
    assert (picture[95:98, 160:200] == 200).all()


def test_show_draws_what_is_asked_for(made: Path) -> None:
    record = opened(made)[0]
    with pytest.raises(StoreError, match="masks: there are masks/sam, masks/sparse; name one of them"):
        record.show()
    one = np.asarray(record.show("masks/sam", [1]))
    assert (one == colour_of(1)).all(axis=2).any()
    assert not (one == colour_of(0)).all(axis=2).any()
    assert np.array_equal(one, np.asarray(record.show("instances", np.array([1]))))
    assert (np.asarray(record.show("targets")) == colour_of(0)).all(axis=2).any()
    plain = np.asarray(opened(made, columns="images")[0].show(side_px=80))
    assert np.array_equal(plain, record.image())
    gray = np.asarray(opened(made, images_root=None, columns="instances")[0].show())
    assert gray.shape == (240, 320, 3)
    assert (gray == colour_of(0)).all(axis=2).any()
    assert (gray[0, 0] == 119).all()


def test_what_cannot_be_shown_is_named(made: Path) -> None:
    split = opened(made)
    with pytest.raises(IndexError, match=r"masks/sam: mask 2 is outside 0\.\.1 of image 0"):
        split[0].show("masks/sam", [2])
    with pytest.raises(IndexError, match="mask -1 is outside"):
        split[0].show("instances", [-1])
    with pytest.raises(
        ValueError, match="images has no masks to draw, expected masks, masks/<proposer>, instances or targets"
    ):
        split[0].show("images")
    with pytest.raises(KeyError, match="no column 'mask'; did you mean 'masks'"):
        split[0].show("mask")
    with pytest.raises(ValueError, match="found side_px=0, expected a whole number"):
        split[0].show("instances", side_px=0)
    with pytest.raises(FailedImageError, match="image 2: "):
        split[2].show("instances")


def test_a_picture_that_is_not_there_is_no_reason_to_show_nothing(made: Path, tmp_path: Path) -> None:
    found = shown(opened(made, images_root=tmp_path)[0])
    assert found.pictures == []
    assert "holds no such file" in found.text
    assert "masks/sam: 2" in found.text
    (tmp_path / f"0{NAME}").write_bytes(b"another file")
    assert "is not the file that was indexed" in shown(opened(made, images_root=tmp_path)[0]).text


def test_without_pillow_there_are_words_alone(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    split = opened(made)
    assert "pictures need Pillow; type: pip install pillow" in shown(split[0]).text
    with pytest.raises(StoreError, match="pip install pillow"):
        split[0].show("instances")


def test_large_pictures_are_reduced_and_long_lists_are_cut(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (450, 650, 3), np.uint8)
    masks = [rng.random((450, 650)) < 0.5, *(np.zeros((450, 650), bool) for _ in range(99))]
    for number, mask in enumerate(masks[1:]):
        mask[number : number + 300 : 20, number : number + 500] = True
    split = opened(make(tmp_path, [noise], masks, [f"{k} {'long ' * 2000}" for k in range(50)]), proposer="sam")
    found = shown(split[0])
    assert [max(picture.size) for picture in found.pictures] == [384, 384]
    assert "masks/sam: the first 64 of 100" in found.text
    assert "... and 10 more" in found.text
    assert len(found.text) < 40 * 300
    assert split[0].show(side_px=500).size == (500, 346)
    assert len(repr(split[0].masks)) < 30_000
    assert len(repr(split[0].targets)) < 30_000


def test_of_many_images_some_are_shown(tmp_path: Path) -> None:
    mask = np.zeros((60, 80), bool)
    split = opened(make(tmp_path, [np.zeros((60, 80, 3), np.uint8)] * 14, [mask], ["where?"]), proposer="sam")
    assert len(shown(split[:]).pictures) == 12
    assert "... and 2 more" in shown(split[:]).text
    assert len(shown(split[:12]).pictures) == 12
    assert "more" not in shown(split[:12]).text


def test_what_is_printed_is_short_and_names_what_it_is(made: Path) -> None:
    split = opened(made, proposer="sam")
    assert repr(split) == "Split(d/val, 3 images, 4 columns: images, instances, masks/sam, targets)"
    assert repr(split[0].masks[1]) == (
        "Region(masks/sam 1, 80x60 px, bbox=[5, 35, 20, 20], area=300, predicted_iou=0.5, stability_score=0.5, "
        "point_coords=[1, 2], crop_box=[0, 0, 6, 4])"
    )
    (target,) = split[0].targets
    assert dict(target) == split[0].rows("targets")[0]
    assert repr(target).startswith("Target(targets 0, 80x60 px, target_id='0', ")
    assert repr(target).endswith("segmentation=<600 px>, ignore=<300 px>)")
    assert "instances=[0]" in repr(target)
    assert target["segmentation"] not in repr(target)
    assert len(repr(split[2])) < 500
    assert "\n" not in repr(split[2])


def test_a_copied_region_leaves_the_split_behind(made: Path) -> None:
    mask = opened(made, proposer="sam")[0].masks[0]
    data = pickle.dumps(mask)
    assert len(data) < 1000
    assert pickle.loads(data) == mask == copy(mask)
    assert pickle.loads(data).origin is None
    assert pickle.loads(data).decode().sum() == 600


def test_an_unfinished_split_and_a_borrowed_one_are_shown(made: Path, tmp_path: Path) -> None:
    known = full_store(tmp_path / "part", 11)
    (known.store / "d/masks/sam/val/00001.parquet").unlink()
    (known.store / "d/masks/sam/val/summary.json").unlink()
    part = open_split(known.store, "d", "val", allow_incomplete=True)
    assert "shard 1 is not there" in shown(part).text
    assert "shard 1 is not there" in shown(part[5]).text
    lent = lent_store(tmp_path / "lent")
    borrowed = open_split(lent.store, "words", "test")
    assert "masks/sam" in shown(borrowed).text
    assert all(shown(record).text for record in borrowed)


def test_nothing_is_imported_for_words(made: Path) -> None:
    code = (
        "import sys\n"
        f"from store import open_split; split = open_split({str(made / 'store')!r}, 'd', 'val')\n"
        "print(len(split._repr_html_()), repr(split), repr(split[0]), repr(split[0].instances))\n"
        "found = {'PIL', 'matplotlib', 'torch', 'cv2', 'IPython'} & set(sys.modules)\n"
        "assert not found, found"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, check=True)
