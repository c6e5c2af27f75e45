"""Pre-trains `demo_llava`, a LLaVA-Gemma of 3.4 million parameters, on captions and questions of generated scenes.

`python -m demo.models.train_llava`. The classes are Hugging Face's (Gemma, LLaVA's projector), the image is what `demo_clip`
makes of it (64 patch tokens), and the text is `demo.models.dialogues`: never a segmentation token. The model learns to find
what a question means; the three systems learn later to answer with masks, each in its own way. It is initialised as
`demo.models.looking` says. Every question is the first about its picture: the image goes through the model once, and each
question continues from its keys and values.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache, GemmaConfig, LlavaConfig, PreTrainedTokenizerFast

from demo.models.dialogues import PLACES, WORDS, corpus
from demo.models.llava_examples import Batch, Lexicon, Seen, batches, lexicon, see_all
from demo.models.looking import LAYERS, carry_over, start_looking
from demo.models.train_encoders import Length
from stages.encoders import ENCODERS
from stages.train.language.llava import IGNORED, FeatureLlava, load_llava
from stages.train.language.text import IMAGE

FIRST_SEED = 1_500_000_000  # the data set and the evaluation use smaller seeds
SCENES = 10_000
FITTED = 1500
"""Number of scenes used to fit the projector before the first step."""
IMAGES = 16
TURNS = 8
"""Questions about each image of a step."""
STEPS = 1520
OUT = Path(__file__).parent / "demo_llava"
VOCABULARY = 1024
LEARNING_RATE = 0.002
FIRST_WEIGHT, SEEN_WEIGHT = 1.0, 0.2
"""Weights in the loss of an answer's first word, and of what each image token itself says; all other words have weight 1."""
MIDDLE_WEIGHT = 1.5
"""Initial weight of the word for an object's middle in what its patches say; class, colour and texture have weight 1."""
SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>", IMAGE)
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<start_of_turn>{{ 'model' if message['role'] == 'assistant' else 'user' }}\n"
    "{{ message['content'] }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
"""Gemma's chat template."""
TASK_WORDS = (
    "Please respond with segmentation mask. Please output segmentation mask and explain why. Can you segment the in this image? "
    "Sure, the segmentation result is. Output Generate Provide the mask for the object in the image. It is located at."
)
"""Words of the systems' templates, so that the tokenizer has them."""


def make_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """A BPE tokenizer like Gemma's: a space is a letter, bytes are the fallback; punctuation marks are separate tokens."""
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
    """The configuration of a tiny LLaVA-Gemma."""
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


def loss_of(model: FeatureLlava, batch: Batch, known: Lexicon) -> Tensor:
    """Next-token loss on the answers, plus the weighted loss of what image tokens themselves say, 0-d."""
    language, words = model.model.language_model, model.get_input_embeddings()
    images = torch.stack([*model.model.get_image_features(batch.features).pooler_output])
    entering = torch.cat([words(known.before).expand(len(images), -1, -1).to(images.dtype), images], dim=1)
    cache = DynamicCache()
    seen = language(inputs_embeds=entering, past_key_values=cache, use_cache=True).last_hidden_state[
        :, len(known.before) :
    ]
    states, labels, begun, first, chances = (list[Tensor]() for _ in range(5))
    for part in batch.questions:
        of_images = DynamicCache()
        for number, layer in enumerate(cache.layers):
            of_images.update(layer.keys[part.image], layer.values[part.image], number)
        there = part.attention_mask.new_ones(len(part.image), entering.shape[1])
        found = language(
            inputs_embeds=words(part.input_ids),
            attention_mask=torch.cat([there, part.attention_mask], dim=1),
            past_key_values=of_images,
            use_cache=True,
        ).last_hidden_state
        row, position = (part.labels[:, 1:] != IGNORED).nonzero(as_tuple=True)
        states.append(found[row, position])
        labels.append(part.labels[row, position + 1])
        row, position, word = part.first.unbind(1)
        begun.append(found[row, position])
        first.append(word)
        chances.append(part.chances)
    spoken = F.cross_entropy(model.lm_head(torch.cat(states)).float(), torch.cat(labels))
    likely = model.lm_head(torch.cat(begun)).float().log_softmax(-1).gather(1, torch.cat(first)[:, None])[:, 0]
    chance = torch.cat(chances)
    beginning = -(chance * likely).sum() / chance.sum().clamp(min=1)
    full = batch.cells[..., 0] >= 0
    shown = [
        F.cross_entropy(model.lm_head(seen[full]).float()[:, tokens], batch.cells[full][:, kind])
        for kind, tokens in enumerate(known.kinds)
    ]
    loss: Tensor = spoken + FIRST_WEIGHT * beginning + SEEN_WEIGHT * torch.stack(shown).mean()
    return loss


