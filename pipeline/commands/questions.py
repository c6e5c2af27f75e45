"""The verb ``questions``: annotated pictures and language models -> a data set of questions whose answers are masks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.candidates import candidates_of
from pipeline.config import ROOT, InputError, Settings
from pipeline.listed import not_indexed
from pipeline.question_tables import plan_table, set_table
from pipeline.upstream import commits_of, place_of
from stages.datasets import listed_from
from stages.datasets.coco import wordings
from stages.images import ImageFailure
from stages.names import SplitRef, did_you_mean
from stages.questions.choose import Chosen, choose, shortfalls, split_of
from stages.questions.describe import stored_descriptions, stored_tags
from stages.questions.errors import LimitReached
from stages.questions.figures import figures
from stages.questions.items import Made, Pair, Scene
from stages.questions.journal import Journal, open_journal
from stages.questions.names import Meaning, meanings_of, plain_name, things_of
from stages.questions.params import ModelParams, QuestionSetParams
from stages.questions.pretend import Pretender
from stages.questions.prices import PlanRow, plan, shown
from stages.questions.prompts import PromptError
from stages.questions.requests import Reply, Request
from stages.questions.sheet import Decision, DecisionError, item_of, read_decisions, write_sheets
from stages.questions.steps import Summary, Tools, make
from stages.questions.templates import require_templates
from stages.questions.write import Masks, require_own, write, write_rejected
from store import Split, open_split, rle
from store.format.layout import column_dir
from store.format.tables import read_table
from store.storage.files import canonical_json

_MORE = "choose more images, or give it a larger share in questions.{}.splits"


def set_of(settings: Settings, name: str | None) -> str:
    """The name of a set of questions in the params: the given one, or the only one there is."""
    known = list(settings.questions)
    if name is None and len(known) == 1:
        return known[0]
    if name not in known:
        given = "no name" if name is None else repr(name)
        raise InputError(
            f"questions: found {given}, expected one of section questions of the params: {', '.join(known) or 'none yet'}"
            f"{did_you_mean(str(name), known)}; params/questions.yaml has an example"
        )
    return name


def questions_command(
    settings: Settings,
    name: str,
    limit: int | None = None,
    sheet: Path | None = None,
    again: bool = False,
    skip_failing: bool = False,
) -> tuple[str, bool]:
    """Make a set of questions and write it below the root of its data set.

    Returns:
        Its figures, and whether it is complete: with ``limit`` it may not be, and then nothing was written.

    Args:
        name: of section ``questions``.
        limit: stop after this many new requests.
        sheet: a folder; also write pages there for a person to decide on.
        again: ask those requests again that an endpoint refused.
        skip_failing: leave out a request whose every attempt fails, also where nothing else was answered meanwhile.

    Raises:
        InputError: the splits that questions are made about are not indexed, or have no masks.
        AskingError: an endpoint cannot be asked, or the budget is spent. What was answered is kept.
    """
    from stages.questions.endpoint import ask_all  # the client takes over a second, which a dry run does not need

    root = settings.folders(name).folders[0]
    require_own(root, settings.questions[name].splits)
    if sheet is not None and sheet.exists() and not sheet.is_dir():
        raise InputError(f"--sheet: {sheet} is a file, expected a folder, or a new one")
    params, chosen, scenes, notes = _chosen(settings, name)
    there = {split_of(scene.sha256, params.splits) for scene in scenes}
    if empty := [split for split in params.splits if split not in there]:
        raise InputError(
            f"{name}: none of {len(scenes)} chosen images falls to split {' and '.join(empty)}, nothing was asked; "
            f"{_MORE.format(name)}"
        )
    with open_journal(journal_of(settings, name), params.budget_usd, limit) as journal:

        def ask(key: str, requests: Iterable[Request]) -> list[Reply]:
            return ask_all(journal, params.models[key], _with_body(params.models[key], requests), again, skip_failing)

        tools = _tools(settings, name, chosen, scenes, ask, journal)
        try:
            made, work = make(scenes, params, tools)
        except LimitReached as error:
            return str(error), False
        except ImageFailure as error:
            raise InputError(f"{name}: {error}") from error
    found = figures(chosen, made, work.rejected, params.splits)
    if not made:
        where = write_rejected(root, work.rejected)
        reasons = ", ".join(f"{count} {reason}" for reason, count in found["rejected"].items())
        raise InputError(
            f"{name}: no question is left ({reasons or 'the models said nothing'}); {where} has each with its reason"
        )
    if empty := [split for split, row in found["splits"].items() if not row["questions"]]:
        where = write_rejected(root, work.rejected)
        raise InputError(
            f"{name}: no question is left for split {' and '.join(empty)} ({len(made)} in all; {where} has the rejected ones); "
            f"{_MORE.format(name)}"
        )
    paths = write(root, chosen, made, work.rejected, found, params.splits, _masks(settings))
    lines = [*notes, f"{root}: {', '.join(path.relative_to(root).as_posix() for path in paths)}", *set_table(found)]
    if idle := sorted(tools.decisions.keys() - work.decided):
        lines.append(
            f"{len(idle)} of {len(tools.decisions)} decisions of a person have no effect, such as that for {idle[0]}: this id "
            "now has another question or none, or a rule rejects the question (rejected.jsonl)"
        )
    if sheet is not None:
        lines.append(_write_sheet(sheet, name, params, made, scenes, tools))
    return "\n".join(lines), True


def plan_command(settings: Settings, name: str, show: int = 0) -> str:
    """What making a set would ask, by step and model, with tokens, cost and hours; the first ``show`` requests in full.

    What later steps ask is estimated from answers as models might give them; nothing is sent.
    """
    params, chosen, scenes, notes = _chosen(settings, name)
    pretender = Pretender(scenes, params.ask.questions, params.rephrase.several, params.check.words)
    rows: list[tuple[str, PlanRow]] = []
    first: list[str] = []
    with open_journal(journal_of(settings, name), write=False) as journal:

        def ask(key: str, requests: Iterable[Request]) -> list[Reply]:
            asked = list(_with_body(params.models[key], requests))
            rows.extend((key, row) for row in plan(journal, params.models[key], asked))
            first.extend(shown(request) for request in asked[: max(0, show - len(first))])
            return [journal.answer(each.key) if each.key in journal else pretender.reply(each) for each in asked]

        make(scenes, params, _tools(settings, name, chosen, scenes, ask))
    lines = [*first, *notes, *plan_table(params, rows)]
    if params.check.embeddings is not None:
        lines.append(
            f"The texts that {params.check.embeddings} embeds are not counted: every question, and those of check.protected."
        )
    return "\n".join(lines)


def _with_body(model: ModelParams, requests: Iterable[Request]) -> Iterable[Request]:
    """The requests with what the params add to each."""
    body = canonical_json(model.body).decode() if model.body else ""
    return (replace(request, body=body) for request in requests) if body else requests


def journal_of(settings: Settings, name: str) -> Path:
    """The folder of what was asked and answered."""
    root = settings.folders(name).folders[0]
    journal = settings.questions[name].journal
    folder = root.with_name(f"{root.name}.journal") if journal is None else ROOT / journal
    if folder.exists() and not folder.is_dir():
        raise InputError(f"questions.{name}.journal: {folder} is a file, expected a folder, or a new one")
    return folder


def _chosen(settings: Settings, name: str) -> tuple[QuestionSetParams, list[Chosen], list[Scene], list[str]]:
    """The parameters of a set, the images drawn for it, those with something to ask for, and what to say of the others."""
    params = settings.questions[name]
    try:
        require_templates(params)
    except PromptError as error:
        raise InputError(f"questions.{name}: {error}") from error
    splits = settings.refs(f"questions.{name}.of", params.of)
    protected = settings.refs(f"questions.{name}.check.protected", params.check.protected)
    found = candidates_of(settings, splits, protected, params.exhaustive)
    chosen = choose(found.candidates, params.choose)
    if not chosen:
        counts = sorted({len(set(each.labels)) for each in found.candidates})
        raise InputError(
            f"questions.{name}.choose: none of {len(found.candidates)} images fits a group; they show {counts[0]} to {counts[-1]} "
            "categories; expected groups with such numbers"
        )
    folders = settings.folders(settings.data[name].images)
    meanings = _meanings(settings, splits)
    scenes = [_scene(each, folders.path(each.candidate.path), meanings) for each in chosen]
    notes = [f"left out: {count} {why}" for why, count in found.left_out.items() if count]
    notes += [
        f"group {group}: {have} images, not the {asked} that were asked for, as there are no more"
        for group, (have, asked) in shortfalls(chosen, params.choose).items()
    ]
    return params, chosen, [scene for scene in scenes if scene.things], notes


def _scene(chosen: Chosen, path: str, meanings: Mapping[str, Meaning]) -> Scene:
    candidate = chosen.candidate
    things = things_of(candidate.labels, meanings, candidate.incomplete)
    return Scene(
        candidate.image_id,
        chosen.group,
        path,
        candidate.sha256,
        candidate.height_px,
        candidate.width_px,
        tuple(thing for thing in things if thing.label in chosen.labels),
        tuple(dict.fromkeys(filter(None, map(_absent_name, candidate.absent)))),
    )


def _absent_name(label: str) -> str:
    """The name of an absent category as a model is shown it; empty for a part, because the whole object may be there."""
    return plain_name(label) if len(wordings(label)) == 1 else ""


def _meanings(settings: Settings, splits: Sequence[SplitRef]) -> dict[str, Meaning]:
    """Synonyms and definitions of the sets of COCO's form."""
    found: dict[str, Meaning] = {}
    for split in splits:
        data = settings.data[split.dataset]
        if data.format == "coco":
            folders = settings.folders(split.dataset)
            found |= meanings_of(Path(folders.folders[0]) / listed_from(data, folders, split.split)[-1])
    return found


