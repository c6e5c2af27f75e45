"""The demo's language model: what it is told, its tokenizer, its training, and what the committed one knows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from demo.data.questions import questions
from demo.data.scenes import SceneObject, scene
from demo.measure.ask import answers, judge, places
from demo.models.dialogues import (
    COLUMNS,
    EMPTY,
    GRID,
    NOTHING,
    PLACES,
    WORDS,
    Thing,
    answer,
    caption,
    corpus,
    exchange,
    reading,
    talk,
)
from demo.models.llava_examples import batch_of, batches, lexicon, see, token_ids
from demo.models.looking import LAYERS, carry_over
from demo.models.train_encoders import Length
from demo.models.train_llava import (
    OUT,
    SEEN_WEIGHT,
    SPECIAL,
    features_of,
    groups_of,
    loss_of,
    make_config,
    make_tokenizer,
    start,
    train,
)
from stages.train.language.llava import IGNORED, FeatureLlava, load_llava
from stages.train.language.text import IMAGE, encode

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


def test_an_exchange_says_what_its_answer_may_begin_with_and_nothing_of_masks() -> None:
    rng = np.random.default_rng(0)
    about = talk(scene(43), rng)
    said = [exchange(about, rng) for _ in range(300)]
    assert len({one.question for one in said}) > 100
    chances = [one.first for one in said if one.first]
    assert all(abs(sum(first.values()) - 1) < 1e-9 for first in chances)
    assert {NOTHING} in [set(first) for first in chances]
    for one in said:
        words = [word for word in re.findall(r"\w+", one.answer) if word in one.first]
        assert set(words) == set(one.first)
    text = " ".join(text for one in said for text in (one.question, one.answer))
    assert not re.search(r"SEG|REJ", text)


def test_no_family_of_questions_takes_up_all_the_time() -> None:
    rng = np.random.default_rng(0)
    about = talk(scene(43), rng)
    of = {text: asked.family for asked in about.asked for text in asked.texts if asked.is_sentence}
    told = [of[one.question] for one in (exchange(about, rng) for _ in range(2000)) if one.question in of]
    share = {family: sum(asked.family == family for asked in about.asked if asked.is_sentence) for family in set(told)}
    most = max(share, key=lambda family: share[family])
    assert told.count(most) / len(told) < share[most] / sum(share.values())
    assert set(told) == set(of.values())


def test_read_cells_show_what_covers_them() -> None:
    drawn = scene(44)
    about = talk(drawn, np.random.default_rng(0))
    height, width = drawn.image.shape[:2]
    read = " ".join(reading(about, np.random.default_rng(seed)).answer for seed in range(4))
    found = dict(re.findall(r"([a-h]\d) (nothing|\w+ \w+ \w+)", read))
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


def test_a_cell_knows_the_middle_of_what_covers_it() -> None:
    drawn = scene(44)
    about = talk(drawn, np.random.default_rng(0))
    spots = {(thing.label, thing.colour, thing.texture): thing.place for thing in about.things}
    assert len(spots) == len(about.things)  # or the scene is no example
    full = [row for row in about.cells.tolist() if row[0] >= 0]
    assert len(full) > 5
    for *attributes, place in full:
        what = tuple(words[number] for words, number in zip(WORDS, attributes, strict=True))
        assert spots[what] == PLACES[place]
    assert any(row == [EMPTY] * 4 for row in about.cells.tolist())


def test_a_batch_is_what_the_whole_conversations_are(tokenizer: Any) -> None:
    """Questions behind one image's keys and values: the same tokens, labels and states as each conversation on its own."""
    chosen, known, turns = see(SEEDS, CLIP)[:2], lexicon(tokenizer), 3
    batch = batch_of(chosen, tokenizer, known, np.random.default_rng(0), turns)
    torch.manual_seed(0)
    model = FeatureLlava(make_config(tokenizer)).eval()
    start(model, tokenizer, chosen)
    rng = np.random.default_rng(0)
    said = [exchange(one.about, rng) for one in chosen for _ in range(turns)]
    spoken, first, words, told = [], [], 0, [0] * len(said)
    for part in batch.questions:
        for row, image in enumerate(part.image.tolist()):
            space = tokenizer.decode(part.input_ids[row]).removeprefix("\n").startswith(" ")
            asked = tokenizer.decode(part.input_ids[row][: int(part.attention_mask[row].sum())])
            number = next(
                number
                for number, one in enumerate(said)
                if number // turns == image and not told[number] and f"{one.question}<end_of_turn>" in asked
            )
            one, told[number] = said[number], 1
            turn = (f"{IMAGE}\n{' ' * space}{one.question}", one.answer)
            whole = encode(tokenizer, [turn], len(chosen[0].features))
            length = int(part.attention_mask[row].sum())
            ids, labels = (torch.tensor(found[-length:]) for found in (whole.ids, whole.labels))
            assert torch.equal(part.input_ids[row, :length], ids)
            kept = part.labels[row, :length] != IGNORED
            assert torch.equal(part.labels[row, :length][kept], labels[kept])
            features = torch.from_numpy(chosen[image].features)[None].float()
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([whole.ids]), pixel_values=features).logits[0, -length:]
            likely = logits.log_softmax(-1)
            spoken += [-likely[at - 1, labels[at]] for at in kept.nonzero()[:, 0].tolist()]
            rows = part.first[:, 0] == row
            for (_, at, word), chance in zip(part.first[rows].tolist(), part.chances[rows].tolist(), strict=True):
                first.append(-chance * likely[at, word])
            words += bool(one.first)
    assert all(told)
    with torch.no_grad():
        found = loss_of(model, batch, known)
    without = found - SEEN_WEIGHT * _seen(model, chosen, batch.cells, tokenizer)
    expected = torch.stack(spoken).mean() + torch.stack(first).sum() / words
    torch.testing.assert_close(without, expected, atol=2e-4, rtol=2e-4)


