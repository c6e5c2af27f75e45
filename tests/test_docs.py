"""What README and docs say is so: commands parse, paths exist, examples run, format.md names what the code writes."""

from __future__ import annotations

import ast
import importlib
import math
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import typer
import yaml
from pydantic_core import to_jsonable_python

from stages.train.run_digest import differences, identity
from store.format.column import NOT_STORED, ArrayLayout, ColumnMeta, Commit
from store.format.layout import FORMAT_VERSION
from store.format.names import with_proposer, without_proposer
from store.format.schema import TABLES
from tests import scale_page
from tests.pages import NAMES, read_page

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = [ROOT / "docs/examples/read_shards.py", ROOT / "docs/examples/read_with_stock_zarr.py"]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
TO_BE_WRITTEN = {edit.path for name in NAMES for edit in read_page(ROOT / f"docs/{name}.md").edits if edit.how == "new"}
"""Files that a page tells the reader to make."""
INLINE = re.compile(r"`([^`\n]+)`")


def commands(start: str) -> list[tuple[str, list[str]]]:
    """(page, words) of every command in code blocks and inline code that begins so."""
    found = []
    for path in [*PAGES, *EXAMPLES]:
        text = path.read_text(encoding="utf-8")
        lines = [line for _, block in FENCE.findall(text) for line in block.replace("\\\n", "").splitlines()]
        for line in [*lines, *INLINE.findall(FENCE.sub("", text))]:
            if line.strip().startswith(start):
                found.append((path.name, before_the_shell(line)))
    assert found
    return found


def before_the_shell(line: str) -> list[str]:
    """The words of a command, without what the shell takes for itself: redirections, further commands and comments."""
    words = shlex.split(line, comments=True)
    return words[: next((number for number, word in enumerate(words) if word in (">", ">>", "|", "&&")), None)]


def command_line() -> Any:
    return typer.main.get_command(importlib.import_module("cli").app)


def test_every_cli_line_parses() -> None:
    group = command_line()
    for page, words in commands("python cli.py"):
        if "--help" in words:
            continue
        context = group.make_context("cli.py", words[2:])
        name, command, rest = group.resolve_command(context, [*context._protected_args, *context.args])
        assert command is not None, (page, words)
        command.make_context(name, rest, parent=context)


def test_every_verb_has_an_example_in_its_help_and_each_parses() -> None:
    group = command_line()
    for verb, command in group.commands.items():
        lines = re.findall(r"`(?:\w+=\S+ )?(python cli\.py [^`]+)`", command.help)
        assert lines, f"{verb} --help has no example"
        for line in lines:
            words = before_the_shell(line)
            context = group.make_context("cli.py", words[2:])
            name, found, rest = group.resolve_command(context, [*context._protected_args, *context.args])
            assert found is not None
            found.make_context(name, rest, parent=context)
            assert verb == name or "&&" in line, (verb, line)


def test_the_parser_check_can_fail() -> None:
    with pytest.raises(Exception, match="No such option"):
        command_line().commands["verify"].make_context("verify", ["--nope"])


def test_every_module_line_names_a_module_with_these_options() -> None:
    for page, words in commands("python -m stages"):
        path = ROOT / Path(*words[2].split(".")).with_suffix(".py")
        assert path.is_file(), (page, words)
        source = path.read_text(encoding="utf-8")
        for option in (word for word in words[3:] if word.startswith("--")):
            assert f'"{option}"' in source, (page, option)


def test_every_make_line_names_a_target() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page, words in commands("make "):
        assert {word for word in words[1:] if "=" not in word} <= targets, (page, words)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_link_and_path_is_there(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text) if "://" not in link]
    assert [link for link in links if not (path.parent / link).exists()] == []
    ours = {entry.name for entry in ROOT.iterdir()} - {"data", "build", "dist", ".dvc"}
    prose = INLINE.findall(FENCE.sub("", text))
    named = [word for word in prose if re.fullmatch(r"[\w.-]+(/[\w.-]+)*/?", word) and word.split("/")[0] in ours]
    assert [word for word in named if not (ROOT / word).exists() and word not in TO_BE_WRITTEN] == []


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", path.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_link_to_a_heading_finds_it(path: Path) -> None:
    links = re.findall(r"\]\(([^)#:]*)#([^)]+)\)", path.read_text("utf-8"))
    assert [link for link in links if link[1] not in anchors((path.parent / link[0]) if link[0] else path)] == []


