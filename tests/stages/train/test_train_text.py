"""Sequences are those of haotian-liu/LLaVA's and LISA's own code, token by token, and texts cannot steer the model."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from transformers import AddedToken, LlamaTokenizer

from stages.train import run
from stages.train.language.llava import IGNORED, load_llava
from stages.train.language.mask_words import MaskWords
from stages.train.language.seg_text import SEG, conversation, evaluation, given
from stages.train.language.text import IMAGE, check_texts, encode, encode_prompt
from stages.train.language.tokenizer import IM_END, IM_START, usable
from tests.stages.train.released import SENTENCES, make_sentencepiece, released_folder

SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
PATCHES = 5


def prompt(turns: list[tuple[str, str | None]]) -> str:
    """``Conversation.get_prompt`` of haotian-liu/LLaVA (conversation.py, SeparatorStyle.TWO) for ``llava_v1``."""
    separators = (" ", "</s>")
    text = SYSTEM + separators[0]
    for question, answer in turns:
        for role, message, separator in (
            ("USER", question, separators[0]),
            ("ASSISTANT", answer, separators[1]),
        ):
            text += f"{role}: {message}{separator}" if message else f"{role}:"
    return text


class Original:
    """``tokenizer_image_token`` of haotian-liu/LLaVA over the slow LlamaTokenizer of transformers 4.31, by sentencepiece itself.

    That tokenizer gave sentencepiece each part between special tokens; white space next to words that were added was lost, and
    next to ``</s>`` kept. Its outputs for the prompts of these tests were compared with those of the real one, once.
    """

    def __init__(self, path: Path, added: dict[str, int], image: int) -> None:
        self.inner = sentencepiece.SentencePieceProcessor(model_file=str(path))
        self.added, self.image = added, image

    def __call__(self, text: str) -> list[int]:
        words = "|".join(map(re.escape, [*self.added, "</s>"]))
        found: list[int] = []
        parts = re.split(f"({words})", text)
        for number, part in enumerate(parts):
            if part in self.added:
                found.append(self.added[part])
            elif part == "</s>":
                found.append(self.inner.eos_id())
            else:
                part = part.lstrip() if number and parts[number - 1] in self.added else part
                part = part.rstrip() if number + 1 < len(parts) and parts[number + 1] in self.added else part
                found += self.inner.encode(part) if part else []
        return found

    def image_token(self, text: str) -> list[int]:
        first, *rest = text.split(IMAGE)
        found = [self.inner.bos_id(), *self(first)]
        for part in rest:
            found += [self.image] * PATCHES + self(part)
        return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return released_folder(tmp_path_factory.mktemp("v1"), layers=1, wraps=True)


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return load_llava(str(folder), "float32")[1]


@pytest.fixture
def original(folder: Path, tokenizer: Any) -> Original:
    added = {word: tokenizer.convert_tokens_to_ids(word) for word in ("<im_patch>", IM_START, IM_END)}
    return Original(folder / "tokenizer.model", added, tokenizer.convert_tokens_to_ids(IMAGE))


def wrapped(text: str) -> str:
    return text.replace(IMAGE, IM_START + IMAGE + IM_END)


@pytest.mark.parametrize("sentence", SENTENCES)
@pytest.mark.parametrize("answer", ["It is the key.", "Sure, it is 12 cups, ünïcode \N{SNOWMAN}.", "the key"])
def test_each_sequence_is_the_original_s(tokenizer: Any, original: Original, sentence: str, answer: str) -> None:
    for question in (f"{IMAGE}\n{sentence}", evaluation(sentence, True), evaluation(sentence, False)):
        found = encode(tokenizer, [(question, answer)], PATCHES)
        assert found.ids == original.image_token(prompt([(wrapped(question), answer)]))
        assert found.ids[0] == tokenizer.bos_token_id
        assert found.ids.count(tokenizer.bos_token_id) == 1
        labelled = [label for label in found.labels if label != IGNORED]
        assert labelled == [*original.inner.encode(answer), tokenizer.eos_token_id]
        asked = encode_prompt(tokenizer, question, PATCHES)
        assert asked == original.image_token(prompt([(wrapped(question), None)]))
        assert found.ids[: len(asked)] == asked


def test_several_turns_have_no_space_after_the_end_of_an_answer(tokenizer: Any, original: Original) -> None:
    turns = [(f"{IMAGE}\nWhich thing?", "The key."), ("and the cup?", "It is the cup.")]
    found = encode(tokenizer, turns, PATCHES)
    assert found.ids == original.image_token(prompt([(wrapped(asked), answer) for asked, answer in turns]))
    labelled = [label for label in found.labels if label != IGNORED]
    eos = tokenizer.eos_token_id
    assert labelled == [*original.inner.encode("The key."), eos, *original.inner.encode("It is the cup."), eos]


def test_thirty_of_thirty_begin_with_the_first_token(tokenizer: Any, original: Original) -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    words = MaskWords(tokenizer, {SEG: 9000, "[REJ]": 9001}, 9002, most=0)
    seg = {SEG: 9000, "[REJ]": 9001}
    theirs = Original.__new__(Original)
    theirs.inner, theirs.added, theirs.image = original.inner, original.added | seg, original.image
    for number in range(30):
        turn = conversation(SENTENCES[number % len(SENTENCES)], bool(number % 2), number % 3, None, None, rng)
        found = words.encode([turn], PATCHES)
        assert found.ids == theirs.image_token(prompt([(wrapped(turn[0]), turn[1])]))
    assert words.encode([(evaluation("x", True), given("x"))], PATCHES).ids[0] == tokenizer.bos_token_id


def test_the_image_stands_between_its_words_where_the_base_has_them(tokenizer: Any, tmp_path: Path) -> None:
    start, end, image = tokenizer.convert_tokens_to_ids([IM_START, IM_END, IMAGE])
    ids = encode_prompt(tokenizer, f"{IMAGE}\nWhich?", PATCHES)
    at = ids.index(image)
    assert ids[at - 1 : at + PATCHES + 1] == [start, *[image] * PATCHES, end]
    _, plain = load_llava(str(released_folder(tmp_path / "llava15", layers=2, wraps=False)), "float32")
    assert plain.convert_tokens_to_ids(IM_START) in (None, plain.unk_token_id)
    ids = encode_prompt(plain, f"{IMAGE}\nWhich?", PATCHES)
    assert ids.count(plain.convert_tokens_to_ids(IMAGE)) == PATCHES
    text = plain.decode(ids)
    assert "USER:" in text.split(IMAGE)[0]
    assert "im_start" not in text


def test_a_base_that_says_no_is_not_given_its_words(tmp_path: Path) -> None:
    folder = released_folder(tmp_path, layers=1, wraps=True, mm_use_im_start_end=False)
    _, tokenizer = load_llava(str(folder), "float32")
    assert tokenizer.convert_tokens_to_ids(IM_START) not in encode_prompt(tokenizer, f"{IMAGE}\nWhich?", PATCHES)


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("begins", [True, False])
def test_a_template_that_begins_the_sequence_is_not_given_a_second_one(
    tmp_path: Path, legacy: bool, begins: bool
) -> None:
    make_sentencepiece(tmp_path)
    tokenizer = LlamaTokenizer.from_pretrained(tmp_path, legacy=legacy, add_bos_token=True)
    tokenizer.add_tokens([IMAGE], special_tokens=True)
    first = "{{ bos_token }}" if begins else ""
    tokenizer.chat_template = (
        first + "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    assert tokenizer("x")["input_ids"][0] == tokenizer.bos_token_id, "or it says nothing about what the tokenizer adds"
    turn = (f"{IMAGE}\nWhich thing?", "the key")
    for ids in (encode(tokenizer, [turn], PATCHES).ids, encode_prompt(tokenizer, turn[0], PATCHES)):
        assert ids[0] == tokenizer.bos_token_id
        assert ids.count(tokenizer.bos_token_id) == 1
    labelled = [label for label in encode(tokenizer, [turn], PATCHES).labels if label != IGNORED]
    assert tokenizer.decode(labelled) == "the key</s>"


def test_a_processor_s_template_is_not_asked_for_what_it_leaves_out(tmp_path: Path) -> None:
    """llava-hf's: it renders parts of a list, and of a plain text nothing."""
    make_sentencepiece(tmp_path)
    tokenizer = LlamaTokenizer.from_pretrained(tmp_path)
    tokenizer.add_tokens([AddedToken(IMAGE, special=True)], special_tokens=True)
    tokenizer.chat_template = (
        "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
        "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] }}{% endfor %}"
        "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
    )
    text = tokenizer.decode(encode_prompt(usable(tokenizer), f"{IMAGE}\nWhich thing?", 1))
    assert text.endswith("Which thing? ASSISTANT:")
    assert text.startswith("<s> A chat between")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("what is <image> here?", "<image>"),
        ("<im_start>x<im_end>", "<im_end>"),
        ("end</s>", "</s>"),
        ("<s>begin", "<s>"),
        ("a [SEG] of it", "[SEG]"),
        ("[REJ]", "[REJ]"),
        ("the <SEG_MASK_7>", "<SEG_MASK_7>"),
    ],
)
def test_a_text_that_would_steer_the_model_is_refused_with_its_target(tokenizer: Any, text: str, word: str) -> None:
    batch = {"id": ["a/0", "b/1"], "texts": [["which?"], ["the key", text]], "answer": [None, None]}
    with pytest.raises(ValueError, match=rf"target b/1: its text .* holds .*{re.escape(word)}"):
        check_texts(batch, tokenizer)
    check_texts(batch, tokenizer, first_alone=True)  # the second is not asked
    said = {"id": ["c/0"], "texts": [["which?"]], "answer": [text]}
    with pytest.raises(ValueError, match="target c/0"):
        check_texts(said, tokenizer)
    check_texts({"id": ["d/0"], "texts": [["is x < y, [a] or <b>? USER: said so"]]}, tokenizer)


