"""What a shell offers at TAB after ``python cli.py``.

It has to be quick: the params file is read as plain YAML, and hardly anything is imported.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import typer

VARIABLE = "_ELISA_STORE_COMPLETE"
"""Environment variable by which the shell asks; the scripts in ``pipeline/shell`` set it."""
SHELLS = ("bash", "zsh", "fish")
_SCRIPTS = Path(__file__).parent / "shell"

Names = Callable[[typer.Context], Iterable[str]]
"""From the context to the names that may stand in one place of the command line."""


class Offer(NamedTuple):
    """What Typer prints of a completion."""

    value: str
    help: str | None = None
    type: str = "plain"


def script(shell: str) -> str:
    """The lines that teach a shell to complete ``python cli.py``.

    Raises:
        pipeline.config.InputError: there are none for that shell.
    """
    if shell not in SHELLS:
        from pipeline.config import InputError

        raise InputError(f"completion: found {shell!r}, expected bash, zsh or fish")
    return (_SCRIPTS / f"completion.{shell}").read_text(encoding="utf-8")


def answer(app: typer.Typer) -> NoReturn:
    """Print what the shell asked for, and exit."""
    from typer.completion import completion_init  # type: ignore[attr-defined]

    completion_init()
    group: Any = typer.main.get_command(app)
    for parameter in group.params:
        _complete(parameter, OF_OPTIONS.get(parameter.opts[0]))
    for verb, command in group.commands.items():
        for parameter in command.params:
            of_all = OF_OPTIONS.get(parameter.opts[0])
            _complete(parameter, OF_VERBS.get(f"{verb} {parameter.opts[0]}", of_all))
    group(prog_name="cli.py", complete_var=VARIABLE)
    raise SystemExit(os.EX_OK)


def _complete(parameter: Any, names: Names | None) -> None:
    """Make a Typer parameter offer these names; for several with a comma between them, complete the last one."""

    def offers(context: typer.Context, incomplete: str) -> list[Offer]:
        before, comma, last = incomplete.rpartition(",")
        given = before.split(",")
        found = () if names is None else names(context)
        return [Offer(f"{before}{comma}{name}") for name in found if name.startswith(last) and name not in given]

    if names is not None:
        parameter.shell_complete = offers


def _words(*choices: str) -> Names:
    return lambda context: choices


def _params(context: typer.Context) -> Mapping[str, Any]:
    """The params file that the command line names, unchecked; empty where it cannot be read."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        text = Path(context.find_root().params.get("params") or "params.yaml").read_text(encoding="utf-8")
        found = yaml.load(text, loader)
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def _section(params: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = params.get(name)
    return {str(key): value for key, value in found.items()} if isinstance(found, dict) else {}


def _keys(section: str) -> Names:
    return lambda context: _section(_params(context), section)


def _splits(context: typer.Context) -> Iterable[str]:
    entries = [entry for entry in _section(_params(context), "data").values() if isinstance(entry, dict)]
    return dict.fromkeys(str(split) for entry in entries for split in entry.get("splits") or ())


def _runs(context: typer.Context) -> Iterable[str]:
    """Keys of section ``runs``, then other runs, and external predictions, that are there."""
    params = _params(context)
    folder = Path(str(_section(params, "run").get("train_dir", "data/train")))
    there = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    return dict.fromkeys([*_section(params, "runs"), *there])


def _encoders(context: typer.Context) -> Iterable[str]:
    embed = _section(_params(context), "embed")
    lists = (embed.get(name) or () for name in ("mask_encoders", "imported", "image_encoders"))
    return dict.fromkeys(str(name) for names in lists for name in names)


def _parameters(context: typer.Context) -> Iterable[str]:
    """``section.key=`` of every parameter; where a key is free, with those of the params file."""
    from pipeline.config import Settings
    from pipeline.parameters import children, names

    params, found = _params(context), []
    for name in names(Settings):
        if children(Settings, name.split(".")) is not None or name.endswith(".NAME"):
            continue  # a section
        section, free, key = name.partition(".NAME.")
        found += [f"{section}.{one}.{key}=" for one in _section(params, section)] if free else [f"{name}="]
    return found


def _weights(context: typer.Context) -> Iterable[str]:
    from stages.weights import WEIGHTS

    return WEIGHTS


def _systems(context: typer.Context) -> Iterable[str]:
    from stages.train.systems import SYSTEMS

    return SYSTEMS


OF_OPTIONS: Mapping[str, Names] = {
    "--data": _keys("data"),
    "--device": _words("auto", "cpu", "cuda"),
    "--encoder": _encoders,
    "--executor": _words("local", "dask"),
    "--missing": _words("error", "empty"),
    "--mode": _words("generated", "teacher_forced"),
    "--name": _runs,
    "--of": _keys("proposers"),
    "--pictures": _words("copy", "link", "none"),
    "--proposer": _keys("proposers"),
    "--protocol": _words("lisa", "per_text", "hub", "llmseg", "llmseg40k", "refcoco", "gres", "gsva", "sesame", "rris"),
    "--run": _runs,
    "--set": _parameters,
    "--setting": _words("proposals", "proposals+gt"),
    "--split": _splits,
    "--system": _systems,
    "--texts": _words("first", "every"),
    "--to": _words("coco", "labelme", "png", "hf", "webdataset", "fiftyone", "numpy"),
    "--what": _words("masks", "instances", "targets", "predictions"),
}
"""Option -> what it takes. Words are repeated here because the modules that know them take half a second to import; a test compares
the two."""
OF_VERBS: Mapping[str, Names | None] = {
    "compare names": _runs,
    "completion shell": _words(*SHELLS),
    "data name": _keys("data"),
    "extract --stage": _words("masks", "embed", "match"),
    "import --name": None,
    "normalize --stage": _words("means", "center"),
    "questions name": _keys("questions"),
    "train --from": _runs,
    "weights names": _weights,
}
"""Option or argument of one verb -> what it takes there."""
