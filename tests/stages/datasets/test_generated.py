"""Generated questions: what the stage writes is read back, in both forms, and nothing else is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.datasets import generated, llmseg40k
from stages.datasets.base import Annotation, DatasetError
from stages.images import ImageFailure
from stages.questions.choose import Candidate, Chosen
from stages.questions.items import Made, Origin, Reason, Rejected, Verdict
from stages.questions.write import write
from store import rle
from store.format import schema

SIZE = (6, 8)
ONE = {"train": 1.0}
NAME = "train2017/000000000009.jpg"


def masks(count: int) -> list[str]:
    found = []
    for number in range(count):
        mask = np.zeros(SIZE, bool)
        mask[number % 6, number // 6 : number // 6 + 2] = True
        found.append(rle.encode(mask))
    return found


def candidate(labels: tuple[str, ...], path: str = NAME) -> Candidate:
    image_id = Path(path).stem
    return Candidate("lvis/train", 0, image_id, path, "0" * 64, *SIZE, labels, (2,) * len(labels))


def made(number: int, *labels: str, image_id: str = "000000000009", **more: Any) -> Made:
    values: dict[str, Any] = {
        "texts": (f"question {number}?",),
        "is_sentence": True,
        "kind": "generated" if labels else "absent",
        "origin": Origin('[["user", "ask"]]', "1. [Q]: ...", "m"),
    }
    return Made(image_id, number, labels=labels, **{**values, **more})


def written(root: Path, labels: tuple[str, ...], questions: list[Made], path: str = NAME) -> Annotation:
    of = candidate(labels, path)
    write(root, [Chosen(of, "simple", labels)], questions, [], {}, ONE, lambda _: masks(len(labels)))
    (source,) = generated.list_sources(root, "train")
    assert (source.image_id, source.path) == (of.image_id, path)
    return generated.annotate(root, source, *SIZE)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_what_was_written_is_read_back(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    labels = tuple(data.draw(st.lists(st.sampled_from(["cup", "cat", "tea pot"]), min_size=1, max_size=6)))
    asked = data.draw(st.lists(st.lists(st.sampled_from(labels), max_size=2, unique=True), min_size=1, max_size=4))
    verdict = Verdict("verify", "v", "yes", "VERDICT: yes", None)
    questions = [
        made(number, *each, usd=0.25 * number, verdicts=(verdict,) * number, answer="It is there." if each else None)
        for number, each in enumerate(asked)
    ]
    found = written(tmp_path_factory.mktemp("set"), labels, questions)
    counts = masks(len(labels))
    used = {label for each in asked for label in each}
    kept = [place for place, label in enumerate(labels) if label in used]
    assert [(each.label, each.segmentation) for each in found.instances] == [
        (labels[place], counts[place]) for place in kept
    ]
    for target, question in zip(found.targets, questions, strict=True):
        assert (target.texts, target.is_sentence, target.kind) == (question.texts, True, question.kind)
        assert (target.absent, target.answer) == (not question.labels, question.answer)
        of = [each for each, label in zip(counts, labels, strict=True) if label in question.labels]
        assert target.segmentation == rle.union(of, *SIZE)
        assert target.made == {
            **vars(question.origin),
            "verdicts": [{"step": "verify", "model": "v", "said": "yes", "response": "VERDICT: yes"}] * question.number,
            "usd": question.usd,
        }
        assert pa.array([target.made], schema.MADE.type).to_pylist() == [target.made]


def test_the_form_of_llmseg40k_is_read_by_its_own_reader(tmp_path: Path) -> None:
    questions = [made(0, "cup", texts=("a?", "b?")), made(1, "cat", "cup"), made(2)]
    written(tmp_path, ("cup", "cat", "cup"), questions)
    (source,) = llmseg40k.list_sources(tmp_path / "llmseg40k", "train")
    found = llmseg40k.annotate(tmp_path / "llmseg40k", source, *SIZE)
    counts = masks(3)
    assert [(each.texts, each.segmentation) for each in found.targets] == [
        (("a?",), rle.union([counts[0], counts[2]], *SIZE)),
        (("b?",), rle.union([counts[0], counts[2]], *SIZE)),
    ]


def test_the_same_questions_are_the_same_bytes_and_an_unchanged_file_is_left_alone(tmp_path: Path) -> None:
    rejected = [Rejected("b", 1, Reason.NAMES_ANSWER, "x"), Rejected("a", None, Reason.REFUSAL, "y")]
    of = [candidate(("cup",), f"all/{name}.jpg") for name in "ba"]
    questions = [made(0, "cup", image_id=each.image_id) for each in of]

    def go(turned: bool) -> dict[Path, tuple[bytes, int]]:
        order = slice(None, None, -1 if turned else 1)
        chosen = [Chosen(each, "simple", ("cup",)) for each in of][order]
        paths = write(tmp_path, chosen, questions[order], rejected[order], {"n": 1}, ONE, lambda _: masks(1))
        return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}

    first = go(False)
    assert go(True) == first
    assert [json.loads(line)["reason"] for line in (tmp_path / "rejected.jsonl").read_text().splitlines()] == [
        "refusal",
        "names_answer",
    ]
    assert {path.relative_to(tmp_path).as_posix() for path in first} == {
        "train.jsonl",
        "rejected.jsonl",
        "summary.json",
        "llmseg40k/train.json",
    }


Edit = Callable[[dict[str, Any]], Any]


def _bad(key: str, value: Any) -> Edit:
    return lambda row: row["targets"][0].update({key: value})


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda row: row.update(height_px=7), "6 px, the picture has|masks of 8 x 7 px"),
        (lambda row: row["instances"][0].update(counts="zz"), "instances\\[0\\]"),
        (lambda row: row["instances"][0].update(counts=rle.union([], *SIZE)), "without a pixel"),
        (_bad("instances", [1]), "target 0: 'instances' is \\[1\\], expected numbers from 0 to 0"),
        (_bad("instances", []), "or absent: true"),
        (_bad("absent", True), "or absent: true"),
        (_bad("texts", []), "'texts' is empty"),
        (_bad("texts", [3]), "a text is int"),
        (_bad("is_sentence", "yes"), "'is_sentence' is str"),
        (_bad("made", {"request": 3, "verdicts": []}), "'request' is 3, expected a number from 0 to 0"),
        (_bad("made", {"request": 0, "verdicts": [], "usd": "1"}), "'usd' is '1'"),
    ],
)
def test_a_line_that_is_not_of_the_form_names_what_it_has(tmp_path: Path, edit: Edit, says: str) -> None:
    written(tmp_path, ("cup",), [made(0, "cup")])
    file = tmp_path / "train.jsonl"
    row = json.loads(file.read_text())
    edit(row)
    file.write_text(json.dumps(row) + "\n")
    (source,) = generated.list_sources(tmp_path, "train")
    with pytest.raises(ImageFailure, match=says):
        generated.annotate(tmp_path, source, *SIZE)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"{", "line 1: not JSON: "),
        (b'{"image_id": "a"}', "line 1: key 'path' is missing"),
        (b'\n{"image_id": "a", "path": "../x.jpg"}', "line 2: .*outside"),
        (
            b'{"image_id": "a", "path": "a.jpg"}\n{"image_id": "a", "path": "a.jpg"}',
            "line 2: a second line of the image",
        ),
    ],
)
def test_a_file_that_is_not_of_the_form_is_named(tmp_path: Path, data: bytes, says: str) -> None:
    (tmp_path / "train.jsonl").write_bytes(data)
    with pytest.raises(DatasetError, match=f"train.jsonl: {says}"):
        generated.list_sources(tmp_path, "train")