def _tools(
    settings: Settings,
    name: str,
    chosen: Sequence[Chosen],
    scenes: Sequence[Scene],
    ask: Callable[[str, Iterable[Request]], list[Reply]],
    journal: Journal | None = None,
) -> Tools:
    """What the steps need. journal: None where nothing is sent: then near-duplicates are found without a model."""
    params = settings.questions[name]
    candidates = {each.candidate.image_id: each.candidate for each in chosen}
    masks = _masks(settings)

    def mask(scene: Scene, labels: Sequence[str]) -> str:
        counts = masks(candidates[scene.image_id])
        wanted = [place for thing in scene.things if thing.label in labels for place in thing.instances]
        return rle.union([counts[place] for place in wanted], scene.height_px, scene.width_px)

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        from stages.questions.embeddings import embed_texts

        assert journal is not None
        assert params.check.embeddings is not None
        return np.stack(embed_texts(journal, params.models[params.check.embeddings], texts))

    return Tools(
        ask,
        mask,
        embed if journal is not None and params.check.embeddings is not None else None,
        _stored(name, params, scenes),
        _protected(settings, settings.refs(f"questions.{name}.check.protected", params.check.protected)),
        _decisions(name, params, scenes),
    )


def _masks(settings: Settings) -> Masks:
    """A function from a candidate to the COCO RLE counts of its instances."""

    @cache
    def opened(split: str) -> Split:
        place = SplitRef.of(split)
        return open_split(settings.store_path, place.dataset, place.split, columns=["instances"])

    return lambda candidate: [each.segmentation for each in opened(candidate.split)[candidate.image_index].instances]


