"""What ``compare`` and ``figure`` take: runs, external predictions and files of predictions; and the splits that all answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.commands.evaluate_input import name_of
from pipeline.config import InputError, Settings
from pipeline.external import External, external_runs
from pipeline.run_folders import Entry, commands, entries
from pipeline.runs import TAKEN, Run
from stages.datasets import FORMATS
from stages.names import SplitRef, did_you_mean
from stages.predictions import PredictionError, read_meta
from stages.train.folder import Held


@dataclass(frozen=True)
class Side:
    """One side of a comparison: a run that was trained here, external predictions that are kept, or a file of predictions.

    Args:
        name: as tables show it; no two have the same.
        of: a trained run, or kept predictions; None: ``path``.
        path: a file or folder of predictions.
    """

    name: str
    of: Entry | External | None = None
    path: Path | None = None

    @property
    def trained(self) -> tuple[Run, Held, bool] | None:
        """The run, what its folder holds, and whether its name is free (:class:`pipeline.run_folders.Entry`)."""
        one = self.of
        return (one.run, one.held, one.free) if isinstance(one, Entry) and one.run and one.held else None

    @property
    def digest(self) -> str | None:
        """sha256 (hex) of the trained run, or of the file of kept predictions."""
        if isinstance(self.of, External):
            return self.of.digest
        return None if self.trained is None else self.trained[1].digest

    def answers(self, split: SplitRef) -> Path:
        """The file of its answers to a split."""
        if self.path is not None:
            return self.path
        if isinstance(self.of, External):
            return self.of.answers(split)
        assert self.trained is not None
        return self.trained[0].answers(split)

    def answered(self, settings: Settings) -> list[SplitRef] | None:
        """The splits of the params that it has answered in the usual way; None: its file does not name its split."""
        if self.path is None:
            return [split for split in settings.splits if self.answers(split).is_file()]
        if self.path.suffix.lower() != ".parquet":
            return None
        meta = read_meta(self.path)
        return [SplitRef(meta.dataset, meta.split)]

    def to_ask(self, settings: Settings, split: SplitRef, again: bool = False) -> str:
        """What to type so that it answers a split, as the end of a sentence; empty where nothing here can do it.

        Args:
            again: whether it has to be trained again first.
        """
        if self.trained is None:
            return ""
        run, state, free = self.trained
        train, evaluate = commands(settings, run, state, split, free)
        return f"; run: {train} --replace && {evaluate}" if again else f"; run: {evaluate}"


def sides(settings: Settings, words: Sequence[str]) -> list[Side]:
    """What the words of the command line name, a run before a file of the same name.

    Raises:
        InputError: one is named twice, is not trained, or is neither a run nor a file.
    """
    trained = {entry.name: entry for entry in entries(settings)}
    kept = {one.name: one for one in external_runs(settings)}
    if twice := next((word for word in words if words.count(word) > 1), None):
        raise InputError(f"RUN: found {twice!r} twice, expected different runs")
    found: list[Side] = []
    for word in words:
        if word in kept:
            found.append(Side(word, kept[word]))
        elif word in trained:
            found.append(Side(word, _trained(settings, trained[word])))
        elif Path(word).exists():
            found.append(Side(_name(Path(word)), path=Path(word)))
        else:
            raise InputError(
                f"RUN: found {word!r}, which is neither a run nor a file or folder of predictions"
                f"{did_you_mean(word, _known(settings))}; {there_are(settings)}"
            )
    return _named_apart(found)


def there_are(settings: Settings) -> str:
    """Which runs and kept predictions there are, in words."""
    known = _known(settings)
    return (f"there are {', '.join(known)}" if known else "there are none yet") + (
        f"; {settings.command('runs')} lists them"
    )


def all_that_answered(settings: Settings, among: Sequence[SplitRef]) -> list[str]:
    """Names of the finished runs, and of kept predictions, that have answered one of these splits.

    Raises:
        InputError: no run has.
    """
    finished = [Side(one.name, one) for one in entries(settings) if one.run and one.held and one.held.finished]
    found = [*finished, *(Side(one.name, one) for one in external_runs(settings))]
    names = [one.name for one in found if any(one.answers(split).is_file() for split in among)]
    if not names:
        asked = ", ".join(map(str, among))
        raise InputError(f"RUN: no run has answered {asked}; {there_are(settings)}; evaluate lets a run answer")
    return names


def _known(settings: Settings) -> list[str]:
    trained = [entry.name for entry in entries(settings) if entry.held is not None]
    return [*trained, *(one.name for one in external_runs(settings))]


def shared_splits(
    settings: Settings, found: Sequence[Side], among: Sequence[SplitRef]
) -> tuple[list[SplitRef], list[str]]:
    """The splits ``among`` these that all have answered, and what is said of those that only some have.

    Raises:
        InputError: no split was answered by all; says what each has answered, and what to type.
    """
    asked = [split for split in among if FORMATS[settings.data[split.dataset].format].annotated]
    try:
        answered = {one.name: one.answered(settings) for one in found}
    except PredictionError as error:
        raise InputError(str(error)) from error
    known = {name: splits for name, splits in answered.items() if splits is not None}
    if not known:  # files that say nothing of their split
        if len(asked) != 1:
            raise InputError(
                f"RUN: these predictions do not name their split, expected one of {', '.join(map(str, asked))}; "
                "name it with --data and --split"
            )
        return asked, []
    shared = [split for split in asked if all(split in splits for splits in known.values())]
    if len(shared) > 1 and len(known) < len(answered):
        unknown = ", ".join(name for name, splits in answered.items() if splits is None)
        raise InputError(
            f"RUN: {unknown} does not name its split, and the others have answered {', '.join(map(str, shared))}; "
            f"name one, such as {settings.options(shared[0])}"
        )
    some = {
        split: [name for name, splits in known.items() if split in splits] for split in asked if split not in shared
    }
    by_name = {one.name: one for one in found}
    partly = []
    for split, have in some.items():
        lacking = [by_name[name] for name in known if name not in have]
        if have:
            who = "; ".join(f"{one.name} has not{one.to_ask(settings, split)}" for one in lacking)
            partly.append(f"{split}: answered by {', '.join(have)}; {who}")
    if not shared:
        wanted = next((split for split, have in some.items() if have), asked[0] if asked else None)
        lines = partly or [
            f"{one.name} has not answered {wanted}{one.to_ask(settings, wanted)}"
            for one in found
            if wanted and one.name in known
        ]
        raise InputError(
            "\n".join(
                [
                    "RUN: there is no split with questions that all of them have answered:",
                    *(f"  {line}" for line in lines),
                ]
            )
        )
    return shared, partly


def _trained(settings: Settings, entry: Entry) -> Entry:
    """The entry; InputError where its run is not trained."""
    if entry.run is None or (entry.held is not None and not entry.held.about):
        raise InputError(
            f"RUN: nothing in the folder of {entry.name} says which run it is; {settings.command('runs')} lists them"
        )
    train, evaluate = commands(settings, entry.run, entry.held, settings.evaluated[0], entry.free)
    if entry.held is None:
        raise InputError(f"RUN: {entry.name} is not trained; run: {train} && {evaluate}")
    if not entry.held.finished:
        raise InputError(f"RUN: {entry.name} is {entry.held}; to go on: {train} && {evaluate}")
    return entry


def _name(path: Path) -> str:
    """What a file's predictions are called."""
    try:
        return read_meta(path).system if path.suffix.lower() == ".parquet" else name_of(path)
    except PredictionError as error:
        raise InputError(str(error)) from error


def _named_apart(found: Sequence[Side]) -> list[Side]:
    """The sides with names that all differ; a run takes precedence over a file."""
    taken, names = set(TAKEN), dict[int, str]()
    for place in sorted(range(len(found)), key=lambda place: found[place].path is not None):
        name, kind = found[place].name, "run" if found[place].path is None else "predictions"
        choices = (name, f"{name} ({kind})", *(f"{name} ({k})" for k in range(2, len(found) + 2)))
        names[place] = next(one for one in choices if one not in taken)
        taken.add(names[place])
    return [replace(one, name=names[place]) for place, one in enumerate(found)]
