"""Templates of conversations with models: files with a name and a version, and values that are escaped before they are filled in.

A template is a text file, ``prompts/ask-1.txt``. Lines that begin with ``#`` before the first turn are for people. A line
``--- system``, ``--- user`` or ``--- assistant`` begins a turn; the last turn is the user's, and a system turn comes first.
``{summary}`` is replaced by the value of that name. A shipped template that is changed gets another number.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import cast

from stages.images import ImageFailure, read_file
from stages.names import did_you_mean
from stages.questions.requests import Message, Picture, Role

FOLDER = Path(__file__).with_suffix("")
MAX_TEMPLATE_BYTES = 2**16
MAX_TEXT = 4000
"""Largest number of characters of a filled-in text, about twice that of ten long sentences. Longer texts are cut."""
MAX_ITEM = 80
"""Largest number of characters of an item of a filled-in list."""
MAX_ITEMS = 500
BETWEEN = " | "
"""Between the items of a list, as in LLM-Seg's paper and in RAM's output."""
_TURN = re.compile(r"^---(.*)$", re.MULTILINE)
_PLACE = re.compile(r"\{([a-z_]+)\}")
WIDE = {0xFF01 + number: chr(0x21 + number) for number in range(94)}
"""Full-width forms of ASCII, which a model reads as ASCII."""
_BROKEN = {**dict.fromkeys('"“”„«»`´', "'"), **dict.fromkeys("[{<【〔《〈", "("), **dict.fromkeys("]}>】〕》〉", ")")}
_BROKEN |= {**dict.fromkeys("|¦│\\", "/"), **dict.fromkeys("*#~", " "), **dict.fromkeys(":：", " -")}
_HARMLESS = str.maketrans({chr(code): _BROKEN.get(plain, plain) for code, plain in WIDE.items()} | _BROKEN)


class PromptError(ValueError):
    """A template is missing or malformed, or values do not fit it."""


@dataclass(frozen=True)
class Prompt:
    """A template.

    Args:
        name: of its file, without suffix. digest: sha256, in hex, of its text.
        turns: role and text with placeholders.
    """

    name: str
    digest: str
    turns: tuple[tuple[Role, str], ...]

    @property
    def record(self) -> str:
        """Name and digest, in the form of ``Request.prompt``."""
        return f"{self.name} {self.digest}"

    @property
    def places(self) -> frozenset[str]:
        """Names of the placeholders."""
        return frozenset(name for _, text in self.turns for name in _PLACE.findall(text))

    def messages(self, pictures: Sequence[Picture] = (), **values: str | Sequence[str]) -> tuple[Message, ...]:
        """The conversation with values filled in, each of them :func:`escaped`; pictures go into the last turn.

        Args:
            values: by placeholder. A list is joined by `` | ``, which no item can contain.

        Raises:
            PromptError: the template has a placeholder without a value, or lacks one of them; or a list is too long.
        """
        self.check(values)
        ready = {name: _filled(name, value) for name, value in values.items()}
        texts = [
            _PLACE.sub(lambda found: ready[found[1]], text) for _, text in self.turns
        ]  # a single pass, so that placeholders in values are not replaced
        last = len(texts) - 1
        return tuple(
            Message(role, text, tuple(pictures) if number == last else ())
            for number, ((role, _), text) in enumerate(zip(self.turns, texts, strict=True))
        )

    def check(self, names: Iterable[str]) -> None:
        """Raise PromptError unless the template has exactly these placeholders, as the value of a missing one would not be sent."""
        known = set(names)
        for name in sorted(self.places - known):
            choices = ", ".join(f"{{{each}}}" for each in sorted(known)) or "no placeholder"
            raise PromptError(f"{self.name}: found {{{name}}}, expected {choices}{did_you_mean(name, known)}")
        for name in sorted(known - self.places):
            raise PromptError(f"{self.name}: {{{name}}} is missing, expected it somewhere in the template")


@lru_cache(maxsize=64)
def load_prompt(name: str) -> Prompt:
    """The template of this name in stages/questions/prompts. A name that ends in ``.txt`` is a path, relative to the project.

    It is read once per process, so all requests of a run are made from the same template.

    Raises:
        PromptError: it is missing or malformed.
    """
    path = FOLDER.parents[2] / name if name.endswith(".txt") else FOLDER / f"{name}.txt"
    try:
        text = read_file(path, MAX_TEMPLATE_BYTES).decode("utf-8-sig").replace("\r\n", "\n")
    except (ImageFailure, OSError, UnicodeDecodeError) as error:
        there = sorted(each.stem for each in FOLDER.glob("*.txt"))
        raise PromptError(
            f"found the template {name!r:.100}, which cannot be read ({error}); expected one of {', '.join(there)}"
            f"{did_you_mean(name, there)}, or the path of a text file of your own that ends in .txt"
        ) from error
    return Prompt(path.stem, hashlib.sha256(text.encode()).hexdigest(), _turns(text, path.name))


def escaped(text: str, most: int = MAX_TEXT) -> str:
    """The text in one line of at most ``most`` characters that can neither begin a section or a question nor end a quotation.

    Line breaks become spaces, ``|`` and backslashes ``/``, brackets of all kinds round, quotation marks single, and colons dashes:
    ``[Q]:`` and ``<image>`` are ``(Q) -`` and ``(image)``. Markup and invisible characters are removed. An escaped text is
    unchanged by another pass.
    """
    plain = text[: 4 * most].translate(_HARMLESS)  # escaping a whole megabyte would be wasted work
    seen = "".join(character if character.isprintable() else " " * character.isspace() for character in plain)
    return " ".join(seen.split())[:most].rstrip()


def _filled(name: str, value: str | Sequence[str]) -> str:
    if isinstance(value, str):
        return escaped(value)
    if len(value) > MAX_ITEMS:
        raise PromptError(f"{{{name}}}: found a list of {len(value)} items, expected at most {MAX_ITEMS}")
    return BETWEEN.join(filter(None, (escaped(item, MAX_ITEM) for item in value)))


def _turns(text: str, name: str) -> tuple[tuple[Role, str], ...]:
    preface, *rest = _TURN.split(text)
    spoken = [line for line in preface.split("\n") if line.strip() and not line.startswith("#")]
    if spoken:
        raise PromptError(
            f"{name}: found {spoken[0]!r:.60} before the first turn, expected '--- user' or a comment (#)"
        )
    roles, texts = [role.strip() for role in rest[::2]], [each.strip() for each in rest[1::2]]
    for number, (role, said) in enumerate(zip(roles, texts, strict=True)):
        if role not in ("system", "user", "assistant"):
            raise PromptError(
                f"{name}: found '---{rest[2 * number]:.40}', expected --- system, --- user or --- assistant"
            )
        if role == "system" and number:
            raise PromptError(f"{name}: found '--- system' as turn {number + 1}, expected it as the first")
        if not said:
            raise PromptError(f"{name}: turn {number + 1} ({role}) is empty, expected what is said")
    if not roles or roles[-1] != "user":
        raise PromptError(
            f"{name}: found {roles[-1] if roles else 'no turn'} at the end, expected '--- user' and its text"
        )
    return tuple(zip(cast("list[Role]", roles), texts, strict=True))
