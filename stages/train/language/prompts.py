"""The texts around questions and answers, as data: the released ones of prompts.yaml, or those of one's own. No torch here.

A file of one's own has the form of prompts.yaml. What it leaves out is as released.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, Field, ValidationError

from stages.fields import Params
from stages.train.language.base_model import ROOT
from store.storage.files import digest

SEG = "[SEG]"
"""The word for a mask."""
RELEASED_FILE = Path(__file__).with_suffix(".yaml")
MAX_BYTES = 1 << 20
_STEERING = (
    "<image>",
    "<im_start>",
    "<im_end>",
    "</s>",
    "<s>",
    "USER:",
    "ASSISTANT:",
    "[INST]",
    "[/INST]",
    "[REJ]",
    "<SEG_MASK_",
)


def _form(wanted: tuple[str, ...], maybe: tuple[str, ...] = (), masks: int = 0) -> Callable[[str], str]:
    """Checks a text: each of ``wanted`` once in braces, of ``maybe`` at most once, no other braces, and [SEG] ``masks`` times."""

    def check(text: str) -> str:
        if not (wanted or maybe) and set("{}") & set(text):
            raise ValueError("expected no braces, as nothing is put in here")
        try:
            parts = list(Formatter().parse(text))
        except ValueError as error:
            raise ValueError(f"expected braces in pairs, and doubled where they are text ({error})") from error
        names = [name for _, name, _, _ in parts if name is not None]
        plain = all(not spec and not conversion for _, _, spec, conversion in parts)
        fits = plain and all(names.count(name) == 1 for name in wanted) and all(names.count(name) < 2 for name in maybe)
        if not fits or not set(names) <= {*wanted, *maybe}:
            said = [f"{{{name}}} once" for name in wanted] + [f"{{{name}}} at most once" for name in maybe]
            raise ValueError(f"expected {' and '.join(said)}, and nothing else in braces")
        if text.count(SEG) != masks:
            raise ValueError(f"expected {f'one {SEG}' if masks else f'no {SEG}'}")
        if steering := [word for word in _STEERING if word in text]:
            raise ValueError(f"expected none of the words that steer the model, which has {steering[0]}")
        return text

    return check


Asked = Annotated[str, AfterValidator(_form(("text",)))]
Answered = Annotated[str, AfterValidator(_form((), ("text",), masks=1))]
Plain = Annotated[str, AfterValidator(_form((), masks=1))]
Words = Annotated[str, AfterValidator(_form(()))]
Each = Annotated[str, AfterValidator(_form(("text",), masks=1))]
Denied = Annotated[str, AfterValidator(_form((), ("text",)))]
Corrected = Annotated[str, AfterValidator(_form(("correction",), ("text",)))]
Some = Field(min_length=1)


class Evaluation(Params):
    """What is asked in evaluation."""

    short: Asked
    """For a phrase, whose case is left as it is."""
    long: Asked
    """For a sentence."""
    answer: Answered
    """What stands in the input where the answer is given (teacher forcing)."""


class LisaPrompts(Params):
    """A question and an answer for each text, as LISA and LLM-Seg have it."""

    short: Annotated[tuple[Asked, ...], Some]
    """Questions for a phrase."""
    long: Annotated[tuple[Asked, ...], Some]
    """Questions for a sentence."""
    explain: Annotated[tuple[Words, ...], Some]
    """What is said after a text that is to be explained."""
    answers: Annotated[tuple[Plain, ...], Some]
    """Answers with masks."""
    evaluation: Evaluation
    """What is asked in evaluation."""


class GsvaAnswer(Params):
    """An answer about several names."""

    start: Words
    """Before a space and the first name."""
    each: Each
    """For every name."""
    end: Words
    """After the last name."""


class Between(Params):
    """What stands between the names of an answer."""

    referring: Words
    """Where names are texts that refer to something."""
    labels: Words
    """Where they are labels."""


class GsvaPrompts(Params):
    """One question for all names of a picture, as GSVA has it."""

    questions: Annotated[tuple[Asked, ...], Some]
    """With all names in it."""
    answers: Annotated[tuple[GsvaAnswer, ...], Some]
    """One of them is drawn for all names."""
    between: Between
    """Between the names of an answer."""
    evaluation: Evaluation
    """What is asked in evaluation."""


class SesamePrompts(Params):
    """Questions whose premise may be false, as SESAME has them."""

    short: Annotated[tuple[Asked, ...], Some]
    """Questions for a phrase."""
    long: Annotated[tuple[Asked, ...], Some]
    """Questions for a sentence."""
    answers_short: Annotated[tuple[Answered, ...], Some]
    """Answers with a mask to a phrase."""
    answers_long: Annotated[tuple[Plain, ...], Some]
    """Answers with a mask to a sentence."""
    denials: Annotated[tuple[Denied, ...], Some]
    """Answers to a false premise when nothing more is known."""
    corrections: Annotated[tuple[Corrected, ...], Some]
    """Answers to a false premise where the data set has what could be asked instead."""
    evaluation: Evaluation
    """What is asked in evaluation."""


class Prompts(Params):
    """All of them."""

    version: Literal[1]
    """Version of the form of the file."""
    lisa: LisaPrompts
    """Form ``lisa``."""
    gsva: GsvaPrompts
    """Form ``gsva``."""
    sesame: SesamePrompts
    """Form ``sesame``."""


def load_prompts(name: str | None = None) -> Prompts:
    """The released prompts, or those of a file; a relative path begins at the repository.

    Raises:
        ValueError: there is no such file, or it is not of the form; says which key, what was found and what is expected.
    """
    released = _read(RELEASED_FILE)
    if name is None:
        return Prompts.model_validate(released)
    path = ROOT / Path(name).expanduser()
    try:
        return Prompts.model_validate(_over(released, _read(path)))
    except ValidationError as error:
        raise ValueError("\n".join(f"train.prompts: {path}: {_told(item)}" for item in error.errors())) from error


def prompts_digest(name: str) -> str | None:
    """sha256 (hex) of the prompts of a file, however they are written; None where they are the released ones."""
    own, released = (digest(load_prompts(each).model_dump(mode="json")) for each in (name, None))
    return None if own == released else own


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"train.prompts: {path}: found more than {MAX_BYTES} bytes, expected a YAML file of texts")
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(
            f"train.prompts: {path}: found no file that can be read ({error.strerror}), expected one of the form of {RELEASED_FILE}"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        said = " ".join(str(error).split())
        raise ValueError(
            f"train.prompts: {path}: found no YAML ({said}), expected the form of {RELEASED_FILE}"
        ) from error
    if not isinstance(found, dict) or "version" not in found:
        raise ValueError(
            f"train.prompts: {path}: found {reprlib.repr(found)}, expected keys version, {', '.join(('lisa', 'gsva', 'sesame'))}"
        )
    return found


def _over(released: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The released values with one's own in their place, section by section."""
    merged = dict(released)
    for key, value in own.items():
        old = merged.get(key)
        merged[key] = _over(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _told(item: Mapping[str, Any]) -> str:
    """Key, what was found and what is expected, of an error of pydantic."""
    key = ".".join(map(str, item["loc"])) or "the file"
    if item["type"] == "extra_forbidden":
        known: Any = _read(RELEASED_FILE)
        for part in item["loc"][:-1]:
            known = known[0 if isinstance(part, int) else part]
        return f"{key}: found a key that is not known, expected one of {', '.join(known)}"
    words = str(item["msg"]).removeprefix("Value error, ")
    words = words.replace("Input should be", "expected").replace("Field required", "expected a value")
    return f"{key}: found {reprlib.repr(item['input'])}, {words}"
