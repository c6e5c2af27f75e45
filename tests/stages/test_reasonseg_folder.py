"""ReasonSeg folders: which files belong to which image, and what is wrong with a folder as a whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stages.datasets.base import DatasetError, Source
from stages.datasets.reasonseg import annotate, list_sources
from stages.images import ImageFailure, read_image


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")


def test_sources_are_images_and_jsons_by_stem(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "val/b.jpg",
        "val/b.json",
        "val/a.1.JPEG",
        "val/a.1.JSON",
        "val/no_json.png",
        "val/no_image.json",
    )
    touch(tmp_path, "val/._b.jpg", "val/notes.txt", "train/c.jpg", "val/sub/d.jpg")
    assert list_sources(tmp_path, "val") == [
        Source("a.1", "val/a.1.JPEG", ("val/a.1.JSON",)),
        Source("b", "val/b.jpg", ("val/b.json",)),
        Source("no_image", "val/no_image.jpg", ("val/no_image.json",)),
        Source("no_json", "val/no_json.png", ()),
    ]


def test_files_of_further_questions_go_with_their_image_by_number(tmp_path: Path) -> None:
    touch(tmp_path, "val/a.jpg", "val/a.json", "val/a.10.json", "val/a.2.json", "val/a.note.json")
    touch(tmp_path, "val/b.jpg", "val/b.1.json", "val/c.jpg", "val/c.json", "val/c.1.jpg", "val/c.1.json")
    assert list_sources(tmp_path, "val") == [
        Source("a", "val/a.jpg", ("val/a.json", "val/a.2.json", "val/a.10.json")),
        Source("a.note", "val/a.note.jpg", ("val/a.note.json",)),
        Source("b", "val/b.jpg", ()),
        Source("b.1", "val/b.1.jpg", ("val/b.1.json",)),  # an annotation without its first is nobody's
        Source("c", "val/c.jpg", ("val/c.json",)),
        Source("c.1", "val/c.1.jpg", ("val/c.1.json",)),
    ]


def test_halves_of_a_pair_fail_with_a_reason(tmp_path: Path) -> None:
    touch(tmp_path, "val/no_json.png", "val/no_image.json")
    no_image, no_json = list_sources(tmp_path, "val")
    with pytest.raises(ImageFailure, match=r"^no such file$"):
        read_image(tmp_path / no_image.path, 100)
    with pytest.raises(ImageFailure, match=r"^no annotation: expected val/no_json.json$"):
        annotate(tmp_path, no_json, 4, 5)


@pytest.mark.parametrize("pair", [("a.jpg", "a.png"), ("a.jpg", "a.JPG"), ("a.json", "a.JSON")])
def test_one_stem_of_two_files_is_an_error_that_names_both(tmp_path: Path, pair: tuple[str, str]) -> None:
    touch(tmp_path, *(f"val/{name}" for name in pair))
    with pytest.raises(DatasetError, match=r"have the same stem") as caught:
        list_sources(tmp_path, "val")
    assert all(f"val/{name}" in str(caught.value) for name in pair)


def test_a_missing_or_empty_split_is_an_error_that_lists_what_is_there(tmp_path: Path) -> None:
    touch(tmp_path, "train/a.jpg", "explanatory/train.json", "empty/readme.txt")
    with pytest.raises(DatasetError, match=r"no folder 'val' .*there: empty, explanatory, train\)"):
        list_sources(tmp_path, "val")
    with pytest.raises(DatasetError, match=r"no folder 'val' .*not there \(folders in .*: empty.*set root or splits"):
        list_sources(tmp_path / "nowhere", "val")
    with pytest.raises(
        DatasetError, match=r"no folder 'val' in .*/readme.txt, which is a file, expected a folder; set root"
    ):
        list_sources(tmp_path / "empty/readme.txt", "val")
    with pytest.raises(DatasetError, match=r"folder 'empty' in .* has no images \(found: 1 x .txt\)"):
        list_sources(tmp_path, "empty")
    (tmp_path / "empty" / "inside").mkdir()
    with pytest.raises(DatasetError, match=r"found: 1 x .txt, 1 x folders\); expected files named \*.jpg, .*\*.tiff"):
        list_sources(tmp_path, "empty")
    with pytest.raises(DatasetError, match=r"leads outside"):
        list_sources(tmp_path, "..")
    with pytest.raises(DatasetError, match=r"leads outside"):
        list_sources(tmp_path, str(tmp_path / "train"))


@pytest.mark.parametrize("suffix", [".webp", ".bmp", ".tif", ".tiff", ".JPG", ".Jpeg", ".PNG", ".TIF"])
def test_image_files_of_every_suffix_belong_to_their_annotation(tmp_path: Path, suffix: str) -> None:
    touch(tmp_path, f"val/a{suffix}", "val/a.json", "val/b.gif")
    assert list_sources(tmp_path, "val") == [Source("a", f"val/a{suffix}", ("val/a.json",))]


def test_a_file_name_that_no_table_can_hold_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "val").mkdir()
    try:
        (tmp_path / "val" / "a\udcff.jpg").write_text("x")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with pytest.raises(DatasetError, match=r"expected a file name in UTF-8"):
        list_sources(tmp_path, "val")


def test_links_are_followed_wherever_they_lead(tmp_path: Path) -> None:
    """As the Hugging Face cache has it: names in a snapshot, bytes under another name elsewhere; and whole folders."""
    root, blobs = tmp_path / "root", tmp_path / "blobs"
    touch(blobs, "0a1b", "val2/b.jpg")
    (blobs / "2c3d").write_text('{"shapes": [], "text": ["?"], "is_sentence": true}')
    (root / "val").mkdir(parents=True)
    (root / "val" / "a.jpg").symlink_to("../../blobs/0a1b")
    (root / "val" / "a.json").symlink_to(blobs / "2c3d")
    (root / "linked").symlink_to(blobs / "val2")
    (source,) = list_sources(root, "val")
    assert source == Source("a", "val/a.jpg", ("val/a.json",))
    assert annotate(root, source, 4, 5).targets[0].texts == ("?",)
    assert [each.path for each in list_sources(root, "linked")] == ["linked/b.jpg"]
    (tmp_path / "root2").symlink_to(root)
    assert list_sources(tmp_path / "root2", "val") == [source]


def test_links_in_circles_are_detected(tmp_path: Path) -> None:
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "up").symlink_to("..")  # a folder that holds itself
    (tmp_path / "val" / "a.json").symlink_to("a.json")
    (tmp_path / "val" / "a.jpg").symlink_to("b.jpg")
    (tmp_path / "val" / "b.jpg").symlink_to("a.jpg")
    sources = list_sources(tmp_path, "val")
    assert [each.path for each in sources] == ["val/a.jpg", "val/b.jpg"]
    with pytest.raises(ImageFailure, match=r"^a link that leads to no file, or to itself$"):
        read_image(tmp_path / "val/a.jpg", 100)
    with pytest.raises(ImageFailure, match=r"^val/a.json: a link that leads to no file, or to itself$"):
        annotate(tmp_path, sources[0], 4, 5)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(DatasetError, match=r"no folder 'loop' .*a link that leads to no file, or to itself"):
        list_sources(tmp_path, "loop")


@pytest.mark.parametrize("path", ["../secret.json", "/etc/passwd", "val/../../secret.json", "val/../val/a.json", ".."])
def test_words_in_an_annotation_stay_inside_the_data_set(tmp_path: Path, path: str) -> None:
    root = tmp_path / "root"
    touch(root, "val/a.jpg", "val/a.json")
    touch(tmp_path, "secret.json")
    with pytest.raises(ImageFailure, match=r"leads outside"):
        annotate(root, Source("a", "val/a.jpg", (f"{path}",)), 4, 5)


def explain(root: Path, *items: dict[str, str]) -> None:
    touch(root, "explanatory/train.json")
    (root / "explanatory" / "train.json").write_text(json.dumps(items))


def test_answers_belong_to_train_and_follow_the_image_file_name(tmp_path: Path) -> None:
    for split in ("train", "val"):
        touch(tmp_path, f"{split}/a.jpg", f"{split}/b.jpg")
        for stem in "ab":
            (tmp_path / split / f"{stem}.json").write_text('{"shapes": [], "text": ["?"], "is_sentence": true}')
    explain(tmp_path, {"image": "b.jpg", "json": "b.json", "query": "?", "outputs": "It is b."})
    a, b = list_sources(tmp_path, "train")
    assert b.annotations == ("train/b.json", "explanatory/train.json")  # an edit of either is an edit of b
    assert annotate(tmp_path, a, 4, 5).targets[0].answer is None
    assert annotate(tmp_path, b, 4, 5).targets[0].answer == "It is b."
    assert list_sources(tmp_path, "val")[1].annotations == ("val/b.json",)
    explain(tmp_path, {"image": "b.jpg", "outputs": "It is something else."})
    assert annotate(tmp_path, b, 4, 5).targets[0].answer == "It is something else."


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "not JSON"),
        ("{}", "found dict, expected a list"),
        ('[{"image": "a.jpg"}]', "key 'outputs' is missing"),
    ],
)
def test_broken_answers_stop_the_split(tmp_path: Path, content: str, reason: str) -> None:
    touch(tmp_path, "train/a.jpg", "explanatory/train.json")
    (tmp_path / "explanatory" / "train.json").write_text(content)
    with pytest.raises(DatasetError, match=rf"explanatory/train.json: {reason}.*repair the file"):
        list_sources(tmp_path, "train")
