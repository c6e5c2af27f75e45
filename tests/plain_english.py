"""``python -m tests.plain_english`` finds wording that readers stumble over, and long lines of docs. Part of ``make check``.

It knows only a few phrases, those that crept in most often; CONTRIBUTING.md asks for plain English everywhere.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
WIDTH = 120
"""Lines of docs/*.md are shorter, in characters."""
TEXT = {".py", ".md", ".yaml", ".yml", ".toml", ".sh", ".js", ".html", ".ipynb", ""}
LEFT_OUT = re.compile(r"^tests/(data/|(test_)?plain_english\.py)|^CHANGELOG\.md$|^LICENSE$")
"""Data, this check, and what was written about earlier versions."""


class Phrase(NamedTuple):
    """A pattern to find, where a space stands for :data:`GAP`; what to write instead, and why."""

    pattern: str
    better: str
    why: str


THINGS = (
    "answer annotation batch card case chunk class column core image instance job line machine mask minute object page part patch "
    "picture pixel point process prompt query question rank record request row run sample scene second shard side split "
    "stage step system target text token update vector word worker year"
).replace(" ", "|")
COUNTED = (
    "FLOPs GFLOPs bytes entries images kB lines MB masks ms points questions records refs requests rows samples seconds shards "
    "targets tokens vectors"
).replace(" ", "|")
NOT_COUNTED = "at as by commits for from has in is of on that to wins with without".replace(" ", "|")
"""What stands between "one" and "a" where nothing is counted per thing."""
PER = "without per it is read twice, or taken for a slip"
PHRASES = (
    Phrase(r"\banew\b", '"again" or "from scratch"', "old-fashioned"),
    Phrase(r"\bwhence\b", '"from where" or "so"', "old-fashioned"),
    Phrase(r"\bfor (good|life)\b(?!,? \w+ in\b)", '"permanently"', "an idiom"),
    Phrase(r"\bso many\b(?! \w+ that\b)", '"this many" or "that many"', "it makes one wait for a that"),
    Phrase(r"\b(where|when|if|why) there (is|are) (?-i:none)\b", '"without ...", or what is missing', "none of what?"),
    Phrase(r"\b(it|that|this|which|some) (is|are) (?-i:none)\b(?! of\b)", '"it is not a ..."', "none of what?"),
    Phrase(r"\bbeside (?=[a-z])", '"next to" or "compared with"', "taken for besides, or for a place"),
    Phrase(rf"\b(an?|one|once) (?!({NOT_COUNTED})\b)(\w+ )?an? ({THINGS})\b", '"one ... per ..."', PER),
    Phrase(rf"\b(?<!which\s)(?<!many\s)(?<!whose\s)({COUNTED}) an? ({THINGS})\b", '"... per ..."', PER),
    Phrase(rf"(?<=[\d}}]\s)s an? ({THINGS})\b", '"s per ..."', PER),
)


GAP = r"(?: +|\n[ #/]*)"
"""White space between two words, also where a line ends between them in prose or a comment."""


def found(text: str) -> Iterator[tuple[int, str, Phrase]]:
    """Line, wording and phrase of each place in a text."""
    for phrase in PHRASES:
        for match in re.finditer(phrase.pattern.replace(" ", GAP), text, re.IGNORECASE):
            yield text.count("\n", 0, match.start()) + 1, " ".join(match.group().split()), phrase


PRINTED = re.compile(r"^<!-- printed by .*? -->\n.*?^<!-- end -->\n", re.MULTILINE | re.DOTALL)
"""A table that stands in a page exactly as a command printed it."""


def long_lines(text: str) -> Iterator[int]:
    """Numbers of the lines that are too long, without :data:`PRINTED`."""
    written = PRINTED.sub(lambda printed: "\n" * printed.group().count("\n"), text)
    return (number for number, line in enumerate(written.splitlines(), 1) if len(line) >= WIDTH)


def main() -> int:
    """Print each place and return 1 where there is one, else 0."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    said = []
    for name in sorted({*listed.stdout.splitlines()}):
        path = ROOT / name
        if path.suffix not in TEXT or LEFT_OUT.search(name) or not path.is_file() or path.is_symlink():
            continue
        text = path.read_text("utf-8", errors="replace")
        said += [
            f'{name}:{line}: found "{words}", expected {phrase.better} ({phrase.why})'
            for line, words, phrase in found(text)
        ]
        if path.match("docs/*.md"):
            said += [f"{name}:{line}: expected fewer than {WIDTH} characters in a line" for line in long_lines(text)]
    print(*said, sep="\n", end="\n" if said else "")
    return int(bool(said))


if __name__ == "__main__":
    sys.exit(main())
