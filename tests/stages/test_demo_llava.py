"""The demo's language model: what it is told, its tokenizer, its training, and what the committed one knows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stages.demo import train_llava
from stages.demo.ask import answers, judge, places
from stages.demo.dialogues import (
    COLUMNS,
    GRID,
    NOTHING,
    PLACES,
    WORDS,
    Thing,
    answer,
    caption,
    corpus,
    dialogue,
    reading,
    talk,
)
from stages.demo.looking import LAYERS
from stages.demo.questions import questions
from stages.demo.scenes import SceneObject, scene
from stages.demo.train_encoders import Length
from stages.demo.train_llava import (
    OUT,
    SPECIAL,
    Clock,
    examples,
    groups_of,
    make_config,
    make_tokenizer,
    see,
    start,
    token_ids,
    train,
)
from stages.train.llava import FeatureLlava, load_llava
from stages.train.text import IMAGE, collate

SEEDS = range(42, 46)
CLIP = OUT.parent / "demo_clip.safetensors"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    rng = np.random.default_rng(0)
    return make_tokenizer(corpus([talk(scene(seed), rng) for seed in SEEDS], rng))


def middle(thing: SceneObject) -> tuple[int, int]:
    rows, columns = np.nonzero(thing.visible)
    height, width = thing.visible.shape
    x, y = columns.mean() + 0.5, rows.mean() + 0.5  # the middle of a pixel
    return int(GRID * x / width) + 1, int(GRID * y / height) + 1


def test_places_are_those_of_the_objects_that_answer() -> None:
    drawn = scene(42)
    about = talk(drawn, np.random.default_rng(0))
    asked = questions(drawn, np.random.default_rng(0))
    assert len(asked) == len(about.asked)
    for question, told in zip(asked, about.asked, strict=True):
        meant = [drawn.objects[number] for number in question.objects]
        said = answer(told.things, np.random.default_rng(0))
        assert places(said) == {middle(thing) for thing in meant}
        assert (" nothing." in said) == (not meant)
        assert all(f" {thing.label}" in said and f" {thing.colour}" in said for thing in meant)
    assert places(caption(about)) == {middle(thing) for thing in drawn.objects}


def test_an_answer_begins_with_any_of_its_words() -> None:
    things = [Thing("key", "blue", "dotted", "c5"), Thing("cup", "red", "plain", "a1")]
    known = {"key", "blue", "c5", "cup", "red", "a1"}
    rng = np.random.default_rng(0)
    said = [[word for word in re.findall(r"\w+", answer(things, rng)) if word in known] for _ in range(200)]
    assert {words[0] for words in said} == known
    assert all(set(words) == known for words in said)
    assert all(len({*words[:3]} & {"key", "blue", "c5"}) in (0, 3) for words in said)  # one thing after the other


def test_a_dialogue_has_questions_with_answers_and_speaks_of_no_masks() -> None:
    rng = np.random.default_rng(0)
    about = talk(scene(43), rng)
    turns = dialogue(about, rng, 8)
    assert len(turns) == 8
    text = " ".join([*corpus([about], rng), *reading(about, rng)])
    assert "[SEG]" not in text
    assert "SEG_MASK" not in text
    assert "[REJ]" not in text


def test_read_cells_show_what_covers_them() -> None:
    drawn = scene(44)
    about = talk(drawn, np.random.default_rng(0))
    height, width = drawn.image.shape[:2]
    found = dict(re.findall(r"([a-h]\d) (nothing|\w+ \w+ \w+)", reading(about, np.random.default_rng(0))[1]))
    assert len(found) > 10
    assert "nothing" in found.values()
    for name, words in found.items():
        column, row = COLUMNS.index(name[0]), int(name[1]) - 1
        window = (
            slice(row * height // GRID, (row + 1) * height // GRID),
            slice(column * width // GRID, (column + 1) * width // GRID),
        )
        covered = {
            f"{thing.colour} {thing.texture} {thing.label}": thing.visible[window].mean() for thing in drawn.objects
        }
        if words == "nothing":
            assert sum(covered.values()) < 0.15
        else:
            assert covered[words] > 0.35


def test_the_tokenizer_gives_back_what_it_took(tokenizer: Any) -> None:
    text = "Which thing opens a lock? c5, ünknown \N{SNOWMAN}."
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    assert [tokenizer.convert_tokens_to_ids(token) for token in SPECIAL] == list(range(len(SPECIAL)))
    assert len(tokenizer(IMAGE * 3, add_special_tokens=False)["input_ids"]) == 3


def test_at_the_start_a_word_for_a_place_looks_at_the_patch_there(tokenizer: Any) -> None:
    torch.manual_seed(0)
    model = FeatureLlava(make_config(tokenizer))
    seen = see(SEEDS, CLIP)
    start(model, tokenizer, seen)
    model.set_attn_implementation("eager")
    words = token_ids(tokenizer, PLACES)
    ids = torch.tensor([[*[model.config.image_token_id] * 64, *words]])
    features = torch.from_numpy(seen[0].features)[None].float()
    with torch.inference_mode():
        layers = model(input_ids=ids, pixel_values=features, output_attentions=True).attentions
    for layer in layers[:LAYERS]:
        looked = layer[0, :, 64:, :64].mean(0)
        assert float((looked.argmax(1) == torch.arange(64)).float().mean()) > 0.5
    later = layers[LAYERS][0, :, 64:, :64].mean(0)
    assert float((later.argmax(1) == torch.arange(64)).float().mean()) < 0.2


def test_at_the_start_places_near_each_other_are_alike(tokenizer: Any) -> None:
    torch.manual_seed(0)
    model = FeatureLlava(make_config(tokenizer))
    start(model, tokenizer, see(SEEDS, CLIP))
    table = model.get_input_embeddings().weight[token_ids(tokenizer, PLACES)].detach()
    alike = torch.corrcoef(table)
    steps = torch.tensor([[column, row] for row in range(GRID) for column in range(GRID)]).float()
    apart = torch.cdist(steps, steps)
    means = [float(alike[(apart >= least) & (apart < most)].mean()) for least, most in ((0.5, 1.5), (1.5, 4), (4, 20))]
    assert means[0] > 0.5 > means[1] > means[2]
    assert float(alike.fill_diagonal_(0).max()) < 0.9


def test_every_parameter_is_trained_once(tokenizer: Any) -> None:
    model = FeatureLlava(make_config(tokenizer))
    named = [id(weight) for groups in groups_of(model) for group in groups for weight in group["params"]]
    assert sorted(named) == sorted(id(weight) for weight in model.parameters())


def test_a_word_of_two_tokens_is_refused(tokenizer: Any) -> None:
    assert len(token_ids(tokenizer, [*PLACES, *(word for words in WORDS for word in words)])) == 64 + 32
    with pytest.raises(ValueError, match="apart: unheardof"):
        token_ids(tokenizer, ["c5", "unheardof"])


def test_training_learns_and_what_is_saved_is_loaded(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_llava, "BATCH", 2)
    torch.manual_seed(0)
    config = make_config(tokenizer)
    config.text_config.num_hidden_layers = 1
    model = FeatureLlava(config)
    seen = see(range(42, 43), CLIP)
    start(model, tokenizer, seen)
    source = examples(seen, tokenizer, np.random.default_rng(0), lambda: 1.0)
    encoded, features = next(source)
    inputs = {**collate([encoded], 0), "pixel_values": torch.from_numpy(features)[None].float()}
    before = float(model(**inputs).loss.detach())
    train(model, source, Length(70), tokenizer.pad_token_id, Clock())
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
    assert sum(bool(places(text)) or NOTHING in text for text in found) >= 7


def test_judging() -> None:
    assert judge({(3, 5)}, {(3, 5)}) == (True, True)
    assert judge({(3, 5)}, {(4, 4)}) == (False, True)
    assert judge({(3, 5)}, {(5, 5)}) == (False, False)
    assert judge({(3, 5), (1, 1)}, {(3, 5)}) == (False, False)
    assert judge(set(), set()) == (True, True)
    assert judge(set(), {(1, 1)}) == (False, False)