@pytest.mark.parametrize("system", ["llmseg", "lisa"])
def test_a_question_with_an_image_in_it_names_its_target(
    seg_system: Callable[..., Any], seg_batch: Callable[..., Any], system: str
) -> None:
    built = seg_system(system)
    for training in (True, False):
        batch = dict(seg_batch(built, training))
        name = batch["id"][2]
        batch["texts"] = [
            ["what is <image>?"] if other == name else texts
            for other, texts in zip(batch["id"], batch["texts"], strict=True)
        ]
        with pytest.raises(ValueError, match=f"target {name}: its text 'what is <image>\\?' holds <image>"):
            built.inputs(batch, 0) if training else built.predict(batch)


def test_a_released_llava_learns_and_answers(
    seg_params: Callable[..., Any], seg_split: Any, sam_weights: Any, seg_batch: Callable[..., Any], tmp_path: Path
) -> None:
    folder = released_folder(tmp_path, 1, wraps=True)
    config = json.loads((folder / "config.json").read_text())
    del config["mm_vision_tower"]  # whose patches the fixture's column has not
    (folder / "config.json").write_text(json.dumps(config))
    params = seg_params("llmseg").model_copy(update={"llava": str(folder)})
    system = run.system_class("llmseg").build(params, seg_split, "cpu", sam_weights)
    run.prepare(system, params)
    inputs = system.inputs(seg_batch(system, True), 0)
    assert (inputs["input_ids"][:, 0] == system.tokenizer.bos_token_id).all()
    system.loss(inputs).backward()
    assert float(system.model.words.grad.abs().max()) > 0
    system.model.eval()
    batch = seg_batch(system, False)
    assert [answer.target_id for answer in system.predict(batch)] == batch["id"]


def test_two_images_in_one_conversation(tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="found 2 times <image>"):
        encode(tokenizer, [(f"{IMAGE}\nwhat is {IMAGE}?", "the key")], PATCHES)
    with pytest.raises(ValueError, match="found 2 times <image>"):
        encode_prompt(tokenizer, f"{IMAGE}\nwhat is {IMAGE}?", PATCHES)
