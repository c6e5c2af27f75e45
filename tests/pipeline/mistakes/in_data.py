"""Mistakes in data sets: what is not there, what another program wrote, and what borrows from another."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest
from mistakes.mistake import MEANT, Case, Made, Mistake, adds, by_hand, does, meant, types


def fox(data: bytes | str) -> Made:
    """Another annotation of one image."""
    written = data.encode() if isinstance(data, str) else data
    return lambda project, patch: (project.data / "val/fox.json").write_bytes(written)


def fox_picture(keep: int) -> Made:
    """A picture that is cut off."""

    def made(project: Any, patch: pytest.MonkeyPatch) -> None:
        path = project.data / "val/fox.jpg"
        path.write_bytes(path.read_bytes()[:keep])

    return made


def two_of_a_stem(project: Any, patch: pytest.MonkeyPatch) -> None:
    shutil.copy(project.data / "val/fox.jpg", project.data / "val/fox.png")


def in_subfolders(project: Any, patch: pytest.MonkeyPatch) -> None:
    folder = project.data / "val"
    folder.rename(project.data / "part")
    folder.mkdir()
    (project.data / "part").rename(folder / "part")


def of_a_phone(project: Any, patch: pytest.MonkeyPatch) -> None:
    for path in [path for path in (project.data / "val").iterdir() if path.suffix != ".json"]:
        path.with_suffix(".json").unlink()
        path.rename(path.with_suffix(".heic"))


def borrows(holder: str = "tiny", name: str = "fox") -> Made:
    """A data set that asks about a picture of another one."""

    def made(project: Any, patch: pytest.MonkeyPatch) -> None:
        import yaml

        folder = project.folder / "words/val"
        folder.mkdir(parents=True)
        shapes = [{"label": "target", "points": [[4, 4], [24, 4], [24, 30]]}]
        (folder / f"{name}.json").write_text(json.dumps({"shapes": shapes, "text": ["it"], "is_sentence": True}))
        project.values["data"]["words"] = {
            "format": "reasonseg",
            "images": holder,
            "root": str(folder.parent),
            "splits": ["val"],
        }
        project.values["means"] = {"tiny": {"train": ["tiny/train"]}}
        project.values["train"]["train"] = ["tiny/train"]
        project.params.write_text(yaml.safe_dump(project.values, sort_keys=False))

    return made


def written(case: Case) -> None:
    """The annotation as the data set has it."""
    case.project.annotate("val", "fox", 10)


def flat(case: Case) -> None:
    folder = case.project.data / "val"
    for path in list((folder / "part").iterdir()):
        path.rename(folder / path.name)


SHAPES = {"shapes": [], "text": ["\u4e00\u53ea\u72d0\u72f8"], "is_sentence": True}
WHOLE = does(lambda case: case.project.add_image("val", case.found(r"val/(fox)\.jpg"), 10))

NAMED = r"such as (\w+)"

# fmt: off
ROWS = (
    Mistake("root that is not there", "index --set data.tiny.root=$folder/daat", ("no folder", "daat",
        "section data of the params"), lambda case: case.replace(f"{case.project.folder}/daat", case.found(MEANT))),
    Mistake("root one folder too high", "index --set data.tiny.root=$folder", ("no folder 'train' in", "folders there: ",
        "expected train/*.jpg"),
        lambda case: case.replace(f"root={case.project.folder}", f"root={case.found(r'did you mean root: (.*?)[?]')}")),
    Mistake("split without a folder", "index --set data.tiny.splits=[train,vla]", ("no folder 'vla' in",
        "folders there: explanatory, train, val"), meant("vla")),
    Mistake("annotations that got lost", "index --split val", ("absent: 1 of 3 images have no annotation",), does(written),
        code=0, made=lambda project, patch: (project.data / "val/fox.json").unlink(), on="tiny"),
    Mistake("only HEIC pictures of a phone", "index --split val", ("has no images", "3 x .heic", "expected files named *.jpg"),
        by_hand("a program that converts HEIC"), made=of_a_phone, on="tiny"),
    Mistake("pictures in subfolders", "index --split val", ("folder 'val'", "has no images", "found: 1 x folders",
        "expected files named *.jpg"), does(flat), made=in_subfolders, on="tiny"),
    Mistake("two pictures of one stem", "index --split val", ("val/fox.jpg and val/fox.png have the same stem",
        "rename or remove one"), does(lambda case: (case.project.data / "val/fox.png").unlink()), made=two_of_a_stem,
        on="tiny"),
    Mistake("COCO's JSON", "index --split val", ("val/fox.json: key 'shapes' is missing", "found: 'annotations', 'images'",
        "format: coco"), does(written), code=1, made=fox('{"annotations": [], "images": []}'), on="tiny"),
    Mistake("broken JSON", "index --split val", ("val/fox.json: not JSON", "line 1 column 31"), does(written), code=1,
        made=fox('{"shapes": [], "text": ["it"],'), on="tiny"),
    Mistake("empty JSON", "index --split val", ("val/fox.json: file is empty (0 bytes)",), does(written), code=1, made=fox(""),
        on="tiny"),
    Mistake("JSON in another encoding", "index --split val", ("val/fox.json: text is not UTF-8", "name its encoding"),
        lambda case: case.again(f"{case.typed} --set data.tiny.encoding={case.found(NAMED)}"), code=1,
        made=fox(json.dumps(SHAPES, ensure_ascii=False).encode("gbk")), on="tiny"),
    Mistake("empty picture", "index --split val", ("file is empty (0 bytes)", "val/fox.jpg"), WHOLE, code=1,
        made=fox_picture(0), on="tiny"),
    Mistake("picture that was cut off", "index --split val", ("cannot be decoded", "val/fox.jpg"), WHOLE, code=1,
        made=fox_picture(600), on="tiny"),
    Mistake("too many failures", "index --split val", ("1 images failed, more than run.max_failures (0)",),
        adds(r"(--set run\.max_failures=\d+)"), code=1, made=fox_picture(0), on="tiny"),
    Mistake("picture that its holder does not have", "index --data words", ("words/val", "tiny has no such image", "val/wolf.jpg"),
        adds(r"(--set run\.max_failures=\d+)"), code=1, made=borrows(name="wolf"), on="finished"),
    Mistake("holder that is not in the params", "index --data words", ("data.words.images: found 'tinny'",
        "expected a data set that holds images"), meant("tinny"), made=borrows("tinny"), on="finished"),
    Mistake("borrower before its holder", "index --data words", ("split tiny/train is not indexed",
        "words/val borrows from tiny"), types("index"), made=borrows(), on="tiny"),
)
# fmt: on