def test_the_tables_of_the_scale_page_are_what_its_commands_say() -> None:
    text = scale_page.PAGE.read_text("utf-8")
    whole = text.replace("\\\n", " ")
    commands = re.findall(r"^python cli\.py .* extract --plan .*--gpu rtx-3090$", whole, re.MULTILINE)
    assert len(scale_page.BLOCK.findall(text)) == len([line for line in commands if "--workers" not in line]) == 5
    assert scale_page.written(text) == text, "run python -m tests.scale_page"
    assert scale_page.written(text.replace("--images 118287", "--images 118288")) != text


def test_the_tree_of_the_architecture_is_the_repository() -> None:
    block = section(ROOT / "docs/architecture.md", "Where things are").split("```")[1]
    named = [line.split()[0] for line in block.strip().splitlines()]
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_running_gives_the_shapes_and_sizes_of_the_demo() -> None:
    from pipeline.graph import all_specs
    from pipeline.params_file import load_settings

    text = section(ROOT / "docs/running.md", "What is written")
    arrays = {name: spec.layout for name, spec in all_specs(load_settings(ROOT / "params.yaml")).items() if spec.layout}
    for name, layout in arrays.items():
        kind, _, encoder = without_proposer(name).partition("/")
        if kind not in ("sam_features", "image_features", "mask_embeddings"):
            continue
        (line,) = [line for line in text.splitlines() if re.search(rf"\b{encoder}/", line) and kind in line]
        chunk = [layout.chunk_rows, *layout.row_shape[1:]]
        kilobytes = (math.prod(chunk) * 2 + 4) / 1000  # float16, and its crc32c
        size = f"{kilobytes:.{1 if kilobytes < 10 else 0}f}"
        assert f"[N, {', '.join(map(str, layout.row_shape))}]" in line, name
        assert re.search(rf"\b{re.escape(size)}\b", line), (name, size)


def test_the_readme_is_short_and_its_figures_are_those_of_the_pages() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.split()) < 900
    scale = (ROOT / "docs/scale.md").read_text()
    for title, row in (("ReasonSeg", 0), ("COCO train2017", 1)):
        _, _, hours, size = table_rows(section(ROOT / "README.md", "What it takes"))[row]
        (block,) = re.findall(rf"^### {title}: .*?(?=^###? )", scale, re.MULTILINE | re.DOTALL)
        found = {cells[0]: cells[1] for cells in table_rows(block)}
        assert found["GPU hours"] == hours
        assert f"- On disk: {size};" in block
    measured = section(ROOT / "docs/results.md", "Training from the store compared with re-running")
    times = next(cells for cells in table_rows(measured) if cells[0] == "measured")
    assert f"{min(map(float, times[4:])):.0f} to {max(map(float, times[4:])):.0f} times as fast" in text
    waits = [cells[5] for cells in table_rows(measured) if cells[0] in ("ELISA", "LLM-Seg", "LISA")]
    assert all(float(each.split()[0]) < 1 for each in waits)


def section(path: Path, title: str) -> str:
    """Text below a heading, down to the next one."""
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#+ |\Z)", path.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert found, title
    return found.group(1)


def table_rows(text: str) -> list[list[str]]:
    """Cells of the Markdown table's body."""
    lines = [line.strip().strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line] for line in lines[2:]]


def arrow_type(text: str) -> pa.DataType:
    """``list of int32[4]`` -> the pyarrow type."""
    if text.startswith("list of "):
        return pa.list_(arrow_type(text.removeprefix("list of ")))
    if text.endswith("]"):
        name, _, size = text[:-1].partition("[")
        return pa.list_(arrow_type(name), int(size))
    return {"bool": pa.bool_(), "string": pa.string()}.get(text) or pa.type_for_alias(text)


@pytest.mark.parametrize("name", TABLES)
def test_format_page_has_the_fields_and_types_of_every_table(name: str) -> None:
    rows = table_rows(section(ROOT / "docs/format.md", with_proposer(name, "<proposer>")))
    assert [(row[0].strip("`"), arrow_type(row[1])) for row in rows] == [
        (field.name, field.type) for field in TABLES[name]
    ]
    assert all(row[2] for row in rows)


