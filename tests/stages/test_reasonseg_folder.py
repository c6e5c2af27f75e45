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
    with pytest.raises(DatasetError, match=r"no folder 'val' .*there: none\).*set index.root"):
        list_sources(tmp_path / "nowhere", "val")
    with pytest.raises(DatasetError, match=r"folder 'empty' in .* is empty"):
        list_sources(tmp_path, "empty")
    with pytest.raises(DatasetError, match=r"leads outside"):
        list_sources(tmp_path, "..")
    (tmp_path / "train" / "explanatory").symlink_to(tmp_path / "explanatory")
    with pytest.raises(DatasetError, match=r"leads outside"):
        list_sources(tmp_path / "train", "train")


def test_a_file_name_that_no_table_can_hold_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "val").mkdir()
    try:
        (tmp_path / "val" / "a\udcff.jpg").write_text("x")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with pytest.raises(DatasetError, match=r"expected a file name in UTF-8"):
        list_sources(tmp_path, "val")


def test_an_annotation_stays_inside_the_data_set(tmp_path: Path) -> None:
    root = tmp_path / "root"
    touch(root, "val/a.jpg")
    touch(tmp_path, "secret.json")
    (root / "val" / "a.json").symlink_to(tmp_path / "secret.json")
    (source,) = list_sources(root, "val")
    with pytest.raises(ImageFailure, match=r"leads outside"):
        annotate(root, source, 4, 5)


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
