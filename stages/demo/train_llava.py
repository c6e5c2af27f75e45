"""Pre-trains `demo_llava`, a LLaVA-Gemma of 3.4 million parameters, on captions and questions of generated scenes.

`python -m stages.demo.train_llava`. The classes are Hugging Face's (Gemma, LLaVA's projector), the image is what `demo_clip`
makes of it (64 patch tokens), and the text is `stages.demo.dialogues`: never a segmentation token. What is learned
is to find what a question means; to answer with masks is what the three systems learn later, each in its way.
It starts as `stages.demo.looking` says, reads out single cells of the picture for a while, and then converses.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import nn
from tqdm import tqdm
from transformers import GemmaConfig, LlavaConfig, PreTrainedTokenizerFast

from stages.demo.dialogues import PLACES, WORDS, Talk, Turn, corpus, dialogue, reading, talk
from stages.demo.looking import LAYERS, start_looking
from stages.demo.scenes import scene
from stages.demo.train_encoders import Length
from stages.encoders import ENCODERS, build, embed_all
from stages.train.llava import IGNORED, FeatureLlava, load_llava
from stages.train.text import IMAGE, Encoded, collate, encode

FIRST_SEED = 1_500_000_000  # the data set and the evaluation use smaller seeds
SCENES = 10_000
TURNS = 6
STEPS = 3300
BATCH = 16
OUT = Path(__file__).parent / "models/demo_llava"
VOCABULARY = 1024
READING = 0.12
"""Part of the training that reads cells alone; later every sixth row does."""
LEARNING_RATE = 0.002
SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>", IMAGE)
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<start_of_turn>{{ 'model' if message['role'] == 'assistant' else 'user' }}\n"
    "{{ message['content'] }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
"""Gemma's turns."""
TASK_WORDS = (
    "Please respond with segmentation mask. Please output segmentation mask and explain why. Can you segment the in this image? "
    "Sure, the segmentation result is. Output Generate Provide the mask for the object in the image. It is located at."
)
"""Words of the systems' templates, so that the tokenizer has them."""


@dataclass(frozen=True)
class Seen:
    """What can be said about a scene, and its patch features, float16 [64, 128]."""

    about: Talk
    features: np.ndarray


@dataclass
class Clock:
    """Which part of the training lies behind, 0 to 1."""

    done: float = 0.0


def make_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """A BPE tokenizer as Gemma's: spaces are a letter, bytes are a last resort; punctuation stands alone."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("▁", "merged_with_next"), pre_tokenizers.Punctuation("isolated")]
    )
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    letters = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[*SPECIAL, *letters], show_progress=False, min_frequency=2
    )
    a_token_each = "".join(f" {word}" for words in (PLACES, *WORDS) for word in words)
    tokenizer.train_from_iterator([*texts, *[TASK_WORDS, a_token_each] * 50], trainer)
    document = json.loads(tokenizer.to_str())
    document["added_tokens"] = [
        token for token in document["added_tokens"] if token["content"] in SPECIAL
    ]  # not the bytes
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(document)),
        bos_token="<bos>",
        eos_token="<end_of_turn>",
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=["<start_of_turn>", IMAGE],
        chat_template=TEMPLATE,
        padding_side="right",
    )


def make_config(tokenizer: Any) -> LlavaConfig:
    """The architecture: LLaVA-Gemma, tiny."""
    line = ENCODERS["demo_clip"]
    text = GemmaConfig(
        vocab_size=VOCABULARY, hidden_size=192, intermediate_size=576, num_hidden_layers=5, num_attention_heads=4,
        num_key_value_heads=4, head_dim=96, max_position_embeddings=2048, pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e8},
    )  # fmt: skip
    vision = {
        "model_type": "clip_vision_model", "hidden_size": line.dim, "num_hidden_layers": line.options["layers"],
        "num_attention_heads": line.options["heads"], "intermediate_size": 4 * line.dim,
        "image_size": line.options["input_px"], "patch_size": line.options["patch_px"],
    }  # fmt: skip
    return LlavaConfig(
        text_config=text, vision_config=vision, image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=line.tokens, tie_word_embeddings=True,
    )  # fmt: skip


def see(seeds: Sequence[int], clip: Path) -> list[Seen]:
    """Draw scenes and embed them."""
    torch.set_num_threads(1)
    model = build("demo_clip", {"demo_clip": clip}, "cpu", 1)
    drawn = [scene(seed) for seed in seeds]
    return [
        Seen(talk(each, np.random.default_rng(each.seed)), features.astype(np.float16))
        for each, features in zip(drawn, embed_all(model, [(each.image,) for each in drawn]), strict=True)
    ]


def see_all(count: int, first: int, clip: Path, processes: int) -> list[Seen]:
    """``see`` in several processes."""
    parts = [range(start, min(start + 100, first + count)) for start in range(first, first + count, 100)]
    with ProcessPoolExecutor(processes) as pool:
        found = tqdm(pool.map(partial(see, clip=clip), parts), total=len(parts), unit="100 scenes", disable=None)
        return [seen for part in found for seen in part]


def examples(
    seen: Sequence[Seen], tokenizer: Any, rng: np.random.Generator, begun: Callable[[], float]
) -> Iterator[tuple[Encoded, np.ndarray]]:
    """Conversations about scenes in random order, for ever; ``begun`` says which part of the training lies behind."""
    places = set(token_ids(tokenizer, PLACES))
    while True:
        for number in rng.permutation(len(seen)):
            one = seen[number]
            if begun() < READING or rng.random() < 1 / 6:
                row = encode(tokenizer, _with_image([reading(one.about, rng)], rng), len(one.features))
                labels = [
                    IGNORED if label in places else label for label in row.labels
                ]  # which cell comes next is chance
                yield Encoded(row.ids, labels), one.features
            else:
                turns = _with_image(dialogue(one.about, rng, TURNS), rng)
                yield encode(tokenizer, turns, len(one.features)), one.features


def _with_image(turns: list[Turn], rng: np.random.Generator) -> list[Turn]:
    (asked, answer), *others = turns
    space = " " if rng.random() < 0.5 else ""  # LISA's validation has one, its training none
    return [(f"{IMAGE}\n{space}{asked}", answer), *others]


def token_ids(tokenizer: Any, words: Sequence[str]) -> list[int]:
    """The one token of each word inside a text.

    Raises:
        ValueError: a word is more than one token.
    """
    found = [tokenizer(f" {word}", add_special_tokens=False)["input_ids"] for word in words]
    if torn := [word for word, ids in zip(words, found, strict=True) if len(ids) != 1]:
        raise ValueError(f"the tokenizer takes these words apart: {', '.join(torn)}")
    return [ids[0] for ids in found]


def start(model: FeatureLlava, tokenizer: Any, seen: Sequence[Seen]) -> None:
    """``start_looking`` by what the cells of some scenes show."""
    features = torch.from_numpy(np.stack([one.features for one in seen])).float()
    cells = torch.from_numpy(np.stack([one.about.cells for one in seen])).long()
    shown = [
        nn.functional.one_hot(cells[..., kind].clamp(min=0), len(words)) * (cells[..., kind, None] >= 0)
        for kind, words in enumerate(WORDS)
    ]
    words = token_ids(tokenizer, [word for words in WORDS for word in words])
    places = token_ids(tokenizer, PLACES)
    start_looking(model, features, torch.cat(shown, dim=-1).float(), torch.tensor(words), torch.tensor(places))


def groups_of(model: FeatureLlava) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Parameter groups for Muon (matrices of the language model) and AdamW (all else), with the part of the learning rate of each.

    What looks words up from the start moves slowly: at the full rate it is forgotten before it is of any use.
    """
    looking = tuple(f"language_model.layers.{layer}.self_attn." for layer in range(LAYERS))
    slow, fast, words, others = (list[nn.Parameter]() for _ in range(4))
    for name, weight in model.named_parameters():
        if weight.ndim == 2 and "language_model.layers" in name:
            (slow if any(part in name for part in looking) else fast).append(weight)
        else:
            (words if "embed_tokens" in name or "projector" in name else others).append(weight)
    return (
        [{"params": fast, "part": 1.0}, {"params": slow, "part": 0.2}],
        [{"params": others, "part": 1.0}, {"params": words, "part": 0.1}],
    )