@pytest.mark.parametrize(("title", "kind"), [("column.json", ColumnMeta), ("Commits", Commit)])
def test_format_page_has_every_field_of_the_json_files(title: str, kind: type) -> None:
    found = {row[0].strip("`") for row in table_rows(section(ROOT / "docs/format.md", title))}
    stored = {field.name for field in fields(kind)} - ({*NOT_STORED} if kind is Commit else set())
    assert found == stored | {"check" if kind is Commit else "checksum"}


def test_format_page_has_the_layout_fields_and_the_version() -> None:
    array = next(row for row in table_rows(section(ROOT / "docs/format.md", "column.json")) if row[0] == "`array`")
    assert all(f"`{field.name}`" in array[1] for field in fields(ArrayLayout))
    assert (ROOT / "docs/format.md").read_text().startswith(f"# The store on disk, format version {FORMAT_VERSION}\n")


def test_the_wheel_in_the_readme_has_the_version_of_pyproject() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"dist/elisa_store-{version}-py3-none-any.whl" in (ROOT / "README.md").read_text()


REAL = ("reasonseg", "elisa", "llmseg", "lisa")
"""Params files for real data."""
FOR_DVC = {"store", "shard_images", "run.train_dir", "run.report_dir"}
"""What dvc.yaml names has to stand in every params file, even where it has its default."""


@pytest.mark.parametrize("name", REAL)
def test_params_for_real_data_have_the_sections_of_the_demo(name: str) -> None:
    mine, demo = (yaml.safe_load((ROOT / path).read_text()) for path in (f"params/{name}.yaml", "params.yaml"))
    assert mine.keys() == demo.keys()


@pytest.mark.parametrize("path", ["params.yaml", "params/reasonseg.yaml"])
def test_a_params_file_says_only_what_differs_from_the_defaults(path: str) -> None:
    """The recipes also say values that are defaults, each with its source."""
    from pipeline import parameters
    from pipeline.config import Settings

    def given(name: str) -> Any:
        value = yaml.safe_load((ROOT / path).read_text())
        for key in name.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        return value

    same = {
        name
        for name, field in parameters.fields(Settings)
        if not field.is_required() and given(name) not in (None, {})
        if given(name) == to_jsonable_python(field.get_default(call_default_factory=True))
    }
    assert same <= FOR_DVC


# The papers' and the released code's values: docs/training.md has the sources.
RECIPES = {
    "elisa": {
        "lora": (16, 32, 0.0), "adam_betas": (0.9, 0.999), "weight_decay": 0.01, "clip": 0.0, "batch_size": 2, "accumulation": 1,
        "epochs": 50, "max_steps": 0, "warmup_steps": 0, "optimizer": "adamw_bnb_8bit", "seed": 42,
    },
    "llmseg": {
        "lora": (8, 16, 0.05), "adam_betas": (0.9, 0.95), "weight_decay": 0.0, "clip": 1.0, "batch_size": 1, "accumulation": 10,
        "epochs": 10, "max_steps": 5000, "warmup_steps": 100, "schedule": "linear",
    },
    "lisa": {
        "lora": (8, 16, 0.05), "adam_betas": (0.9, 0.95), "weight_decay": 0.0, "clip": 1.0, "batch_size": 2, "accumulation": 10,
        "epochs": 10, "max_steps": 5000, "warmup_steps": 100, "schedule": "linear",
    },
}  # fmt: skip


@pytest.mark.parametrize("system", RECIPES)
def test_recipes(system: str) -> None:
    from pipeline.params_file import load_settings
    from pipeline.runs import resolve

    settings = load_settings(ROOT / f"params/{system}.yaml")
    params = resolve(settings, system, None).params
    found = {**params.model_dump(), "lora": (params.lora.r, params.lora.alpha, params.lora.dropout)}
    assert {name: found[name] for name in RECIPES[system]} == RECIPES[system]
    assert params.lora.targets == ("q_proj", "v_proj")
    assert params.elisa.targets == ("ground_truth" if system == "elisa" else "proposals")
    (proposer,) = settings.proposers.values()
    assert proposer.points_per_side == (50 if system == "elisa" else 32)
    one_store = resolve(load_settings(ROOT / "params/reasonseg.yaml"), system, None).params
    told = (identity(each.model_copy(update={"proposer": None}), system, {}) for each in (params, one_store))
    assert [str(one) for one in differences(*told)] == []  # ELISA's own recipe has masks of a smaller SAM
    lines = (ROOT / f"params/{system}.yaml").read_text().partition("\ntrain:")[2].partition("\nruns:")[0].splitlines()
    bare = [line.split(":")[0].strip() for line in lines if re.match(r"\s+\w+: \S", line) and "#" not in line]
    assert {*bare} <= {"image_encoder"}, "a value without its source"


