"""The verb ``export``: a split leaves the store in a form that other tools read."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.commands.report_runs import Found, current_answers, external_answers
from pipeline.config import InputError, Settings
from pipeline.external import external_runs
from pipeline.runs import not_trained, resolve
from stages.datasets import FORMATS as DATA_FORMATS
from stages.datasets.catalog import recognise
from stages.export import FORMATS, format_of
from stages.export.content import WHATS, Asked, Contents, Note, columns_of
from stages.export.folder import ExportError, require_usable
from stages.export.form import Format
from stages.export.write import Summary, write_export
from stages.names import SplitRef, did_you_mean
from stages.photographs import picture_file
from stages.predictions import Prediction
from stages.report.page import Missing
from stages.train.folder import held
from stages.train.run_digest import column_digest
from stages.train.systems import SYSTEMS
from store import Split, open_split
from store.storage.files import digest
from store.storage.listing import is_folder

VERSION = 2
"""To be increased when the same store gives other files: then an unfinished export from before is not continued."""
_SHOWN = 10


def export_command(
    settings: Settings,
    splits: Sequence[SplitRef],
    to: str,
    out: Path,
    *,
    whats: Sequence[str] = (),
    proposer: str | None = None,
    encoders: Sequence[str] = (),
    system: str | None = None,
    name: str | None = None,
    pictures: str | None = None,
    polygons: bool = False,
) -> tuple[str, int]:
    """Write a split into a folder; return what was written, and how many pictures are missing from it.

    An unfinished export of the same is continued.

    Args:
        splits: exactly one.
        to: a key of :data:`stages.export.FORMATS`.
        whats: of :data:`stages.export.content.WHATS`; default: masks, instances and targets, as far as the format
            holds them.
        proposer: whose masks; default: the params' first, or ``train.proposer``.
        encoders: whose vectors come along.
        system, name: the run whose predictions are exported, or the name of kept predictions.
        pictures: ``copy``, ``link`` or ``none``; default: the format's.
        polygons: labelme's shapes are polygons.

    Raises:
        InputError: an option is wrong, or the folder holds something else. Nothing was written then.
        StoreError: what is to be exported is not in the store.
    """
    if len(splits) != 1:
        raise InputError(
            f"export: expected one split, found {', '.join(map(str, splits))}; name one, such as {settings.options(splits[0])}"
        )
    (split,) = splits
    try:
        form = format_of(to)
    except ExportError as error:
        raise InputError(f"--to: {error}") from error
    asked = _asked(settings, split, to, form, whats, proposer, encoders, pictures, polygons)
    predictions: Mapping[str, Sequence[Prediction]] = {}
    run = None
    needs = tuple(need for what in asked.whats for need in form.needs.get(what, ()))
    opened = open_split(settings.store_path, *_place(split), columns=columns_of(asked, needs), proposer=asked.proposer)
    if ("predictions" in asked.whats) != bool(system or name):
        found = "no --system or --name" if "predictions" in asked.whats else "--system or --name without it"
        raise InputError(
            f"--what predictions: found {found}, expected it together with the run that answered, such as --system "
            f"{next(iter(SYSTEMS))}"
        )
    if "predictions" in asked.whats:
        predictions, run = _answers(settings, split, opened, system, name)
    asked = replace(asked, images=len(opened), run=run)
    contents = Contents(opened, asked, needs, predictions, _photo(settings, split, asked))
    head = _head(asked, to, opened, predictions)
    folder = out.expanduser()
    _require_outside(settings, folder)
    try:
        require_usable(folder, head)
        for line in asked.terms if contents.photo is not None else ():
            print(f"export: {line}", file=sys.stderr)
        summary = write_export(form, contents, folder, head)
    except ExportError as error:
        raise InputError(f"--out: {error}") from error
    lost = sum(note.what == "picture" for note in summary.left_out)
    return _said(asked, to, folder, summary), lost


def _asked(
    settings: Settings,
    split: SplitRef,
    to: str,
    form: Format,
    whats: Sequence[str],
    proposer: str | None,
    encoders: Sequence[str],
    pictures: str | None,
    polygons: bool,
) -> Asked:
    """What is exported, once every option fits the format and the params."""
    annotated = DATA_FORMATS[settings.data[split.dataset].format].annotated
    wanted = tuple(dict.fromkeys(whats))
    for what in wanted:
        if what not in form.whats:
            of = "" if what not in WHATS else f"; {to} holds no {what}"
            raise InputError(
                f"--what: found {what!r}, expected {', '.join(form.whats)}{of}{did_you_mean(what, form.whats)}"
            )
    if set(wanted) - {"masks"}:
        settings.require_questions(split)
    if not wanted:
        usual = [what for what in form.whats if what in ("masks", *(("instances", "targets") if annotated else ()))]
        usual = [what for what in usual if what != "masks" or settings.proposers]
        wanted = tuple(usual[:1] if form.alone else usual)
    if form.alone and len(wanted) != 1:
        raise InputError(f"--what: found {', '.join(wanted)}, expected one of them: {to} holds one thing at a time")
    if proposer is not None and proposer not in settings.proposers:
        known = ", ".join(settings.proposers) or "nothing"
        raise InputError(
            f"--proposer: found {proposer!r}, expected one of section proposers: {known}"
            f"{did_you_mean(proposer, settings.proposers)}"
        )
    if "masks" in wanted and not settings.proposers:
        raise InputError("--what masks: found no section proposers in the params, expected a proposer")
    _check_encoders(settings, to, form, wanted, encoders)
    chosen = pictures or form.pictures[0]
    if chosen not in form.pictures:
        raise InputError(
            f"--pictures: found {chosen!r}, expected {' or '.join(form.pictures)} for {to}"
            f"{did_you_mean(chosen, form.pictures)}"
        )
    if polygons and to != "labelme":
        raise InputError(f"--polygons: found --to {to}; only labelme has polygons instead of masks")
    masks_of = (proposer or settings.proposer) if "masks" in wanted else None
    return Asked(
        *_place(split),
        wanted,
        0,
        chosen,
        masks_of,
        None,
        tuple(dict.fromkeys(encoders)),
        polygons,
        _terms(settings, split),
    )


def _check_encoders(settings: Settings, to: str, form: Format, whats: Sequence[str], encoders: Sequence[str]) -> None:
    if not encoders:
        return
    if not form.vectors:
        others = ", ".join(name for name, each in FORMATS.items() if each.vectors)
        raise InputError(f"--encoder: found --to {to}, which holds no vectors; expected one of {others}")
    for encoder in encoders:
        if encoder not in settings.embed.mask_encoders:
            raise InputError(
                f"--encoder: found {encoder!r}, expected one of {', '.join(settings.embed.mask_encoders) or 'nothing'} "
                f"(embed.mask_encoders in the params){did_you_mean(encoder, settings.embed.mask_encoders)}"
            )
    if not {"masks", "instances"} & set(whats):
        raise InputError(
            f"--encoder: found --what {','.join(whats)}; vectors are of masks and instances: add one of them"
        )


def _place(split: SplitRef) -> tuple[str, str]:
    return split.dataset, split.split


def _terms(settings: Settings, split: SplitRef) -> tuple[str, ...]:
    """What is known of the licence of the pictures: of the data set that holds them."""
    holder = settings.data[split.dataset].images
    known = recognise(settings.data[holder], holder)
    if known is None:
        return ()
    licence = f"licence of the pictures: {known.set.pictures_licence}" if known.set.pictures_licence else ""
    return tuple(line for line in (licence, known.set.note) if line)


def _photo(settings: Settings, split: SplitRef, asked: Asked) -> Any:
    """Reads the file of a row of ``images`` where the data set holds it; None where no picture is wanted."""
    if asked.pictures == "none":
        return None
    holder = settings.data[split.dataset].images
    folders = settings.folders(holder)
    if lost := [folder for folder in folders.folders if not is_folder(folder)]:
        raise InputError(
            f"data.{holder}.root: there is no folder {lost[0]}, and the pictures are wanted; --pictures none leaves them out"
        )
    return lambda row: picture_file(folders, row, settings.data[holder].max_pixels)


def _answers(
    settings: Settings, split: SplitRef, opened: Split, system: str | None, name: str | None
) -> tuple[Mapping[str, Sequence[Prediction]], str]:
    """target_id -> the answers of a run, or of kept predictions, and its name.

    Raises:
        InputError: the run is not trained, or has not answered this split as it is now.
    """
    external = next((one for one in external_runs(settings) if one.name == name), None)
    if external is not None and system is None:
        named = external.name
        found = external_answers(settings, external, opened, split)
    else:
        run = resolve(settings, system, name)
        there, named = held(run.folder), run.name
        refused = not_trained(settings, run, there, ("evaluate", *run.words, *settings.words(split)))
        if refused is not None:
            raise refused
        assert there is not None, "it is trained"
        found = current_answers(settings, Found(run, there, free=False), opened, split)
    if isinstance(found, Missing):
        raise InputError(f"--what predictions: {found.what}: {found.why}")
    answers: dict[str, list[Prediction]] = defaultdict(list)
    for prediction in found[1]:
        answers[prediction.target_id].append(prediction)
    return answers, named


def _head(asked: Asked, to: str, opened: Split, predictions: Mapping[str, Sequence[Prediction]]) -> dict[str, Any]:
    """Which export it is: two with the same head have the same bytes."""
    columns = {name: column_digest(column) for name, column in opened.columns.items()}
    told = ("target_id", "text_index", "segmentation", "rejected", "answer")
    answers = [[getattr(each, name) for name in told] for found in predictions.values() for each in found]
    return {
        "export": to,
        "version": VERSION,
        "dataset": asked.dataset,
        "split": asked.split,
        "what": list(asked.whats),
        "proposer": asked.proposer,
        "run": asked.run,
        "encoders": list(asked.encoders),
        "pictures": asked.pictures,
        "polygons": asked.polygons,
        "store": digest([columns, answers]),
    }


def _require_outside(settings: Settings, folder: Path) -> None:
    if folder.resolve().is_relative_to(settings.store_path.resolve()):
        raise InputError(f"--out: {folder} is in the store {settings.store}; expected a folder elsewhere")


def _said(asked: Asked, to: str, folder: Path, summary: Summary) -> str:
    """What was written, and what was left out, in lines."""
    counts = ", ".join(f"{number} {_word(name, number)}" for name, number in summary.counts.items())
    whose = [f"masks of {asked.proposer}"] if asked.proposer else []
    whose += [f"predictions of {asked.run}"] if asked.run else []
    of = f" ({', '.join(whose)})" if whose else ""
    size = f"{summary.files} {_word('files', summary.files)}, {summary.size_bytes / 1e6:.1f} MB"
    lines = [f"{folder}: {to} of {asked.name}{of}: {counts}; {size}"]
    lines += [f"  {line}" for line in summary.remarks]
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for note in summary.left_out:
        groups[_left_out(note), note.reason].append(note.image_id)
    for (what, reason), names in list(groups.items())[:_SHOWN]:
        shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
        lines.append(f"  {len(names)} {_word('images', len(names))} {what}: {reason}: {shown}")
    if len(groups) > _SHOWN:
        lines.append(f"  and for {len(groups) - _SHOWN} more reasons: left_out in {folder / 'export.json'} has all")
    return "\n".join(lines)


def _word(name: str, number: int) -> str:
    return name.removesuffix("s") if number == 1 else name


_WITHOUT = {"image": "left out", "picture": "left out, as the picture is missing"}


def _left_out(note: Note) -> str:
    """What is left out of an image, in words."""
    return _WITHOUT.get(note.what, f"without {note.what}")
