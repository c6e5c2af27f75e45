"""FP-Aug: questions in a ReasonSeg file about what its picture does not show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stages.datasets.base import Annotation, Source
from stages.datasets.reasonseg import annotate
from stages.images import ImageFailure
from store import rle

SQUARE = {"label": "target", "points": [[1, 1], [5, 1], [5, 5]]}
PREMISES = [["the red dragon", False, "There is no dragon."], ["Who flies the kite?", True, "Nobody flies one."]]


def read(root: Path, *documents: dict[str, Any]) -> Annotation:
    """The annotation of an image with these files: NAME.json, NAME.1.json, ..."""
    (root / "val").mkdir(exist_ok=True)
    names = []
    for number, changes in enumerate(documents):
        names.append(f"val/a.{number}.json" if number else "val/a.json")
        document = {"shapes": [SQUARE], "text": [f"own {number}"], "is_sentence": True, **changes}
        (root / names[-1]).write_text(json.dumps(document))
    return annotate(root, Source("a", "val/a.jpg", tuple(names)), 8, 8)


def test_each_false_premise_is_an_absent_target_after_the_files_own(tmp_path: Path) -> None:
    own, dragon, kite = read(tmp_path, {"false_premise_QA": PREMISES}).targets
    assert (own.target_id, own.texts, own.kind, own.absent) == ("a/0", ("own 0",), "reasonseg", False)
    assert (dragon.target_id, dragon.texts, dragon.is_sentence) == ("a/1", ("the red dragon",), False)
    assert (kite.target_id, kite.texts, kite.is_sentence) == ("a/2", ("Who flies the kite?",), True)
    for target, answer in ((dragon, "There is no dragon."), (kite, "Nobody flies one.")):
        assert (target.kind, target.absent, target.answer, target.instances) == ("false_premise", True, answer, ())
        assert rle.decode(target.segmentation, 8, 8).sum() == rle.decode(target.ignore, 8, 8).sum() == 0


def test_further_files_go_on_counting(tmp_path: Path) -> None:
    annotation = read(tmp_path, {"false_premise_QA": PREMISES[:1]}, {"false_premise_QA": PREMISES[1:]})
    assert [(target.target_id, target.absent) for target in annotation.targets] == [
        ("a/0", False), ("a/1", True), ("a/2", False), ("a/3", True),
    ]  # fmt: skip
    assert len(annotation.instances) == 1


def test_files_without_the_key_are_read_as_before(tmp_path: Path) -> None:
    without = read(tmp_path, {}, {})
    assert [target.target_id for target in without.targets] == ["a/0", "a/1"]
    assert read(tmp_path, {"false_premise_QA": None}, {"false_premise_QA": []}) == without


def test_the_explanation_belongs_to_the_first_question_alone(tmp_path: Path) -> None:
    (tmp_path / "explanatory").mkdir()
    (tmp_path / "explanatory/val.json").write_text(json.dumps([{"image": "a.jpg", "outputs": "because"}]))
    read(tmp_path, {"false_premise_QA": PREMISES[:1]})
    annotation = annotate(tmp_path, Source("a", "val/a.jpg", ("val/a.json", "explanatory/val.json")), 8, 8)
    assert [target.answer for target in annotation.targets] == ["because", "There is no dragon."]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("no", "'false_premise_QA' is str, expected list"),
        ([["a", True]], r"false_premise_QA 0 is \['a', True\], expected \[question, is_sentence, answer\]"),
        ([PREMISES[0], ["a", "True", "b"]], "false_premise_QA 1 is"),
        ([[1, True, "b"]], "question of false_premise_QA 0 is int"),
        ([["a", True, None]], "answer of false_premise_QA 0 is null"),
        ([["a", True, "\ud800"]], "answer of false_premise_QA 0 has half of a surrogate pair"),
    ],
)
def test_what_is_no_such_list_is_a_failure(tmp_path: Path, value: Any, message: str) -> None:
    with pytest.raises(ImageFailure, match=f"^val/a.json: {message}"):
        read(tmp_path, {"false_premise_QA": value})
