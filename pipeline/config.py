"""``params.yaml`` -> frozen settings. Defaults live in the models; the file says only what differs."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PrivateAttr, ValidationError, model_validator

from pipeline.parameters import explain
from pipeline.scale.prices import PriceParams
from stages.datasets import FORMATS, AnyData
from stages.datasets.params import RUN, ImagesOptions
from stages.fields import Key
from stages.names import SplitRef, did_you_mean
from stages.params import EvaluateParams, RunParams, Sections, Shared
from stages.questions.params import QuestionSetParams
from stages.train.params import TrainParams, overridden
from stages.train.systems import SYSTEMS
from store.addresses import SCHEMES, below, is_remote, is_web
from store.read.folders import Folders

ROOT = Path(__file__).resolve().parent.parent
"""The repository: params.yaml, weights.lock and relative paths are looked up here."""


class InputError(Exception):
    """Usage, configuration or input is wrong; exit code 2."""


class VanishedError(OSError):
    """A file that was there when the work began is gone or was replaced; exit code 75, because the same command may go on."""


class Settings(Shared):
    """Everything in ``params.yaml``."""

    store: str = "data/store"
    """Folder of the feature store."""
    data: Annotated[dict[Key, AnyData], Field(min_length=1)]
    """Data sets by the name that they have in the store."""
    shard_images: Annotated[int, Field(ge=1)] = 32
    """S: images per shard."""
    train: TrainParams = TrainParams()
    """Section train."""
    evaluate: EvaluateParams = EvaluateParams()
    """Section evaluate."""
    prices: PriceParams = PriceParams()
    """Section prices."""
    runs: dict[Key, dict[str, Any]] = Field(default_factory=dict)
    """Trainings by name: ``system``, and what differs from section train. A system's own name without an entry here is a run of it
    with section train as it stands."""
    questions: dict[Key, QuestionSetParams] = Field(default_factory=dict)
    """Sets of questions that ``python cli.py questions NAME`` makes, each for the data set of the same name, of the format
    generated."""
    _given: tuple[str, ...] = PrivateAttr(())

    @property
    def proposer(self) -> str | None:
        """The proposer whose masks are chosen from by default: ``train.proposer``, or the first; None without proposers."""
        return self.train.proposer or next(iter(self.proposers), None)

    @model_validator(mode="before")
    @classmethod
    def _splits_in_full(cls, values: Any) -> Any:
        """``train`` -> ``demo/train`` wherever splits are named, if there is one data set."""
        names = list(values.get("data") or ()) if isinstance(values, Mapping) else []
        return _in_full(values, names[0]) if len(names) == 1 else values

    @model_validator(mode="after")
    def _names_are_of_use(self) -> Settings:
        roots = {f"data.{name}.root" for name in self.data}
        pictures = {f"data.{name}.root" for name, data in self.data.items() if not FORMATS[data.format].annotated}
        for name, value in (
            ("store", self.store),
            *((f"data.{name}.root", root) for name, data in self.data.items() for root in data.roots),
            ("run.weights_dir", self.run.weights_dir),
            ("run.train_dir", self.run.train_dir),
            ("run.report_dir", self.run.report_dir),
            ("run.cache_dir", self.run.cache_dir),
        ):
            if re.match(r"[A-Za-z]:[\\/]", value) and os.name != "nt":
                below_mnt = f"/mnt/{value[0].lower()}/{value[3:]}".replace("\\", "/")
                raise ValueError(
                    f"{name}: found the Windows path '{value}', expected a path of this machine, such as {below_mnt}, "
                    "where WSL has that disk"
                )
            if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", value):
                may_be = name == "store" or name in pictures
                if may_be and is_remote(value) and not is_web(value):
                    continue
                known = f" or one of {', '.join(f'{scheme}://' for scheme in SCHEMES)}" if may_be else ""
                of_images = (
                    "; pictures may lie in an object store, with format images" if name in roots - pictures else ""
                )
                such_as = f", such as {_DEFAULTS[name]}" if name in _DEFAULTS else ""
                raise ValueError(f"{name}: found the address {value!r}, expected a folder{known}{such_as}{of_images}")
        for name, data in self.data.items():
            if name in RESERVED:
                raise ValueError(f"data.{name}: {name} is a folder of its own in {RESERVED[name]}; choose another name")
            holder = self.data.get(data.images)
            if isinstance(data.root, tuple) and FORMATS[data.format].annotated:
                raise ValueError(
                    f"data.{name}.root: found {len(data.root)} folders, expected one; images may lie in several"
                )
            if data.images != name and not FORMATS[data.format].annotated:
                raise ValueError(
                    f"data.{name}.images: found {data.images!r}, expected {name!r}, as it holds images itself"
                )
            if holder is None or holder.images != data.images:
                holders = [name for name, data in self.data.items() if name == data.images]
                raise ValueError(
                    f"data.{name}.images: found {data.images!r}, expected a data set that holds images: {name} itself"
                    f"{''.join(f', or {other}' for other in holders if other != name)}"
                    f"{did_you_mean(data.images, [*holders, name])}"
                )
        for name, data in self.data.items():
            for other in data.only if isinstance(data, ImagesOptions) else ():
                if not other.startswith(RUN):
                    self._require_asking(name, other)
        for name, mean in self.means.items():
            self.refs(f"means.{name}.train", mean.train)
        self.refs("evaluate.splits", self.evaluate.splits)
        return self

    @model_validator(mode="after")
    def _training_knows_its_mean(self) -> Settings:
        """Let trainings that name no mean take the only one."""
        if self.train.mean is None and len(self.means) == 1:
            self.__dict__["train"] = self.train.model_copy(update={"mean": next(iter(self.means))})
        asked = {"train.mean": self.train.mean} | {
            f"runs.{name}.mean": run.get("mean") for name, run in self.runs.items()
        }
        for name, mean in asked.items():
            if mean is not None and mean not in self.means:
                raise ValueError(
                    f"{name}: found {mean!r}, expected the name of a mean: {', '.join(self.means) or 'none yet'}"
                    f"{did_you_mean(str(mean), self.means)}"
                )
        return self

    @model_validator(mode="after")
    def _runs_are_trainings(self) -> Settings:
        runs = {f"runs.{name}": run.get("proposer") for name, run in self.runs.items()}
        for where, proposer in {"train": self.train.proposer, **runs}.items():
            if proposer is not None and proposer not in self.proposers:
                raise ValueError(
                    f"{where}.proposer: found {proposer!r}, expected "
                    + (
                        f"one of {', '.join(self.proposers)}"
                        if self.proposers
                        else "null, as section proposers names none"
                    )
                    + did_you_mean(str(proposer), self.proposers)
                )
        for name, run in self.runs.items():
            if run.get("system") not in SYSTEMS:
                found = repr(run["system"]) if "system" in run else "nothing"
                given = "{" + ", ".join(f"{key}: {value}" for key, value in {"system": "elisa", **run}.items()) + "}"
                meant = did_you_mean(str(run.get("system")), SYSTEMS) if "system" in run else f", such as {given}"
                raise ValueError(f"runs.{name}.system: found {found}, expected one of {', '.join(SYSTEMS)}{meant}")
            if name in SYSTEMS and name != run["system"]:
                raise ValueError(f"runs.{name}.system: found {run['system']}, expected {name}, the system of that name")
            try:
                overridden(self.train, {key: value for key, value in run.items() if key != "system"})
            except ValidationError as error:
                wrong = [f"runs.{name}.{explain(TrainParams, item)}" for item in error.errors()]
                raise ValueError("; ".join(wrong)) from error
        return self

    @model_validator(mode="after")
    def _only_names_runs(self) -> Settings:
        known = list(dict.fromkeys([*self.runs, *SYSTEMS]))
        for name, data in self.data.items():
            for run in data.only_runs if isinstance(data, ImagesOptions) else ():
                said = f"data.{name}.only: found {RUN + run!r}, expected"
                if run not in known:
                    raise ValueError(
                        f"{said} {RUN!r} and the name of a run: {', '.join(known)}{did_you_mean(run, known)}"
                    )
                spec = {key: value for key, value in self.runs.get(run, {}).items() if key != "system"}
                splits = self.refs(f"data.{name}.only: run {run}", overridden(self.train, spec).splits)
                if not any(self.holder(split.dataset) == name for split in splits):
                    raise ValueError(
                        f"{said} a run that trains on pictures of {name}; its splits are {', '.join(map(str, splits)) or 'none'}"
                    )
        return self

    @model_validator(mode="after")
    def _questions_have_their_data(self) -> Settings:
        """Require that each set of questions is a data set of the format generated, with the pictures of its source sets."""
        for name, made in self.questions.items():
            data, sources = self.data.get(name), self.refs(f"questions.{name}.of", made.of)
            holders = sorted({self.data[split.dataset].images for split in sources})
            if len(holders) > 1:
                raise ValueError(
                    f"questions.{name}.of: found pictures of {' and '.join(holders)}, expected those of one data set"
                )
            wanted = f"{{format: generated, images: {holders[0]}, root: FOLDER, splits: [{', '.join(made.splits)}]}}"
            if data is None or (data.format, data.images) != ("generated", holders[0]):
                found = "nothing" if data is None else f"format {data.format} with images of {data.images}"
                raise ValueError(
                    f"data.{name}: found {found}, expected {wanted}, for the questions of questions.{name}"
                )
            if set(data.splits) != set(made.splits):
                raise ValueError(
                    f"data.{name}.splits: found {list(data.splits)}, expected those of questions.{name}.splits: {list(made.splits)}"
                )
            self.refs(f"questions.{name}.check.protected", made.check.protected)
            for split in sources:
                if not FORMATS[self.data[split.dataset].format].annotated:
                    raise ValueError(
                        f"questions.{name}.of: {split} has only pictures; expected a split with annotated regions"
                    )
                if split.dataset in self.questions:
                    raise ValueError(
                        f"questions.{name}.of: {split} has generated questions; expected annotated regions"
                    )
        return self

    def _require_asking(self, holder: str, other: str) -> None:
        """Raise ValueError unless an entry of ``only`` is a data set that borrows from the holder, or a split of one."""
        borrowers = [each for each in self.data if self.holder(each) == holder]
        splits = [f"{each}/{split}" for each in borrowers for split in self.data[each].splits]
        if other not in (splits if "/" in other else borrowers):
            meant = did_you_mean(other, splits if "/" in other else borrowers)
            raise ValueError(
                f"data.{holder}.only: found {other!r}, expected data sets whose images are {holder}: "
                f"{', '.join(borrowers) or 'none yet'}{meant}"
            )

    def __hash__(self) -> int:
        return self.hash_of_values

    @cached_property
    def hash_of_values(self) -> int:
        """Hash of all values; a dict among them has no hash. Settings are frozen, so it is worked out once."""
        return hash(self.model_dump_json())

    def command(self, *words: str) -> str:
        """A command to type, with the params file and the values that this one was given."""
        return shlex.join(["python", "cli.py", *self._given, *words])

    @property
    def store_path(self) -> Path:
        """Folder of the store, absolute; or its address (:mod:`store.addresses`)."""
        return below(ROOT, self.store)

    @property
    def weights_lock(self) -> Path:
        """Digests of adopted and demo weights."""
        return ROOT / "weights.lock"

    @property
    def splits(self) -> tuple[SplitRef, ...]:
        """Every split of every data set, those of data sets that hold images first."""
        names = sorted(self.data, key=lambda name: self.holder(name) is not None)
        return tuple(SplitRef(name, split) for name in names for split in self.data[name].splits)

    def holder(self, dataset: str) -> str | None:
        """The data set whose images a data set borrows; None where they are its own."""
        images = self.data[dataset].images
        return None if images == dataset else images

    def held(self, dataset: str) -> tuple[SplitRef, ...]:
        """The splits that the images of a data set may be in: its own, or those of the data set that it borrows them from."""
        images = self.data[dataset].images
        return tuple(SplitRef(images, split) for split in self.data[images].splits)

    def of(self, dataset: str) -> Sections:
        """What a stage that works on a data set gets to see."""
        shared = {name: getattr(self, name) for name in Shared.model_fields}
        holder = self.holder(dataset)
        return Sections.model_construct(
            data=self.data[dataset], holder=None if holder is None else self.data[holder], **shared
        )

    def folders(self, dataset: str) -> Folders:
        """The folders of a data set, absolute; or their addresses."""
        return Folders([below(ROOT, root) for root in self.data[dataset].roots])

    def refs(self, parameter: str, names: Sequence[str]) -> tuple[SplitRef, ...]:
        """The splits that a parameter names; ValueError, with the choices, where one is not there or appears twice."""
        choices = [str(split) for split in self.splits]
        for name in names:
            if name not in choices:
                raise ValueError(
                    f"{parameter}: found {name!r}, expected splits of section data: {', '.join(choices)}"
                    f"{did_you_mean(name, choices)}"
                )
        if len(set(names)) != len(names):
            raise ValueError(f"{parameter}: a split appears twice in {list(names)}")
        return tuple(SplitRef.of(name) for name in names)

    @property
    def evaluated(self) -> tuple[SplitRef, ...]:
        """The splits that systems answer where none is named: ``evaluate.splits``, or else the last split of every data set that
        has questions; where no data set has any, the last split of every data set, of which only pictures can be shown.
        """
        asked = {name: data for name, data in self.data.items() if FORMATS[data.format].annotated}
        last = tuple(SplitRef(name, data.splits[-1]) for name, data in (asked or self.data).items())
        return tuple(map(SplitRef.of, self.evaluate.splits)) or last

    def select(self, split: str | None = None, data: Sequence[str] = ()) -> tuple[SplitRef, ...]:
        """The splits of this name (None: of any name) in these data sets (none given: in all).

        Raises:
            InputError: there is no such data set, or it has no such split; says what there is.
        """
        if unknown := [name for name in data if name not in self.data]:
            raise InputError(
                f"--data: found {unknown[0]!r}, expected one of {', '.join(self.data)} (section data of the params)"
                f"{did_you_mean(unknown[0], self.data)}"
            )
        among = [one for one in self.splits if not data or one.dataset in data]
        found = tuple(one for one in among if split in (None, one.split))
        if not found:
            known = list(dict.fromkeys(one.split for one in among))
            raise InputError(
                f"--split: found {split!r}, expected one of {', '.join(known)} (splits in section data of the params)"
                f"{did_you_mean(str(split), known)}"
            )
        return found

    def require_questions(self, *splits: SplitRef) -> None:
        """Raise InputError for a split of a format without annotations, about which nothing can be asked."""
        for split in splits:
            name = self.data[split.dataset].format
            if not FORMATS[name].annotated:
                asked = [str(one) for one in self.splits if FORMATS[self.data[one.dataset].format].annotated]
                raise InputError(
                    f"{split} has no questions: its format is {name}, which has only pictures; expected a split with questions: "
                    f"{', '.join(asked) or 'a data set of another format in section data of the params'}"
                )

    def words(self, split: SplitRef) -> tuple[str, ...]:
        """The options of the command line that select a split."""
        return (*(("--data", split.dataset) if len(self.data) > 1 else ()), "--split", split.split)

    def options(self, split: SplitRef) -> str:
        """:meth:`words` in one line."""
        return " ".join(self.words(split))

    def holder_options(self, split: SplitRef) -> str:
        """:meth:`options` that select where the images of a split are indexed: the split, or the data set that it borrows from."""
        holder = self.holder(split.dataset)
        return self.options(split) if holder is None else f"--data {holder}"


_DEFAULTS = {f"run.{name}": RunParams.model_fields[name].default for name in ("train_dir", "report_dir", "cache_dir")}
"""Folders that must be on this machine -> where they are by default."""
RESERVED = {"means": "the store", "metrics": "the report", "ask": "the report"}
"""Names that no data set may have -> what has a folder of that name."""


def _in_full(values: Any, dataset: str) -> Any:
    """The values with the name of the only data set before the names of splits that have none."""

    def full(section: Any, key: str = "train") -> Any:
        if not isinstance(section, Mapping) or not isinstance(section.get(key), list | tuple):
            return section
        named = [f"{dataset}/{name}" if isinstance(name, str) and "/" not in name else name for name in section[key]]
        return {**section, key: named}

    changed = {name: full(values[name]) for name in ("train",) if name in values}
    for section in ("means", "runs"):
        if isinstance(values.get(section), Mapping):
            changed[section] = {name: full(entry) for name, entry in values[section].items()}
    if "evaluate" in values:
        changed["evaluate"] = full(values["evaluate"], "splits")
    return {**values, **changed}
