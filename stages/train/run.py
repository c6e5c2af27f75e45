"""Train a system on splits of a store, and let it answer the questions of a split."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from transformers import TrainingArguments, set_seed
from transformers.utils.logging import disable_progress_bar

from stages.evaluate.cases import CANDIDATES
from stages.evaluate.protocols import Texts
from stages.predictions import Prediction
from stages.progress import progress
from stages.train.callbacks import Curves, Lines
from stages.train.checks import check_reporting
from stages.train.controls import Given, answered, batch_size_for, blanked
from stages.train.draw import epoch_length, groups_of
from stages.train.folder import CHECKPOINTS, CURVES, RUN, TRAINED, claim, held, step_of, write_record
from stages.train.language.llava import inject_lora
from stages.train.language.vision import feature_tokens
from stages.train.memory import Plan, plan
from stages.train.params import TrainParams
from stages.train.questions import check_questions
from stages.train.run_digest import LeftOut, differences, identity, run_digest
from stages.train.system import ALWAYS, Mode, System, every_text
from stages.train.systems import SYSTEMS
from stages.train.trainer import StoreTrainer, load_trained, save_trained
from store import mix
from store.format.schema import TABLES
from store.split import Split
from store.stream.mixture import MixtureSchedule, mixture
from store.stream.request import companion
from store.torch import Loader, loader

QUESTION_TOKENS, ANSWER_TOKENS = 192, 64
"""What the memory plan assumes: tokens of question, answer and template together; and of the answer alone."""


def system_class(name: str) -> type[System]:
    """The class of a system."""
    module, _, attribute = SYSTEMS[name].place.partition(":")
    return getattr(import_module(module), attribute)  # type: ignore[no-any-return]


def columns(params: TrainParams, system: str) -> set[str]:
    """The columns of a split that a system reads, in training or later."""
    kind = system_class(system)
    wanted = {*kind.columns(params, True).values(), *kind.columns(params, False).values(), *ALWAYS.values()}
    found = {name.rpartition(".")[0] if name.rpartition(".")[0] in TABLES else name for name in wanted}
    found |= {companion(name) for name in found if "mask_embeddings/" in name}
    if any(kind.candidates(params, training) for training in (True, False)):
        found |= {"masks", "instances", "match/instances"}  # needed to make the candidate sets
    return found


def batches(
    params: TrainParams,
    system: System | type[System],
    splits: Mapping[str, Split],
    rank: int = 0,
    world_size: int = 1,
    without: LeftOut | None = None,
) -> Loader:
    """The training batches: all targets of the splits in a new order every epoch, or samples of a mixture.

    A batch has ``params.batch_size`` targets, or all if there are fewer; in a mixture, that many pictures.

    Args:
        without: split -> image_index of pictures that are left out.

    Raises:
        ValueError: there are fewer targets than ``world_size`` processes.
    """

    names = {**ALWAYS, **system.columns(params, training=True)}
    ranks: dict[str, Any] = {"rank": rank, "world_size": world_size}  # else from torch.distributed
    if params.mixture:
        groups, length = groups_of(params), epoch_length(params, world_size)
        drawn: dict[str, Any] = {
            "questions": params.questions,
            "draw": params.draw,
            "seed": params.seed,
            "without": without,
        }
        drawn["candidates"] = system.candidates(params, training=True)
        return loader(mixture(splits, groups, names, params.batch_size, length, **drawn), **ranks)

    how: dict[str, Any] = {
        "shuffle": True, "seed": params.seed, "level": "target", "tail": "drop", "failed": "skip",
        "candidates": system.candidates(params, training=True), "without": without,
    }  # fmt: skip
    stream = mix(splits, names, params.batch_size, **how)
    count = stream.schedule.samples
    if count < world_size:
        raise ValueError(
            f"found {count} questions in {', '.join(splits)} whose image and columns are complete, expected at least one for each "
            f"of {world_size} processes"
        )
    return loader(stream, min(params.batch_size, count // world_size), **ranks)


def train(
    params: TrainParams,
    name: str,
    splits: Mapping[str, Split],
    folder: Path,
    device: str,
    weights: Callable[[str], Path],
    restart: bool = False,
    replace: bool = False,
    callbacks: Sequence[Any] = (),
    without: LeftOut | None = None,
    start: Path | None = None,
) -> Path:
    """Fine-tune; a stopped run goes on from its last checkpoint, and a finished one stays unchanged.

    Nothing in ``folder`` changes before the model is loaded and everything is known to fit.

    Args:
        name: of the system.
        folder: gets ``trained.safetensors``, ``run.json`` and ``curves/`` (DVCLive); while it runs also ``checkpoints/`` (the
            Trainer's, for this machine).
        weights: name of a checkpoint (stages/weights.py) -> its file, checked.
        restart: any run in the folder, even this one, is moved aside (:func:`stages.train.folder.move_aside`).
        replace: another run in the folder is moved aside.
        without: split -> image_index of pictures that are left out.
        start: the trained weights to start from, a file of an earlier call.

    Returns:
        The file with the trained weights.

    Raises:
        ValueError: the folder holds another run, ``report_to`` names something that is not installed, there are no questions,
            or the parameters do not fit the language model or the store.
    """
    about = identity(params, name, splits, without, start)
    found = held(folder)
    another = found is not None and (not found.about or bool(differences(found.about, about)))
    if found is not None and found.finished and not another and not restart:
        return folder / TRAINED
    check_reporting(params.report_to)
    for split in splits.values():  # the system is built by the first
        feature_tokens(params, split)
    arguments = arguments_of(params, folder, device)
    ranks: dict[str, Any] = {"rank": arguments.process_index, "world_size": arguments.world_size, "without": without}
    size = batches(params, system_class(name), splits, **ranks).stream.schedule.batch_size
    if size < params.batch_size:
        print(
            f"train: fewer questions than train.batch_size {params.batch_size}: batches are of {size}", file=sys.stderr
        )
    _no_bars()
    set_seed(params.seed)  # after the call that makes "cuda" mean this rank's own card
    system = system_class(name).build(params, next(iter(splits.values())), device, weights)
    check_questions(system.tokenizer, splits, training=True)
    prepare(system, params)
    if start is not None:
        load_trained(system.model, start)
    print(memory_of(system, params), file=sys.stderr)
    first_rank = arguments.process_index == 0  # with several processes, each would write the same files
    with arguments.main_process_first(local=False):  # the other ranks find the folder as the first one left it
        stopped = claim(folder, about, aside=first_rank and (restart or (replace and another)))
    if stopped is None:
        every = batches(params, system, splits, without=without)
        system.begin(lambda: (blanked(batch, params.without) for batch in every))
    curves = [Curves(folder / CURVES, run_digest(about), step_of(stopped) if stopped else None)] if first_rank else []
    lines = [Lines(folder.name)] if first_rank and arguments.disable_tqdm else []
    trainer = StoreTrainer(
        system, batches(params, system, splits, **ranks), arguments, callbacks=[*curves, *lines, *callbacks]
    )
    try:
        trainer.train(resume_from_checkpoint=None if stopped is None else str(stopped))
    finally:
        for curve in curves:
            curve.close()
    if trainer.is_world_process_zero():
        told = json.dumps({"system": name, "params": about["params"]})  # one entry: safetensors keeps no order
        save_trained(system.model, folder / TRAINED, {"run": told})
        ended = {"name": folder.name, "digest": run_digest(about), **about, "history": trainer.state.log_history}
        if isinstance(trainer.data.stream.schedule, MixtureSchedule):
            ended["drawn"] = trainer.data.stream.schedule.drawn_so_far()
            print(*told_draws(ended["drawn"]), sep="\n", file=sys.stderr)
        write_record(folder / RUN, ended)
        shutil.rmtree(folder / CHECKPOINTS)  # what a stopped run needs
    return folder / TRAINED


def told_draws(drawn: Mapping[str, Mapping[str, int]]) -> list[str]:
    """A line for each split of a mixture that says what a run saw of it."""
    return [
        f"train: {name}: {one['samples']} samples with {one['questions']} questions about {one['images']} pictures"
        for name, one in drawn.items()
    ]


def _no_bars() -> None:
    """Keep transformers from drawing a progress bar for the weights it loads if stderr is not a terminal."""
    if not sys.stderr.isatty():
        disable_progress_bar()


def arguments_of(params: TrainParams, folder: Path, device: str) -> TrainingArguments:
    """The Trainer's own arguments. Without torchrun it gets one GPU, as the Trainer would spread a model over several by itself."""
    arguments = TrainingArguments(
        str(folder / CHECKPOINTS),
        num_train_epochs=params.epochs,
        max_steps=params.max_steps or -1,
        per_device_train_batch_size=params.batch_size,
        gradient_accumulation_steps=params.accumulation,
        optim=params.optimizer,
        adam_beta1=params.adam_betas[0],
        adam_beta2=params.adam_betas[1],
        lr_scheduler_type=params.schedule,
        lr_scheduler_kwargs=dict(params.schedule_options),
        warmup_steps=params.warmup_steps or params.warmup,
        max_grad_norm=params.clip,
        weight_decay=params.weight_decay,
        bf16=params.base != "float32",
        activation_checkpointing=params.gradient_checkpointing,
        save_strategy="steps",
        save_steps=params.save_steps,
        logging_steps=10,
        logging_first_step=True,  # so that a short run has a curve too
        seed=params.seed,
        use_cpu=device == "cpu",
        ddp_backend="gloo" if device == "cpu" and int(os.environ.get("WORLD_SIZE", "1")) > 1 else None,
        ddp_find_unused_parameters=True,  # a batch without a [SEG] does not use the heads
        report_to=list(params.report_to),
        remove_unused_columns=False,
        disable_tqdm=not sys.stderr.isatty(),
    )
    if arguments.n_gpu > 1:
        print(
            f"train: {arguments.n_gpu} GPUs are there and the first is used; for all of them: torchrun --nproc-per-node "
            f"{arguments.n_gpu} {shlex.join(sys.argv)}",
            file=sys.stderr,
        )
        arguments._n_gpu = 1
    return arguments


def memory_of(system: System, params: TrainParams) -> Plan:
    """The memory that a step on a GPU will take, for a question and an answer of typical length."""
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
    """Freeze everything, then make LoRA in the language model and the new modules trainable."""
    system.model.requires_grad_(False)
    inject_lora(system.model, **params.lora.model_dump())
    for weights, _ in system.groups():
        for weight in weights:
            weight.requires_grad_(True)
            weight.data = weight.data.float()  # 16 bit would lose small steps; autocast is for products


def restore(
    params: TrainParams, name: str, split: Split, folder: Path, device: str, weights: Callable[[str], Path]
) -> System:
    """The system as :func:`train` left it.

    Raises:
        FileNotFoundError: there is no trained system in the folder.
    """
    _no_bars()
    system = system_class(name).build(params, split, device, weights)
    prepare(system, params)
    load_trained(system.model, folder / TRAINED)
    system.model.eval()
    return system


def predict(
    system: System,
    split: Split,
    batch_size: int = 16,
    mode: Mode = "generated",
    given: Given = "own",
    setting: str = "proposals",
    texts: Texts = "first",
) -> Iterator[Prediction]:
    """Answers to the first text of every target, or to every text, in the order of the split.

    Raises the same ValueError as the system's own ``predict``.

    Args:
        setting: the candidates: ``proposals``, or ``proposals+gt``, which includes the annotated instances.
        given: the question and its own image, or one of the two from another sample
            (:func:`stages.train.controls.answered`).
        texts: ``first`` or ``every``; about other samples only the first one.
    """
    params = system.params
    if texts == "every" and given != "own":
        raise ValueError(f"texts: found every with {given}, expected first: controls ask the first text of each target")
    check_questions(system.tokenizer, {split.split: split}, training=False, every=texts == "every")
    offered = system.candidates(params, training=False)
    if setting != "proposals":
        if offered is None:
            raise ValueError(f"setting: found {setting}, but it chooses no proposals; expected proposals")
        named = CANDIDATES[setting]
        offered = replace(offered, drop_near_gt=named.drop_near_gt, with_gt=named.with_gt)

    stream = split.stream(
        {**ALWAYS, **system.columns(params, training=False)},
        batch_size,
        level="target",
        failed="skip",
        candidates=offered,
    )
    size = batch_size if given == "own" else batch_size_for(stream.schedule.samples, batch_size)
    with progress("answers", stream.schedule.samples, "question") as advance:
        for batch in loader(stream, size, rank=0, world_size=1):
            for part, numbers in every_text(batch, batch_size) if texts == "every" else [(batch, None)]:
                found = answered(system, blanked(part, params.without), mode, given)
                if numbers is not None:
                    found = [replace(one, text_index=number) for one, number in zip(found, numbers, strict=True)]
                yield from found
            advance(len(batch["id"]))
