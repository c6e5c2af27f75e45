"""Pictures in one or several folders, by their path or by their number in COCO."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from stages.base import Entry
from stages.datasets.base import DatasetError, Source
from stages.datasets.ids import coco_id, coco_id_of, path_id
from stages.datasets.images import list_sources
from stages.datasets.params import ImagesOptions
from stages.image_rows import image_row
from stages.index import order
from store.read.folders import Folders

COCO = ImagesOptions(ids="coco")
LIMIT = 10**6


def picture(path: Path, value: int = 0, **how: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), (value, value, value)).save(path, **how)
    return path


def test_pictures_are_found_in_all_folders_below_and_called_by_their_path(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "trip/day.1/c.webp", ".hidden.jpg", ".folder/d.jpg"):
        picture(tmp_path / name)
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "trip/clip.mp4").write_bytes(b"x")
    assert list_sources(Folders(tmp_path), "all") == [
        Source("a", "a.png", ()),
        Source("b", "b.JPG", ()),
        Source("trip/day.1/c", "trip/day.1/c.webp", ()),
    ]
    assert list_sources(Folders(tmp_path), "trip") == [Source("day.1/c", "trip/day.1/c.webp", ())]


def test_a_picture_of_coco_is_known_by_its_number_wherever_it_lies(tmp_path: Path) -> None:
    one, other = tmp_path / "coco", tmp_path / "refer/mscoco"
    picture(one / "train2017/000000000009.jpg")
    picture(one / "val2017/000000000139.jpg")
    picture(one / "stuffthingmaps/train2017/000000000009.png")  # a label map
    picture(one / "train2017/000000000009_2.jpg")
    picture(other / "images/train2014/COCO_train2014_000000000009.jpg")
    picture(other / "images/val2014/COCO_val2014_000000000042.jpg")
    found = list_sources(Folders([one, other]), "all", COCO)
    assert found == [
        Source(
            "000000000009",
            "train2017/000000000009.jpg",
            (),
            ("images/train2014/COCO_train2014_000000000009.jpg",),
        ),
        Source("000000000042", "images/val2014/COCO_val2014_000000000042.jpg", ()),
        Source("000000000139", "val2017/000000000139.jpg", ()),
    ]


def test_files_of_one_name_in_two_folders_are_told_apart(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        picture(tmp_path / folder / "train2014/COCO_train2014_000000000009.jpg", ord(folder))
    folders = Folders([tmp_path / "a", tmp_path / "b"])
    (found,) = list_sources(folders, "all", COCO)
    path = "train2014/COCO_train2014_000000000009.jpg"
    assert (found.path, found.others) == (path, (f"@2/{path}",))
    assert folders.path(f"@2/{path}") == f"{tmp_path}/b/{path}"
    with pytest.raises(DatasetError, match="would both be the image 'train2014/COCO_train2014_000000000009'"):
        list_sources(folders, "all")


def test_a_folder_that_links_to_itself_is_entered_once(tmp_path: Path) -> None:
    picture(tmp_path / "all/a.jpg")
    (tmp_path / "all/again").symlink_to(tmp_path / "all")
    picture(tmp_path / "elsewhere/b.jpg")
    (tmp_path / "all/linked").symlink_to(tmp_path / "elsewhere")
    assert [source.image_id for source in list_sources(Folders(tmp_path / "all"), "all")] == ["a", "linked/b"]


@pytest.mark.parametrize(
    ("split", "options", "said"),
    [
        ("val", ImagesOptions(), r"no folder 'val' in .* \(folders there: train\).*split all is every picture"),
        ("..", ImagesOptions(), r"leads outside"),
        ("all", COCO, r"no pictures below .*, but 1 pictures with names other than COCO's \(000000000009.jpg\)"),
        ("train/empty", ImagesOptions(), "no pictures below .* in train/empty; expected"),
    ],
)
def test_what_cannot_be_listed_says_what_was_expected(
    tmp_path: Path, split: str, options: ImagesOptions, said: str
) -> None:
    picture(tmp_path / "train/a.jpg")
    (tmp_path / "train/empty").mkdir()
    with pytest.raises(DatasetError, match=said):
        list_sources(Folders(tmp_path), split, options)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    picture(tmp_path / "a/x.jpg")
    with pytest.raises(DatasetError, match=f"no folder {tmp_path}/b; set root"):
        list_sources(Folders([tmp_path / "a", tmp_path / "b"]), "all")


def test_names_with_one_stem_are_refused(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    picture(tmp_path / "a.png")
    with pytest.raises(DatasetError, match=r"a.jpg and .*a.png would both be the image 'a': rename or remove one"):
        list_sources(Folders(tmp_path), "all")


def test_an_image_keeps_its_file_when_another_folder_is_listed_first() -> None:
    known = [("000000000009", "train2014/COCO_train2014_000000000009.jpg")]
    listed = [Source("000000000009", "train2017/000000000009.jpg", (), ("train2014/COCO_train2014_000000000009.jpg",))]
    (entry,) = order(known, listed)
    assert entry.source.path == "train2014/COCO_train2014_000000000009.jpg"
    assert entry.source.others == ("train2017/000000000009.jpg",)
    (gone,) = order(known, [Source("000000000009", "train2017/000000000009.jpg", ())])
    assert gone.source.path == "train2017/000000000009.jpg"


def test_of_several_files_the_first_that_can_be_decoded_is_the_picture(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    picture(tmp_path / "good.png", 7)
    picture(tmp_path / "same.png", 7)
    picture(tmp_path / "smaller.png", 7, optimize=True, compress_level=9)
    picture(tmp_path / "other.png", 8)
    assert (tmp_path / "smaller.png").read_bytes() != (tmp_path / "good.png").read_bytes()
    names = ("broken.jpg", "good.png", "same.png", "smaller.png", "other.png", "broken.jpg")
    row, notes = image_row(Folders(tmp_path), Entry(Source("x", names[0], (), names[1:])), LIMIT)
    assert (row["status"], row["path"], row["height_px"], row["error"]) == ("ok", "good.png", 4, None)
    assert len(notes) == 4
    assert notes[0].startswith("broken.jpg cannot be used (no readable header")
    assert notes[0].endswith("good.png is taken")
    assert notes[1] == "another file of the picture has other bytes and the same pixels"
    assert notes[2] == "other.png shows other pixels than good.png, which is taken: two pictures of one number"
    assert notes[3] == "another file of the picture cannot be used"


def test_where_no_file_can_be_decoded_the_row_is_that_of_the_first(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    row, notes = image_row(Folders(tmp_path), Entry(Source("x", "a.jpg", (), ("b.jpg",))), LIMIT)
    assert (row["status"], row["path"], notes) == ("failed", "a.jpg", [])


def test_ids() -> None:
    assert coco_id(9) == "000000000009"
    for name in ("COCO_train2014_000000000009.jpg", "a/b/000000000009.JPG", "COCO_val2014_000000000009.jpeg"):
        assert coco_id_of(name) == "000000000009"
    for name in ("9.jpg", "000000000009.png", "COCO_train2014_000000000009_3.jpg", "x000000000009.jpg"):
        assert coco_id_of(name) is None
    for number in (-1, 10**12):
        with pytest.raises(ValueError, match="expected a number of at most 12 digits"):
            coco_id(number)
    assert [path_id(path) for path in ("a/b.c.jpg", "x", "a.b/c", ".jpg")] == ["a/b.c", "x", "a.b/c", ".jpg"]
