"""Formats of data sets, by the name that an entry gives as ``format``: one module and one line of :data:`FORMATS` each.

No torch here, and a format's module is imported only when it is needed. How to add a format: docs/add_a_data_set.md.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import PlainValidator, SerializeAsAny

from stages.datasets import params as models
from stages.datasets.base import Collection, Dataset, DatasetError, Expected, SharedFiles, Source
from stages.datasets.params import DataParams, Options
from stages.datasets.published import Counts
from stages.images import ImageFailure
from stages.names import did_you_mean
from store.read.folders import Folders


@dataclass(frozen=True)
class Format:
    """One line of :data:`FORMATS`."""

    module: str
    """File in stages/datasets: a :class:`stages.datasets.base.Dataset`, or without annotations a ``Collection``."""
    options: type[Options]
    """What it has of its own in an entry of section ``data``."""
    annotated: bool = True
    """Whether it has instances and targets."""
    split_folder: bool = False
    """Whether a split is the folder of its name below the root, with only image and annotation files."""
    made: bool = False
    """Whether its targets say how they were made."""
    version: int = 1
    """Raised whenever the same files would give other instances or targets."""


FORMATS: dict[str, Format] = {
    "reasonseg": Format("reasonseg", models.ReasonSegOptions, split_folder=True),
    "questions": Format("questions", models.QuestionsOptions),
    "reasonseg_hub": Format("reasonseg_hub", models.ReasonSegHubOptions),
    "coco": Format("coco", models.CocoOptions),
    "images": Format("images", models.ImagesOptions, annotated=False),
    "semantic": Format("semantic", models.SemanticOptions),
    "llmseg40k": Format("llmseg40k", models.LlmSeg40kOptions),
    "generated": Format("generated", models.GeneratedOptions, made=True),
    "reasonseg_plus": Format("reasonseg_plus", models.ReasonSegPlusOptions),
    "vqa": Format("vqa", models.VqaOptions),
    "refer": Format("refer", models.ReferOptions),
    "grefer": Format("grefer", models.GReferOptions),
}


def _model(name: str, options: type[Options]) -> type[DataParams]:
    """The model of an entry of section ``data`` with this format: the fields of all entries, and the format's own options."""
    return type(f"{name}Params", (options, DataParams), {"__doc__": options.__doc__, "__module__": __name__})


_MODELS = {name: _model(name, found.options) for name, found in FORMATS.items()}


def data_params(value: Any) -> DataParams:
    """An entry of section ``data``.

    Raises:
        ValueError: the value is not a section, or its format is unknown (pydantic.ValidationError: an option is unknown or out
            of range).
    """
    if isinstance(value, DataParams):
        return value
    if not isinstance(value, Mapping):
        raise ValueError(
            f"found {value!r}, expected a section such as {{format: reasonseg, images: NAME, root: FOLDER}}"
        )
    name = value.get("format")
    if name not in FORMATS:
        found = "nothing" if name is None else repr(name)
        raise ValueError(
            f"format: found {found}, expected one of {', '.join(FORMATS)}{did_you_mean(str(name), FORMATS)}"
        )
    return _MODELS[str(name)].model_validate(value)


AnyData = Annotated[SerializeAsAny[DataParams], PlainValidator(data_params)]
"""An entry of section ``data``, of any format."""


def loader(data: DataParams) -> Dataset:
    """The module that reads a data set with annotations."""
    module: Dataset = _module(data.format)
    return module


def list_sources(data: DataParams, folders: Folders, split: str) -> list[Source]:
    """The images of a split in a stable order. Raises DatasetError if they cannot be listed."""
    if FORMATS[data.format].annotated:
        return loader(data).list_sources(folders.folders[0], split, data)
    collection: Collection = _module(data.format)
    return collection.list_sources(folders, split, data)


def expected(data: DataParams, name: str, split: str) -> tuple[Expected, ...]:
    """The files and folders that a split of a data set consists of, with the pictures if the data set holds them itself.

    Args:
        name: the data set's name in the params.
    """
    module: Dataset | Collection = _module(data.format)
    return module.expected(split, data, data.images == name)


def count(data: DataParams, folders: Folders, split: str) -> Counts:
    """How many images, questions and texts a split has; only images for a format that cannot count more before it is indexed.

    Raises DatasetError or ImageFailure where a file cannot be read.
    """
    ask = getattr(_module(data.format), "count", None)
    if ask is None:
        return Counts(len(list_sources(data, folders, split)), None, None)
    found: Counts = ask(folders.folders[0], [split], data)
    return found


def listed_from(data: DataParams, folders: Folders, split: str) -> tuple[str, ...]:
    """The files in the first folder that alone decide what :func:`list_sources` gives, where the format says so; else empty.

    Raises DatasetError if one is missing, as that function does.
    """
    ask = getattr(_module(data.format), "listed_from", None)
    return () if ask is None else ask(folders.folders[0], split, data)


def contents(data: DataParams, folders: Folders, sources: Sequence[Source]) -> list[str]:
    """The ``content`` of sources that have one, as the files are now. Raises DatasetError if a file cannot be read."""
    module: SharedFiles = _module(data.format)
    try:
        return module.contents(folders.folders[0], sources, data)
    except ImageFailure as error:
        raise DatasetError(str(error)) from error


def reading(data: DataParams) -> dict[str, Any]:
    """The values of an entry that decide how its annotations are read, without options at their defaults."""
    own, found = FORMATS[data.format], {"format": data.format}
    defaults = own.options().model_dump(mode="json")
    found |= {
        name: value
        for name, value in data.model_dump(mode="json", include=set(defaults)).items()
        if value != defaults[name]
    }
    return found if own.version == 1 else {**found, "format_version": own.version}


def _module(name: str) -> Any:
    return importlib.import_module(f"stages.datasets.{FORMATS[name].module}")