def _stored(name: str, params: QuestionSetParams, scenes: Sequence[Scene]) -> Mapping[str, Summary] | None:
    """Descriptions or tags from a file, of every image."""
    file = params.describe.file or params.describe.tags
    if file is None:
        return None
    stored: Mapping[str, Summary]
    stored = stored_descriptions(ROOT / file) if params.describe.file else stored_tags(ROOT / file)
    lacking = [scene.image_id for scene in scenes if scene.image_id not in stored]
    if lacking:
        raise InputError(
            f"questions.{name}.describe: {file} lacks {len(lacking)} of {len(scenes)} chosen images, first {lacking[0]}; "
            "expected all of them"
        )
    return stored


def _protected(settings: Settings, splits: Sequence[SplitRef]) -> list[str]:
    """The texts of all questions of some splits."""
    texts: dict[str, None] = {}
    for split in splits:
        commits = commits_of(settings, split, "targets")
        if commits is None:
            raise not_indexed(settings, split)
        folder = column_dir(settings.store_path, place_of(settings, split, "targets"))
        for commit in commits:
            for row in read_table(folder, commit, ["texts"]).to_pylist():
                texts |= dict.fromkeys(row["texts"])
    return list(texts)


def _decisions(name: str, params: QuestionSetParams, scenes: Sequence[Scene]) -> Mapping[str, Decision]:
    """What a person decided. Numbers of questions are not known before they are made, so any number is accepted here."""
    if params.verify.person is None:
        return {}
    image_ids = {scene.image_id for scene in scenes}
    try:
        return read_decisions(ROOT / params.verify.person, lambda name: name.rpartition("/")[0] in image_ids)
    except (DecisionError, OSError) as error:
        raise InputError(f"questions.{name}.verify.person: {error}") from error


def _write_sheet(
    folder: Path, name: str, params: QuestionSetParams, made: Sequence[Made], scenes: Sequence[Scene], tools: Tools
) -> str:
    """Pages with every question that is kept."""
    by_id = {scene.image_id: scene for scene in scenes}
    items = []
    for each in made:
        if each.is_sentence and each.labels:
            pair = Pair(each.image_id, each.number, each.texts[0], "", each.labels, "")
            scene = by_id[each.image_id]
            items.append(item_of(pair, scene, tools.mask(scene, each.labels), each.verdicts, params.verify.side_px))
    if not items:
        return "no question has a mask, so there is nothing to put on a sheet"
    pages = write_sheets(folder, name, items, pick_one=params.describe.tags is not None)
    return (
        f"{pages[0]}{f' to {pages[-1].name}' if len(pages) > 1 else ''}: {len(items)} questions to decide on; save the decisions, "
        f"and name their file as questions.{name}.verify.person"
    )