def train(
    model: FeatureLlava,
    source: Iterator[tuple[Encoded, np.ndarray]],
    length: Length,
    pad_id: int,
    clock: Clock,
    learning_rate: float = LEARNING_RATE,
) -> None:
    """Next-token loss on the answers."""
    matrices, rest = groups_of(model)
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=learning_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=learning_rate, weight_decay=0.01, betas=(0.9, 0.98)),
    ]
    clipped = [weight for group in rest for weight in group["params"]]
    began, step, shown = time.perf_counter(), 0, 0.0
    while (done := length.done(step, time.perf_counter() - began)) < 1:
        clock.done = done
        rate = learning_rate * min(1.0, (step + 1) / 50) * (0.02 + 0.98 * (1 + math.cos(math.pi * done)) / 2)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group["part"]
            optimizer.zero_grad()
        rows = [next(source) for _ in range(BATCH)]
        inputs = collate([encoded for encoded, _ in rows], pad_id)
        features = torch.from_numpy(np.stack([features for _, features in rows])).float()
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(**inputs, pixel_values=features).loss
        loss.backward()
        nn.utils.clip_grad_norm_(clipped, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        shown = 0.98 * shown + 0.02 * loss.item() if step else loss.item()
        step += 1
        if step % 50 == 0:
            spent = (time.perf_counter() - began) / step
            print(f"demo_llava: step {step}, loss {shown:.3f}, {spent:.2f} s a step", file=sys.stderr, flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m stages.demo.train_llava", description=__doc__)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--minutes", type=float, help="train so long by the clock instead")
    parser.add_argument("--scenes", type=int, default=SCENES)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument(
        "--from", dest="begun", type=Path, help="go on with the model in this folder, at half of the learning rate"
    )
    parser.add_argument("--seed", type=int, default=0, help="another one to go on with")
    parser.add_argument("--clip", type=Path, default=OUT.parent / "demo_clip.safetensors")
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    rng = np.random.default_rng(arguments.seed)
    seen = see_all(arguments.scenes, FIRST_SEED, arguments.clip, arguments.processes)
    model: FeatureLlava
    length, clock, rate = Length(arguments.steps, arguments.minutes), Clock(), LEARNING_RATE
    if arguments.begun:
        model, tokenizer = load_llava(str(arguments.begun), "float32")
        model.train().requires_grad_(True)
        rate /= 2
    else:
        tokenizer = make_tokenizer(corpus([each.about for each in seen[:1000]], rng))
        model = FeatureLlava(make_config(tokenizer))
        start(model, tokenizer, seen[:1500])
    source = examples(seen, tokenizer, rng, lambda: 1.0 if arguments.begun else clock.done)
    train(model, source, length, tokenizer.pad_token_id, clock, rate)
    model.to(torch.bfloat16).save_pretrained(arguments.out)
    tokenizer.save_pretrained(arguments.out)


if __name__ == "__main__":
    main()
