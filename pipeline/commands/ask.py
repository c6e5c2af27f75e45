"""Asks a trained system about one image: what it answered in words and masks, and a PNG of each answer."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.asked import require_image
from pipeline.asking import Answer, TrainedSystem, checked
from pipeline.config import ROOT, InputError, Settings
from pipeline.preflight import require_writable
from stages.progress import tracked
from store.storage.files import make_folder
from store.storage.leftovers import replace_file

PNG = ".png"
_MOST_BYTES = 2**24
"""Size of the largest file of questions."""
_MOST_LETTERS = 48
"""How many letters of a question are in the name of a picture."""


def ask_command(
    settings: Settings,
    system: str | None,
    name: str | None,
    image: str,
    questions: Sequence[str],
    file: Path | None = None,
    phrase: bool = False,
    out: Path | None = None,
    replace: bool = False,
) -> tuple[str, dict[str, Any]]:
    """Ask, and write a PNG of each answer.

    Args:
        system, name: of the run; neither: the only one that is trained.
        image: a stored one as ``DATASET/SPLIT/IMAGE_ID``, or the path of a picture.
        questions, file: what is asked: these, then the lines of the file.
        phrase: the questions are noun phrases.
        out: for one question the PNG file, or a folder; None: the folder ``ask`` in ``run.report_dir``.
        replace: ``out`` may be there already.

    Returns:
        The answers for a person, and as a JSON value.

    Raises:
        InputError: a question, the image, the run or ``out`` cannot be used. Nothing is computed then.
    """
    asked = [checked(each) for each in [*questions, *([] if file is None else lines_of(file))]]
    if not asked:
        raise InputError("ask: expected --question TEXT or --questions FILE, such as --question 'What is this?'")
    trained = TrainedSystem(settings, system, name)
    require_image(settings, image)
    names = [picture_name(image, trained.run.name, each, phrase) for each in asked]
    paths = places(settings, names, out, replace)
    found = trained.answers(image, asked, phrase)
    answers = list(found if len(asked) == 1 else tracked(found, "answers", len(asked), "question"))
    for answer, path in zip(answers, paths, strict=True):
        make_folder(path.parent)
        replace_file(path, answer.png())
    if answers[0].pixels is None:
        print(
            f"ask: the file of {image} is missing or has changed since it was indexed; masks are drawn on gray",
            file=sys.stderr,
        )
    value = {
        "system": trained.run.name,
        "run": trained.digest,
        "image": image,
        "height_px": answers[0].height_px,
        "width_px": answers[0].width_px,
        "proposer": trained.proposer,
        "answers": [_as_json(answer, path) for answer, path in zip(answers, paths, strict=True)],
    }
    return as_text(trained.run.name, answers, paths), value


def lines_of(file: Path) -> list[str]:
    """The questions of a file: its lines, without empty ones. InputError where it has no question, or is not text."""
    if not file.is_file():
        raise InputError(f"--questions: found no file {str(file)!r}, expected one with a question in each line")
    with file.open("rb") as opened:
        data = opened.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise InputError(f"--questions: {file} has more than {_MOST_BYTES} bytes, expected a question in each line")
    try:
        found = [line for line in data.decode("utf-8-sig").split("\n") if line.strip()]
    except UnicodeDecodeError as error:
        raise InputError(f"--questions: {file} is not UTF-8: {error}") from error
    if not found:
        raise InputError(f"--questions: {file} is empty, expected a question in each line")
    return found


def picture_name(image: str, run: str, question: str, phrase: bool) -> str:
    """Name of the PNG file of an answer: the same for the same question, another one for any other."""
    letters = re.sub(r"[^a-z0-9]+", "-", question.lower()).strip("-")[:_MOST_LETTERS].strip("-")
    stem = re.sub(r"[^A-Za-z0-9_.-]+", "-", Path(image).stem).strip("-.")[:_MOST_LETTERS]
    key = hashlib.sha256(json.dumps([image, run, question, phrase]).encode()).hexdigest()[:8]
    return "-".join([*filter(None, [stem, run, letters]), key]) + PNG


def places(settings: Settings, names: Sequence[str], out: Path | None, replace: bool) -> list[Path]:
    """Where the PNG of each answer is written; they are looked at before anything is asked.

    Raises:
        InputError: a file that is there would be replaced, or one file is named for several answers.
    """
    if out is None:
        folder = ROOT / settings.run.report_dir / "ask"
        found = [folder / name for name in names]
    elif out.suffix.lower() == PNG and not out.is_dir():
        if len(names) > 1:
            raise InputError(f"--out: found the file {out}, expected a folder, as there are {len(names)} questions")
        found = [out]
    elif out.exists() and not out.is_dir():
        raise InputError(f"--out: found the file {out}, expected a folder, or the name of a file that ends in {PNG}")
    else:
        found = [out / name for name in names]
    if out is not None and not replace and (there := [path for path in found if path.exists()]):
        raise InputError(f"--out: {there[0]} exists; --replace writes it again, or give another name")
    require_writable(*dict.fromkeys(path.parent for path in found))
    return found


def as_text(run: str, answers: Sequence[Answer], paths: Sequence[Path]) -> str:
    """The answers as text for a person."""
    lines = [f"{_plain(answers[0].image)}, asked {run}:"]
    for answer, path in zip(answers, paths, strict=True):
        lines += [f"  {answer.question}", f"    answer   {_plain(answer.text) or '(no words)'}"]
        lines += [f"    mask     {_about_mask(answer)}", f"    picture  {path}"]
    return "\n".join(lines)


def _about_mask(answer: Answer) -> str:
    if not answer.area_px:
        said = ": it says that nothing of the kind is there" if answer.rejected else ""
        return f"no mask answers this{said}"
    share = 100 * answer.area_px / (answer.height_px * answer.width_px)
    numbers = sorted(answer.chosen or ())
    of = f", chosen: {', '.join(map(str, numbers))}" if numbers else ""
    return f"{answer.area_px} px, {share:.1f} % of the picture{of}"


def _as_json(answer: Answer, path: Path) -> dict[str, Any]:
    size = [answer.height_px, answer.width_px]
    mask = None if answer.segmentation is None else {"size": size, "counts": answer.segmentation}
    return {
        "question": answer.question,
        "answer": answer.text,
        "segmentation": mask,
        "area_px": answer.area_px,
        "rejected": answer.rejected,
        "chosen": None if answer.chosen is None else list(answer.chosen),
        "png": str(path),
    }


def _plain(text: str) -> str:
    """The text, with characters that a terminal would obey escaped."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text.strip())
