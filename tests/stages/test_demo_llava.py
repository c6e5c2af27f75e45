"""The demo's language model: what it is told, its tokenizer, its training, and what the committed one knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stages.demo import train_llava
from stages.demo.ask import answers, judge, places
from stages.demo.dialogues import GRID, caption, cell, corpus, dialogue, talk
from stages.demo.questions import questions
from stages.demo.scenes import scene
from stages.demo.train_encoders import Length
from stages.demo.train_llava import OUT, SPECIAL, examples, make_config, make_tokenizer, see, train
from stages.train.llava import FeatureLlava, load_llava
from stages.train.text import IMAGE, collate

SEEDS = range(42, 46)
CLIP = OUT.parent / "demo_clip.safetensors"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    rng = np.random.default_rng(0)
    return make_tokenizer(corpus([talk(scene(seed), rng) for seed in SEEDS], rng))


def test_places_are_those_of_the_objects_that_answer() -> None:
    drawn = scene(42)
    about = talk(drawn, np.random.default_rng(0))
    asked = questions(drawn, np.random.default_rng(0))
    assert len(asked) == len(about.asked)
    for question, told in zip(asked, about.asked, strict=True):
        assert places(told.places) == {cell(drawn.objects[number]) for number in question.objects}
        assert (told.places == "nowhere") == (not question.objects)
    named = [place for place in places(caption(about)) if all(1 <= number <= GRID for number in place)]
    assert len(set(named)) == len({cell(thing) for thing in drawn.objects})


def test_a_dialogue_has_questions_with_answers_and_speaks_of_no_masks() -> None:
    rng = np.random.default_rng(0)
    about = talk(scene(43), rng)
    turns = dialogue(about, rng, 8)
    assert len(turns) == 8
    assert len({question for question, _ in turns}) == 8
    text = " ".join(corpus([about], rng))
    assert "[SEG]" not in text
    assert "SEG_MASK" not in text
    assert "[REJ]" not in text


def test_cells_are_parts_of_the_picture() -> None:
    drawn = scene(44)
    height, width = drawn.image.shape[:2]
    for thing in drawn.objects:
        rows, columns = np.nonzero(thing.visible)
        x, y = columns.mean() + 0.5, rows.mean() + 0.5  # the middle of a pixel
        assert cell(thing) == (np.floor(GRID * x / width) + 1, np.floor(GRID * y / height) + 1)


def test_the_tokenizer_gives_back_what_it_took(tokenizer: Any) -> None:
    text = "Which thing opens a lock? at c5, ünknown \N{SNOWMAN}."
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    assert [tokenizer.convert_tokens_to_ids(token) for token in SPECIAL] == list(range(len(SPECIAL)))
    assert len(tokenizer(IMAGE * 3, add_special_tokens=False)["input_ids"]) == 3


def test_training_learns_and_what_is_saved_is_loaded(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_llava, "BATCH", 2)
    torch.manual_seed(0)
    config = make_config(tokenizer)
    config.text_config.num_hidden_layers = 1
    model = FeatureLlava(config)
    seen = see(range(42, 43), CLIP)
    source = examples(seen, tokenizer, np.random.default_rng(0))
    encoded, features = next(source)
    inputs = {**collate([encoded], 0), "pixel_values": torch.from_numpy(features)[None].float()}
    before = float(model(**inputs).loss.detach())
    train(model, source, Length(25), tokenizer.pad_token_id)
    assert float(model(**inputs).loss.detach()) < before - 0.2
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again, _ = load_llava(str(tmp_path), "float32")
    kept = model.state_dict()
    assert all(torch.equal(value, kept[name].float()) for name, value in again.state_dict().items())


def test_the_committed_model_is_small_and_knows_no_segmentation_tokens() -> None:
    files = list(OUT.iterdir())
    assert sum(path.stat().st_size for path in files) < 12_000_000
    assert not [path.name for path in files if path.suffix in (".bin", ".pt", ".pth", ".pkl")]
    _, tokenizer = load_llava(str(OUT), "float32")
    assert not [token for token in tokenizer.get_vocab() if "SEG" in token or "REJ" in token]


def test_the_committed_model_answers_with_places() -> None:
    """How many are right is measured by stages/demo/ask.py; docs/results.md has the figures."""
    model, tokenizer = load_llava(str(OUT), "float32")
    asked = [(seen, q) for seen in see(range(42, 43), CLIP) for q in seen.about.asked][:8]
    found = answers(model.eval(), tokenizer, asked)
    assert sum(bool(places(text)) or "nowhere" in text for text in found) >= 7


def test_judging() -> None:
    assert judge({(3, 5)}, {(3, 5)}) == (True, True)
    assert judge({(3, 5)}, {(4, 4)}) == (False, True)
    assert judge({(3, 5)}, {(5, 5)}) == (False, False)
    assert judge({(3, 5), (1, 1)}, {(3, 5)}) == (False, False)
    assert judge(set(), set()) == (True, True)
    assert judge(set(), {(1, 1)}) == (False, False)
