"""The demo's test questions in other words: the same pictures, regions and answers, and no form of words known from elsewhere."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest

import demo.data.dataset
from demo.data.dataset import REWORDED, DemoSizes, choose, make_demo, scene_seeds
from demo.data.files import remove_demo
from demo.data.questions import Question, questions
from demo.data.scenes import CLASSES, COLOURS, scene
from pipeline.commands import demo as command
from stages.datasets import reasonseg

SIZES = DemoSizes(train=0, val=0, test=16)  # as long as the cycle of wishes: long and short, one, several and absent
FAMILIES = {"class", "coloured class", "colour", "texture", "use", "of all", "of a kind", "relation"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demo data set of test images alone."""
    folder = tmp_path_factory.mktemp("demo") / "demo"
    make_demo(folder, SIZES, seed=3)
    return folder


@pytest.fixture(scope="module")
def asked() -> list[list[Question]]:
    """All questions of each of a few scenes."""
    return [questions(scene(seed), np.random.default_rng(seed)) for seed in range(700_000, 700_060)]


def content(path: Path) -> dict:
    """What a JSON file holds."""
    return json.loads(path.read_text("utf-8"))  # type: ignore[no-any-return]


def words(texts: set[str]) -> set[str]:
    """Every word of the texts; capitals count, as a tokenizer cuts "Mark" into other tokens than "mark"."""
    return {word for text in texts for word in re.findall(r"[A-Za-z]+", text)}


def test_a_test_image_has_its_question_in_other_words_and_nothing_else_changes(root: Path) -> None:
    files = sorted((root / REWORDED).rglob("*"))
    assert [path.relative_to(root / REWORDED).as_posix() for path in files] == [
        "test",
        *(f"test/{number:04d}.json" for number in range(SIZES.test)),
    ]
    for number, seed in enumerate(scene_seeds("test", SIZES.test, 3)):
        rng = np.random.default_rng((seed, 2))
        question = choose(questions(scene(seed), rng), number, rng)
        own, other = (content(folder / "test" / f"{number:04d}.json") for folder in (root, root / REWORDED))
        (usual,), (reworded,) = own.pop("text"), other.pop("text")
        assert own == other
        assert usual in question.texts
        assert reworded in question.other_texts


def test_the_reader_takes_it_without_pictures_and_gives_the_same_answers(root: Path) -> None:
    sources = reasonseg.list_sources(root / REWORDED, "test")
    assert [source.image_id for source in sources] == [f"{number:04d}" for number in range(SIZES.test)]
    originals = reasonseg.list_sources(root, "test")
    for source, original, seed in zip(sources, originals, scene_seeds("test", SIZES.test, 3), strict=True):
        height, width = scene(seed).image.shape[:2]
        found = reasonseg.annotate(root / REWORDED, source, height, width)
        wanted = reasonseg.annotate(root, original, height, width)
        assert found.notes == ()
        assert found.instances == wanted.instances
        (target,), (as_asked) = found.targets, wanted.targets[0]
        assert target.texts != as_asked.texts
        assert dataclasses.replace(target, texts=as_asked.texts) == as_asked


def test_each_family_has_other_forms_made_of_words_that_its_own_questions_have(asked: list[list[Question]]) -> None:
    every = [question for of_scene in asked for question in of_scene]
    assert {question.family for question in every} == FAMILIES
    own = {form for question in every for form in question.forms}
    other = {form for question in every for form in question.other_forms}
    assert all(len(set(question.other_forms)) > 1 for question in every)
    assert not [(form, text) for form in other for text in own if form in text]
    texts, reworded = (
        {text for question in every for text in of(question)}
        for of in (lambda question: question.texts, lambda question: question.other_texts)
    )
    assert not texts & reworded
    assert words(reworded) <= words(texts)


def test_other_words_name_the_same_things_and_mean_one_answer(asked: list[list[Question]]) -> None:
    forbidden = re.compile(rf"\b({'|'.join([*CLASSES, 'leave', *COLOURS])})(s|es)?\b", re.IGNORECASE)
    for of_scene in asked:
        meant: dict[str, tuple[int, ...]] = {}
        for question in of_scene:
            for text in question.other_texts:
                assert all(named in text for named in question.named)
                assert meant.setdefault(text, question.objects) == question.objects, text
                assert not (question.is_sentence and forbidden.search(text)), text


def test_other_words_do_not_tell_that_a_thing_is_absent(asked: list[list[Question]]) -> None:
    there, absent = (
        {
            form
            for of_scene in asked
            for question in of_scene
            if bool(question.objects) == exists and question.family != "of all"  # something always is the largest
            for form in question.other_forms
        }
        for exists in (True, False)
    )
    assert there == absent


def test_reworded_files_are_replaced_and_removed_like_all_others(tmp_path: Path) -> None:
    root, sizes = tmp_path / "demo", DemoSizes(train=1, val=1, test=2)
    make_demo(root, sizes)
    first, second = (root / REWORDED / "test" / f"000{number}.json" for number in (0, 1))
    written = second.read_bytes()
    first.write_text("mine")
    second.unlink()
    assert make_demo(root, sizes) == ["reworded/test/0000.json"]
    assert (first.read_text(), second.read_bytes()) == ("mine", written)
    assert make_demo(root, DemoSizes(train=1, val=1, test=1), seed=1) == ["reworded/test/0000.json"]
    assert not second.exists()
    assert remove_demo(root) == ["reworded/test/0000.json"]
    assert {path.name for path in root.iterdir()} == {"demo.json", REWORDED}
    first.unlink()
    make_demo(root, sizes)
    assert remove_demo(root) == []
    assert not root.exists()


def test_the_command_counts_pictures_and_says_where_the_other_words_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "ROOT", tmp_path)
    monkeypatch.setattr(command, "DEMO_ROOT", tmp_path / "data/demo")
    monkeypatch.setattr(demo.data.dataset, "make_demo", lambda root: make_demo(root, DemoSizes(0, 1, 2)))
    assert command.make_demo_data() == (
        "demo data set: data/demo (2 test, 1 val images); the test questions in other words: data/demo/reworded"
    )
