"""The verbs that show what there is, and look after it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from pipeline.options import (
    DataOption,
    JsonOption,
    SplitOption,
)  # fmt: skip
from pipeline.verbs.given import chosen_splits, settings_of

if TYPE_CHECKING:
    pass


def demo(
    context: typer.Context,
    train_models: Annotated[
        bool, typer.Option("--train-models", help="Instead: retrain the demo models (over two hours on 2 cores).")
    ] = False,
    scenes: Annotated[
        int | None, typer.Option("--scenes", min=1, help="Instead: make a split 'scenes' with this many other scenes.")
    ] = None,
    mixture: Annotated[
        bool,
        typer.Option(
            "--mixture", help="Instead: make scenes in the official formats of LISA's mixture, in data/mixture."
        ),
    ] = False,
    asked: Annotated[
        bool, typer.Option("--questions", help="Instead: make scenes for question generation, in data/questions_demo.")
    ] = False,
    first_seed: Annotated[
        int, typer.Option("--first-seed", min=0, help="Seed of the first scene of --scenes.")
    ] = 950_000,
    out: Annotated[Path, typer.Option("--out", help="Folder for the data set that --scenes makes.")] = Path(
        "data/scenes"
    ),
) -> None:
    """Make the demo data set in data/demo; --train-models trains the tiny models instead. Files that you added or changed are kept.

    Examples:

    `python cli.py demo`

    `python cli.py demo --scenes 200 --first-seed 950000`

    `python cli.py demo --mixture`

    `python cli.py demo --questions`
    """
    from pipeline.commands.demo import (
        make_demo_asked,
        make_demo_data,
        make_demo_mixture,
        make_demo_scenes,
        train_demo_models,
    )

    if scenes is not None:
        print(make_demo_scenes(scenes, first_seed, out))
    elif mixture:
        print(make_demo_mixture())
    elif asked:
        print(make_demo_asked())
    else:
        print(train_demo_models() if train_models else make_demo_data())


def info(
    context: typer.Context, split: SplitOption = None, data: DataOption = None, as_json: JsonOption = False
) -> None:
    """What the store holds, what is missing or stale, and why.

    Example: `python cli.py info --split val`
    """
    from pipeline.commands.info import as_text, describe
    from pipeline.errors import as_given

    settings = settings_of(context)
    found = describe(settings, chosen_splits(settings, split, data))
    print(json.dumps(found, indent=1) if as_json else as_given(as_text(found)))


def browse(
    context: typer.Context,
    split: SplitOption = None,
    data: DataOption = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0: any free one.")] = 8321,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; one that other machines can reach needs --token.")
    ] = "127.0.0.1",
    token: Annotated[
        str | None,
        typer.Option("--token", envvar="ELISA_BROWSE_TOKEN", help="Secret needed to open the page, as /?token=TOKEN."),
    ] = None,
) -> None:
    """Show the store in a browser: pictures, masks, questions, answers of the runs, nearest masks, provenance.

    The pages also find masks by words, ask trained runs about a picture and compare runs. Nothing in the store is changed and no
    network is used; Ctrl-C stops the server. docs/browsing.md says how to reach it on another machine.

    Examples:

    `python cli.py browse`

    `python cli.py browse --data demo --split val --port 0`

    `ELISA_BROWSE_TOKEN=$(openssl rand -hex 16) python cli.py browse --host 0.0.0.0` takes the token from the environment, which
    other users of the machine cannot see
    """
    from pipeline.commands.browse import browse_command

    names = [name for names in data or () for name in names.split(",")]
    browse_command(settings_of(context), split, names, host, port, token)


def data(
    context: typer.Context,
    name: Annotated[Optional[str], typer.Argument(help="A data set of the params; default: all of them.")] = None,  # noqa: UP045
    unpack: Annotated[
        Path | None,
        typer.Option("--unpack", help="Instead: write the pictures of NAME (format reasonseg_hub) into this folder."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what a data set is, where to get it, its licence, which files are here, and its counts next to the published ones.

    It changes nothing (except with --unpack), and works before anything is downloaded.

    Examples:

    `python cli.py data`

    `python cli.py data refcoco`

    `python cli.py --params params/sets/lvis.yaml data lvis`

    `python cli.py --params params/sets/reasonseg_hub.yaml data hub --unpack data/reasonseg_hub/pictures`
    """
    from pipeline.commands.data import as_text, data_command, unpack_command, unpacked_text
    from pipeline.errors import as_given

    settings = settings_of(context)
    if unpack is not None:
        found, code = unpack_command(settings, name, unpack)
        print(json.dumps(found, indent=1) if as_json else unpacked_text(settings, str(name), unpack, found))
        raise typer.Exit(code)
    found = data_command(settings, name)
    print(json.dumps(found, indent=1) if as_json else as_given(as_text(found)))


def params(
    context: typer.Context,
    doc: Annotated[bool, typer.Option("--doc", help="Every parameter with its default and what it means.")] = False,
) -> None:
    """Print all parameters, defaults included, as a params file; --params and --set apply.

    Examples:

    `python cli.py params`

    `python cli.py params --doc`
    """
    from pipeline.commands.params import documentation, settings_text

    print(documentation() if doc else settings_text(settings_of(context)).rstrip())


def verify(
    context: typer.Context,
    split: SplitOption = None,
    data: DataOption = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also check every byte against the digests in the records.")
    ] = False,
    complete: Annotated[
        bool, typer.Option("--complete", help="A column that is not finished is an error too (exit 4).")
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Check as --deep does, remove damaged shards and compute them again.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check the store against the records of its finished shards; if images are borrowed, check the data set that holds them, too.

    Without --deep or --repair it checks the record in each shard and each column's small JSON files, not the data.

    Examples:

    `python cli.py verify --deep --complete`

    `python cli.py verify --split val --repair`
    """
    from pipeline.commands.verify import verify_command
    from pipeline.errors import as_given

    settings = settings_of(context)
    code, text = verify_command(settings, chosen_splits(settings, split, data), deep, complete, repair, as_json)
    print(text if as_json else as_given(text))
    raise typer.Exit(code)


def weights(
    context: typer.Context,
    names: Annotated[Optional[list[str]], typer.Argument(help="Checkpoints; default: list them.")] = None,  # noqa: UP045
    source: Annotated[Optional[Path], typer.Option("--from", help="Adopt this file as NAME.")] = None,  # noqa: UP045
    replace: Annotated[bool, typer.Option("--replace", help="With --from: replace a file adopted earlier.")] = False,
) -> None:
    """Fetch official checkpoints and check their sha256, or adopt a file you fetched.

    Examples:

    `python cli.py weights` lists what is known, which of it the params need, and what is missing

    `python cli.py weights sam_vit_h`

    `python cli.py weights alphaclip_vit_b16 --from ~/Downloads/clip_b16_grit1m_fultune_8xe.pth`
    """
    from pipeline.commands.weights import weights_command

    print(weights_command(settings_of(context), names or [], source, replace))


def completion(shell: Annotated[str, typer.Argument(help="bash, zsh or fish.")]) -> None:
    """Print the lines that teach your shell to complete `python cli.py`: verbs, options, and names from the params file.

    Examples:

    `python cli.py completion bash >> ~/.bashrc`

    `python cli.py completion zsh >> ~/.zshrc`

    `python cli.py completion fish > ~/.config/fish/conf.d/elisa_store.fish`
    """
    from pipeline.completion import script

    print(script(shell), end="")