def _seen(model: FeatureLlava, chosen: list[Any], cells: torch.Tensor, tokenizer: Any) -> torch.Tensor:
    """Mean entropy of the words for what a patch shows, from a run over the images alone."""
    known = lexicon(tokenizer)
    ids = torch.tensor([[*known.before, *[model.config.image_token_id] * len(chosen[0].features)]] * len(chosen))
    features = torch.from_numpy(np.stack([one.features for one in chosen])).float()
    with torch.no_grad():
        logits = model(input_ids=ids, pixel_values=features).logits[:, len(known.before) :]
    full, losses = cells[..., 0] >= 0, []
    for kind, tokens in enumerate(known.kinds):
        losses.append(torch.nn.functional.cross_entropy(logits[full][:, tokens], cells[full][:, kind]))
    return torch.stack(losses).mean()


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


def test_a_model_goes_on_with_another_tower(tokenizer: Any) -> None:
    torch.manual_seed(0)
    model = FeatureLlava(make_config(tokenizer))
    seen = see(SEEDS, CLIP)
    start(model, tokenizer, seen)
    before = features_of(seen)
    other = before @ torch.linalg.qr(torch.randn(before.shape[-1], before.shape[-1]))[0] + 1
    with torch.no_grad():
        entered = model.model.multi_modal_projector(before)
        apart = (model.model.multi_modal_projector(other) - entered).square().mean()
        carry_over(model, before, other)
        left = (model.model.multi_modal_projector(other) - entered).square().mean()
    assert left < 0.3 * entered.var()
    assert left < 0.3 * apart


def test_every_parameter_is_trained_once(tokenizer: Any) -> None:
    model = FeatureLlava(make_config(tokenizer))
    named = [id(weight) for groups in groups_of(model) for group in groups for weight in group["params"]]
    assert sorted(named) == sorted(id(weight) for weight in model.parameters())


def test_a_word_of_two_tokens_is_refused(tokenizer: Any) -> None:
    assert len(token_ids(tokenizer, [*PLACES, *(word for words in WORDS for word in words)])) == 64 + 32
    with pytest.raises(ValueError, match="apart: unheardof"):
        token_ids(tokenizer, ["c5", "unheardof"])


@pytest.mark.slow
def test_training_learns_and_what_is_saved_is_loaded(tokenizer: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = make_config(tokenizer)
    config.text_config.num_hidden_layers = 1
    model = FeatureLlava(config)
    seen = see(range(42, 43), CLIP)
    start(model, tokenizer, seen)
    known = lexicon(tokenizer)
    asked = batch_of(seen, tokenizer, known, np.random.default_rng(1), 8)
    before = float(loss_of(model, asked, known).detach())
    train(model, tokenizer, batches(seen, tokenizer, np.random.default_rng(0), 1, 8), Length(40))
    assert float(loss_of(model, asked, known).detach()) < before - 0.2
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
    """How many are right is measured by demo/measure/ask.py; docs/results.md has the figures."""
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
