"""Train a system on splits of a store, and let it answer the questions of one."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import TrainingArguments, set_seed

from stages.evaluate.predictions import Prediction
from stages.train.controls import Given, answered, batch_size_for, blanked
from stages.train.elisa_system import Elisa
from stages.train.identity import CHECKPOINTS, RUN, identity, last_checkpoint
from stages.train.lisa_system import Lisa
from stages.train.llava import inject_lora
from stages.train.llmseg_system import LlmSeg
from stages.train.memory import Plan, plan
from stages.train.params import TrainParams
from stages.train.questions import check_texts
from stages.train.system import ALWAYS, Mode, System
from stages.train.trainer import TRAINED, Curves, StoreTrainer, load_trained, save_trained
from store import mix
from store.reader import Split
from store.request import companion
from store.schema import TABLES
from store.stream import Stream
from store.torch import Loader, loader

SYSTEMS: dict[str, type[System]] = {"elisa": Elisa, "llmseg": LlmSeg, "lisa": Lisa}
"""Name -> class."""
QUESTION_TOKENS, ANSWER_TOKENS = 192, 64
"""What the memory plan reckons with: question, answer and template; and the answer alone."""


def columns(params: TrainParams, system: str) -> set[str]:
    """The columns of a split that a system reads, in training or later."""
    kind = SYSTEMS[system]
    wanted = {*kind.columns(params, True).values(), *kind.columns(params, False).values(), *ALWAYS.values()}
    found = {name.rpartition(".")[0] if name.rpartition(".")[0] in TABLES else name for name in wanted}
    found |= {companion(name) for name in found if "mask_embeddings/" in name}
    if any(kind.candidates(params, training) for training in (True, False)):
        found |= {"masks", "instances", "match/instances"}  # candidate sets are made from them
    return found


def batches(params: TrainParams, system: System, splits: Mapping[str, Split], **ranks: int) -> Loader:
    """The training batches: all targets of the splits in a new order every epoch."""
    how: dict[str, Any] = {
        "shuffle": True, "seed": params.seed, "level": "target", "tail": "drop", "failed": "skip",
        "candidates": system.candidates(params, training=True), **ranks,
    }  # fmt: skip
    names = {**ALWAYS, **system.columns(params, training=True)}
    if len(splits) == 1:
        (split,) = splits.values()
        return loader(split.stream(names, params.batch_size, **how))
    return loader(mix(splits, names, params.batch_size, **how))


def train(
    params: TrainParams,
    name: str,
    splits: Mapping[str, Split],
    folder: Path,
    device: str,
    weights: Callable[[str], Path],
    restart: bool = False,
    callbacks: Sequence[Any] = (),
) -> Path:
    """Fine-tune; a run that was stopped goes on from its last checkpoint.

    Args:
        folder: gets ``trained.safetensors``, ``run.json`` and ``curves/`` (DVCLive); while it runs also ``checkpoints/`` (the
            Trainer's, for this machine).
        weights: name of a checkpoint (stages/weights.py) -> its file, checked.
        restart: forget an unfinished run.

    Returns:
        The file of what was trained.
    """
    arguments = arguments_of(params, folder, device)
    ranks = {"rank": arguments.process_index, "world_size": arguments.world_size}
    set_seed(params.seed)  # behind what makes "cuda" mean this rank's own card
    system = SYSTEMS[name].build(params, next(iter(splits.values())), device, weights)
    check_texts(system.tokenizer, splits, training=True)
    prepare(system, params)
    print(memory_of(system, params), file=sys.stderr)
    about = identity(params, name, splits)
    stopped = last_checkpoint(folder, about, restart)
    if stopped is None:
        every = batches(params, system, splits)
        system.begin(lambda: (blanked(batch, params.without) for batch in every))
    first_rank = arguments.process_index == 0  # of several, each would write the same files
    curves = [Curves(folder / "curves", resume=stopped is not None)] if first_rank else []
    trainer = StoreTrainer(system, batches(params, system, splits, **ranks), arguments, callbacks=[*curves, *callbacks])
    trainer.train(resume_from_checkpoint=stopped)
    if trainer.is_world_process_zero():
        (folder / RUN).unlink(missing_ok=True)  # that of a run before, which these weights are not of
        save_trained(system.model, folder / TRAINED, {"system": name, "params": json.dumps(about["params"])})
        ended = {"system": name, **about, "history": trainer.state.log_history}
        (folder / RUN).write_text(json.dumps(ended, indent=1) + "\n")
        shutil.rmtree(folder / CHECKPOINTS)  # what a stopped run needs
    return folder / TRAINED


def arguments_of(params: TrainParams, folder: Path, device: str) -> TrainingArguments:
    """The Trainer's own arguments."""
    return TrainingArguments(
        str(folder / CHECKPOINTS),
        num_train_epochs=params.epochs,
        per_device_train_batch_size=params.batch_size,
        gradient_accumulation_steps=params.accumulation,
        optim=params.optimizer,
        lr_scheduler_type=params.schedule,
        warmup_steps=params.warmup,
        max_grad_norm=params.clip,
        weight_decay=0.0,
        bf16=params.base != "float32",
        activation_checkpointing=params.gradient_checkpointing,
        save_strategy="epoch",
        save_total_limit=1,
        logging_steps=10,
        seed=params.seed,
        use_cpu=device == "cpu",
        ddp_backend="gloo" if device == "cpu" and int(os.environ.get("WORLD_SIZE", "1")) > 1 else None,
        ddp_find_unused_parameters=True,  # a batch without a [SEG] uses no head
        report_to=list(params.report_to),
        remove_unused_columns=False,
        ignore_data_skip=True,  # the loader itself goes on where it stood
        disable_tqdm=None,
    )


def memory_of(system: System, params: TrainParams) -> Plan:
    """What a step on a GPU will take, for a question and an answer of some length."""
    trained = sum(weight.numel() for weights, _ in system.groups() for weight in weights)
    return plan(
        system.model.config,
        params.base,
        params.optimizer,
        trained,
        params.batch_size,
        system.tokens + QUESTION_TOKENS,
        ANSWER_TOKENS,
        params.gradient_checkpointing,
    )


def prepare(system: System, params: TrainParams) -> None:
    """Freeze everything, then LoRA in the language model and what is new are trained."""
    system.model.requires_grad_(False)
    inject_lora(system.model, **params.lora.model_dump())
    for weights, _ in system.groups():
        for weight in weights:
            weight.requires_grad_(True)
            weight.data = weight.data.float()  # small steps are lost in 16 bit; products are of 16 bit by autocast


def restore(
    params: TrainParams, name: str, split: Split, folder: Path, device: str, weights: Callable[[str], Path]
) -> System:
    """The system as :func:`train` left it.

    Raises:
        FileNotFoundError: it was not trained.
    """
    system = SYSTEMS[name].build(params, split, device, weights)
    prepare(system, params)
    load_trained(system.model, folder / TRAINED)
    system.model.eval()
    return system


def predict(
    system: System, split: Split, batch_size: int = 16, mode: Mode = "generated", given: Given = "own"
) -> Iterator[Prediction]:
    """Answers to the first text of every target, in the order of the split; ValueError as the system's own ``predict``.

    Args:
        given: the question and its own image, or one of the two from another sample
            (:func:`stages.train.controls.answered`).
    """
    params = system.params
    check_texts(system.tokenizer, {split.base.name: split}, training=False)

    def ask(size: int) -> Stream:
        return split.stream(
            {**ALWAYS, **system.columns(params, training=False)},
            size,
            level="target",
            failed="skip",
            candidates=system.candidates(params, training=False),
        )

    stream = ask(batch_size)
    if given != "own":
        stream = ask(batch_size_for(stream.schedule.samples, batch_size))
    for batch in tqdm(loader(stream), unit="batch", desc="answers", disable=None):
        yield from answered(system, blanked(batch, params.without), mode, given)