def start(model: FeatureLlava, tokenizer: Any, seen: Sequence[Seen]) -> None:
    """Call ``start_looking`` with what the cells of some scenes show."""
    features = features_of(seen)
    cells = torch.from_numpy(np.stack([one.about.cells for one in seen])).long()
    kinds = lexicon(tokenizer).kinds
    shown = [
        F.one_hot(cells[..., kind].clamp(min=0), len(tokens)) * (cells[..., kind, None] >= 0)
        for kind, tokens in enumerate(kinds)
    ]
    said = torch.cat([*shown[:-1], MIDDLE_WEIGHT * shown[-1]], dim=-1)
    start_looking(model, features, said, torch.cat(kinds), kinds[-1])


def features_of(seen: Sequence[Seen]) -> Tensor:
    """Patch tokens float32 [n, P, C]."""
    return torch.from_numpy(np.stack([one.features for one in seen])).float()


def groups_of(model: FeatureLlava) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Parameter groups for Muon (matrices of the language model) and AdamW (all else), with the learning-rate factor of each.

    The layers that look words up from the start learn slowly: at the full rate this ability is lost before it is useful.
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
    model: FeatureLlava, tokenizer: Any, source: Iterator[Batch], length: Length, learning_rate: float = LEARNING_RATE
) -> None:
    """Minimise :func:`loss_of`."""
    known = lexicon(tokenizer)
    model.set_attn_implementation("eager")  # torch's own attention is slower in 16 bit on a CPU
    matrices, rest = groups_of(model)
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=learning_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=learning_rate, weight_decay=0.01, betas=(0.9, 0.98)),
    ]
    clipped = [weight for group in rest for weight in group["params"]]
    began, step, shown = time.perf_counter(), 0, 0.0
    while (done := length.done(step, time.perf_counter() - began)) < 1:
        rate = learning_rate * min(1.0, (step + 1) / 50) * (0.02 + 0.98 * (1 + math.cos(math.pi * done)) / 2)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group["part"]
            optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(model, next(source), known)
        loss.backward()
        nn.utils.clip_grad_norm_(clipped, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        shown = 0.98 * shown + 0.02 * loss.item() if step else loss.item()
        step += 1
        if step % 50 == 0:
            spent = (time.perf_counter() - began) / step
            print(f"demo_llava: step {step}, loss {shown:.3f}, {spent:.2f} s per step", file=sys.stderr, flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m demo.models.train_llava", description=__doc__)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--minutes", type=float, help="train for this time instead")
    parser.add_argument("--scenes", type=int, default=SCENES)
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED, help="of the scenes; others to go on with")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument(
        "--from", dest="begun", type=Path, help="go on with the model in this folder, at 0.6 of the learning rate"
    )
    parser.add_argument("--clip-before", type=Path, help="what that model saw with, if it was another demo_clip")
    parser.add_argument("--seed", type=int, default=0, help="another one to go on with")
    parser.add_argument("--clip", type=Path, default=OUT.parent / "demo_clip.safetensors")
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    rng = np.random.default_rng(arguments.seed)
    seen = see_all(arguments.scenes, arguments.first_seed, arguments.clip, arguments.processes)
    model: FeatureLlava
    length, rate = Length(arguments.steps, arguments.minutes), LEARNING_RATE
    if arguments.begun:
        model, tokenizer = load_llava(str(arguments.begun), "float32")
        model.train().requires_grad_(True)
        rate *= 0.6
        if arguments.clip_before:
            before = see_all(FITTED, arguments.first_seed, arguments.clip_before, arguments.processes)
            carry_over(model, features_of(before), features_of(seen[:FITTED]))
    else:
        tokenizer = make_tokenizer(corpus([each.about for each in seen[:1000]], rng))
        model = FeatureLlava(make_config(tokenizer))
        start(model, tokenizer, seen[:FITTED])
    train(model, tokenizer, batches(seen, tokenizer, rng, IMAGES, TURNS), length, rate)
    model.to(torch.bfloat16).save_pretrained(arguments.out)
    tokenizer.save_pretrained(arguments.out)


if __name__ == "__main__":
    main()
