"""The verbs by which data leave a store, and come from other programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.options import (
    DataOption,
    DeviceOption,
    JsonOption,
    NameOption,
    SplitOption,
    SystemOption,
)  # fmt: skip
from pipeline.verbs.given import chosen_splits, settings_of

if TYPE_CHECKING:
    pass


def export(
    context: typer.Context,
    to: Annotated[str, typer.Option("--to", help="coco, labelme, png, hf, webdataset, fiftyone or numpy.")],
    out: Annotated[Path, typer.Option("--out", help="The folder to write: empty, or not there yet.")],
    split: SplitOption = None,
    data: DataOption = None,
    what: Annotated[
        list[str] | None,
        typer.Option(
            "--what",
            help="masks (proposals), instances, targets (questions) or predictions; repeat it, or give a list. Default: the first "
            "three; labelme: targets.",
        ),
    ] = None,
    proposer: Annotated[
        str | None,
        typer.Option(
            "--proposer", help="The proposer whose masks are written; default: train.proposer, or the first one."
        ),
    ] = None,
    encoder: Annotated[
        list[str] | None,
        typer.Option(
            "--encoder",
            help="Also write the vectors of this encoder (only hf, webdataset, fiftyone and numpy); repeat it.",
        ),
    ] = None,
    system: SystemOption = None,
    name: NameOption = None,
    pictures: Annotated[
        str | None,
        typer.Option(
            "--pictures", help="copy, link or none. Default: none for coco, png and numpy, copy for the others."
        ),
    ] = None,
    polygons: Annotated[
        bool,
        typer.Option("--polygons", help="labelme: polygons instead of exact masks; the command says what they lose."),
    ] = False,
) -> None:
    """Write a split in a form that other tools read. If stopped, run it again to resume; docs/export.md says what each form keeps.

    **coco**: annotations and results for pycocotools; **labelme**: JSON to correct masks by hand; **png**: masks as pictures;
    **hf**: a Parquet data set of the Hugging Face hub; **webdataset**: tar shards;
    **fiftyone**: a data set of FiftyOne; **numpy**: npz files.

    Examples:

    `python cli.py export --to coco --split val --out data/export/coco`

    `python cli.py export --to labelme --split val --what targets --out data/export/labelme`

    `python cli.py export --to webdataset --split val --what masks --encoder demo_alphaclip --out data/export/tars`

    `python cli.py export --to coco --data demo --split test --what targets,predictions --system elisa --out data/export/answers`
    """
    from pipeline.commands.export import export_command
    from pipeline.errors import FAILURES, as_given

    settings = settings_of(context)
    text, lost = export_command(
        settings,
        chosen_splits(settings, split, data),
        to,
        out,
        whats=[each for given in what or () for each in given.split(",")],
        proposer=proposer,
        encoders=encoder or (),
        system=system,
        name=name,
        pictures=pictures,
        polygons=polygons,
    )
    print(as_given(text))
    raise typer.Exit(FAILURES if lost > settings.run.max_failures else 0)


def boxes(
    context: typer.Context,
    out: Annotated[Path, typer.Option("--out", help="The file to write, in COCO's form.")],
    split: SplitOption = None,
    data: DataOption = None,
    model: Annotated[str, typer.Option("--model", help="A SAM model, e.g. sam_vit_h.")] = "sam_vit_h",
    device: DeviceOption = None,
) -> None:
    """Turn boxes into masks by SAM's box prompt, for data sets with only boxes (EgoObjects). If stopped, run it again to resume.

    Example: `python cli.py boxes --data egoobjects --split train --out data/ego_objects/data/train_masks.json`
    """
    from pipeline.commands.boxes import boxes_command
    from pipeline.config import InputError
    from pipeline.errors import as_given

    settings = settings_of(context, device=device)
    splits = chosen_splits(settings, split, data)
    if len(splits) > 1:
        raise InputError(
            f"boxes: expected one split, found {', '.join(map(str, splits))}; name one, such as {settings.options(splits[0])}"
        )
    print(as_given(boxes_command(settings, splits[0], model, out.expanduser())))


def import_(
    context: typer.Context,
    files: Annotated[list[Path], typer.Argument(help="JSON, JSONL, HDF5 or .npz; or a folder with one per picture.")],
    name: Annotated[str, typer.Option("--name", help="Name of the new proposer or encoder in the params.")],
    split: SplitOption = None,
    data: DataOption = None,
    of: Annotated[
        str | None, typer.Option("--of", help="For vectors without masks: the proposer whose masks they belong to.")
    ] = None,
    stored_order: Annotated[
        bool,
        typer.Option(
            "--stored-order", help="With --of: vectors are in the order of the store, not of the imported file."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Import masks and vectors made by another program, check them against the index, and say what to add to the params.

    Reads SAM's masks as `scripts/amg.py --convert-to-rle` and SA-1B write them, LLM-Seg's masks.json and HDF5, ELISA's JSONL, and
    .npz. Nothing in the store is changed: `extract` takes the masks from the copy that this command keeps. docs/import.md has
    each form, and what is lost.

    Examples:

    `python cli.py import amg_masks/ --name mine --split val`

    `python cli.py import coco_split0.h5 coco_split1.h5 --name llmseg`

    `python cli.py import train_TEST.jsonl --name elisa2024 --split train`

    `python cli.py import vectors.npz --name my_encoder --of demo_sam --stored-order`
    """
    from pipeline.commands.importing import as_text, import_command
    from pipeline.errors import as_given

    settings = settings_of(context)
    found, code = import_command(settings, chosen_splits(settings, split, data), files, name, of, stored_order)
    print(json.dumps(found, indent=1) if as_json else as_given(as_text(found)))
    raise typer.Exit(code)