def test_params_for_real_data_lack_only_data() -> None:
    words = ["--params", "params/reasonseg.yaml", "--set", "store=data/no-such-store"]
    done = run("cli.py", *words, "extract", "--split", "val", "--dry-run", cwd=ROOT)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: split reasonseg/val is not indexed, and cannot be: no folder 'val' in ")


def test_real_data_fetches_exactly_the_weights_that_the_params_for_real_data_need() -> None:
    from pipeline.graph import all_specs
    from pipeline.params_file import load_settings

    needed = {
        name for spec in all_specs(load_settings(ROOT / "params/reasonseg.yaml")).values() for name in spec.weights
    }
    lines = (ROOT / "docs/real_data.md").read_text().splitlines()
    words = [shlex.split(line) for line in lines if line.startswith("python cli.py weights")]
    assert {name for line in words for name in line[3:] if not name.startswith("-") and "/" not in name} == needed


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photographs and a broken file, through the real command line; returns the data set's folder."""
    folder = tmp_path_factory.mktemp("docs")
    data = folder / "data" / "val"
    data.mkdir(parents=True)
    for name in ("astronaut.jpg", "astronaut.json", "coffee.jpg", "coffee.json"):
        shutil.copy(ROOT / "tests/data/photos/val" / name, data)
    (data / "broken.jpg").write_bytes(b"no picture")
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values |= {"store": str(folder / "store"), "shard_images": 2}
    values["data"] = {"demo": values["data"]["demo"] | {"root": str(folder / "data"), "splits": ["val"]}}
    masks = {"points_per_side": 3, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "box_nms_thresh": 1.0}
    values["proposers"] = {"demo_sam": {"model": "demo_sam", **masks}}
    values["embed"] |= {"mask_encoders": ["demo_alphaclip"], "image_encoders": ["demo_clip"], "max_masks": 16}
    values["means"]["demo"]["train"] = ["demo/val"]
    values["train"]["train"] = ["demo/val"]
    values["run"] |= {"device": "cpu", "threads": 1, "report_dir": str(folder / "report"), "max_failures": 9}
    values["run"] |= {"cache_dir": str(folder / "cache")}
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    for verb in ("index", "extract", "normalize"):
        command = [sys.executable, "cli.py", "--params", str(folder / "params.yaml"), verb]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


def run(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-W", "error", *words], cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("image", [0, 1, 2])
def test_both_examples_print_the_same_record(tiny: Path, tmp_path: Path, image: int) -> None:
    where = ["--store", str(tiny / "store"), "--dataset", "demo", "--split", "val", "--image", str(image)]
    where += ["--proposer", "demo_sam"]
    alone = shutil.copy(EXAMPLES[1], tmp_path)  # where nothing of ours can be imported
    ours, stock = run(str(EXAMPLES[0]), *where, cwd=ROOT), run(str(alone), *where, cwd=tmp_path)
    assert (ours.returncode, ours.stderr, stock.returncode, stock.stderr) == (0, "", 0, "")
    assert ours.stdout == stock.stdout
    if image == 1:
        assert ours.stdout.startswith("image 1, broken: val/broken.jpg, failed: no readable header")
        return
    areas = re.findall(r"area (\d+) px, decoded (\d+) px", ours.stdout)
    assert len(areas) == 3
    assert all(stated == decoded and int(stated) > 0 for stated, decoded in areas)
    assert re.search(
        r"^mask_embeddings/demo_sam/demo_alphaclip: float16 \[16, 64\], mean -?0\.\d+$", ours.stdout, re.MULTILINE
    )
    assert re.search(r"^  best mask \d+: iou [01]\.\d+, iop [01]\.\d+$", ours.stdout, re.MULTILINE)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_examples_say_what_is_missing(example: Path, tiny: Path, tmp_path: Path) -> None:
    none = run(str(example), "--store", str(tmp_path / "nothing"), cwd=ROOT)
    assert none.returncode == 2
    said = {EXAMPLES[0]: "demo/images/val holds no indexed split; ", EXAMPLES[1]: "demo holds no indexed split val; "}
    assert f"nothing/{said[example]}" in none.stderr
    beyond = run(str(example), "--store", str(tiny / "store"), "--image", "3", cwd=ROOT)
    assert beyond.returncode == 2
    assert "error: image_index 3 is outside 0..2" in beyond.stderr


def test_the_stock_example_imports_nothing_of_ours() -> None:
    nodes = list(ast.walk(ast.parse(EXAMPLES[1].read_text())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "." for node in nodes if isinstance(node, ast.ImportFrom)}
    tops = {name.split(".")[0] for name in names} - set(sys.stdlib_module_names)
    assert tops == {"numpy", "pyarrow", "zarr"}


def test_the_python_of_the_readme_runs(tiny: Path) -> None:
    blocks = [text for language, text in FENCE.findall((ROOT / "README.md").read_text()) if language == "python"]
    block = "\n".join(blocks)
    here = {
        "elisa_store": "store",
        '"data/store"': repr(str(tiny / "store")),
        '"data/demo"': repr(str(tiny / "data")),
        "split[17]": "split[0]",
        'level="target"': 'level="target", failed="skip"',
    }
    for there, value in here.items():
        assert there in block
        block = block.replace(there, value)
    names: dict[str, Any] = {}
    exec(block, names)
    assert names["vectors"].shape == (16, 64)
    assert names["mask"].shape == names["pixels"].shape[:2] == (448, 512)
    assert names["questions"] == [target["texts"] for target in names["record"].targets]
    assert names["split"][names["record"].image_id].image_index == 0
    assert 0 <= names["loss"] <= 0.25


def comparison(title: str) -> dict[str, dict[str, str]]:
    """Heading -> tools -> what is said of them, of a chapter of docs/comparison.md."""
    chapter = (ROOT / "docs/comparison.md").read_text("utf-8").split(f"\n## {title}\n")[1].split("\n## ")[0]
    points = {}
    for point in chapter.split("\n### ")[1:]:
        heading, _, text = point.partition("\n")
        items = [" ".join(item.split()) for item in text.split("\n- ")[1:]]
        points[heading] = dict(item.split(": ", 1) for item in items)
    return points


def test_the_python_of_the_format_page_reads_masks_and_their_vectors(tiny: Path) -> None:
    (block,) = [text for language, text in FENCE.findall((ROOT / "docs/format.md").read_text()) if language == "python"]
    assert block.count("data/store") == 2
    names: dict[str, Any] = {}
    exec(block.replace("data/store", str(tiny / "store")), names)
    assert names["vectors"].shape == (min(len(names["row"]["area"]), 16), 64)
    assert not math.isnan(names["vectors"].sum())


def test_every_claim_of_the_comparison_has_a_source() -> None:
    sources = set(re.findall(r"^(\d+)\. ", section(ROOT / "docs/comparison.md", "Sources"), re.MULTILINE))
    cited: set[str] = set()
    for title in ("Code that computes features and trains on them", "Stores and loaders"):
        points = comparison(title)
        assert len(points) >= 14
        for name, cells in points.items():
            assert next(iter(cells)).startswith("This project"), name
            for cell in cells.values():
                found = set(re.findall(r"\[(\d+)\]", cell))
                assert found or cell in ("no", "not measured", "not looked into"), (name, cell)
                cited |= found
    assert cited == sources


def test_the_comparison_has_the_figures_of_the_results() -> None:
    """Each measured number stands in docs/results.md, in the row of its tool."""
    measured = section(ROOT / "docs/results.md", "Reading next to other loaders")
    rows = {row[0].strip("*"): row[1:] for row in table_rows(measured) if len(row) == 7}
    tools = {"This project": "this store, always checked"} | {
        tool: tool for tool in ("LitData", "MosaicML Streaming", "Lance")
    }
    compared = comparison("Stores and loaders")
    for name, column in (("Random access", 2), ("An epoch", 0), ("Small records", 3), ("Cold", 4)):
        (cells,) = [cells for title, cells in compared.items() if title.startswith(name)]
        for tool, row in tools.items():
            assert rows[row][column] in cells[tool].replace(" ", ""), (name, tool)
