"""Tells which files of a demo data set belong to the generator: those unchanged since it wrote them. Other files are kept."""

import hashlib
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

MARKER = "demo.json"
FILES = "files"
"""Key of the marker: path -> sha256 of every file that was written."""


def digests(folder: Path) -> dict[str, str]:
    """Path below the folder -> sha256, of every file but the marker."""
    found = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MARKER)
    return {path.relative_to(folder).as_posix(): _sha256(path) for path in found}


def replace_demo(part: Path, root: Path) -> list[str]:
    """Move a finished demo data set to `root`, over an older one; return the paths of the files that belong to a person and stay.

    If it is stopped, it can be called again: each file is then the new one, the old one or a person's.
    """
    if not (root / MARKER).is_file():
        if root.exists():
            root.rmdir()  # empty
        part.rename(root)
        return []
    old, new = _written(root), _written(part)
    for path, sha256 in new.items():
        place = root / path
        if not _is_there(place) or (
            place.is_file() and not place.is_symlink() and _sha256(place) in (sha256, old.get(path))
        ):
            place.parent.mkdir(parents=True, exist_ok=True)
            (part / path).replace(place)
    _remove(root, {path: sha256 for path, sha256 in old.items() if path not in new})
    (part / MARKER).replace(root / MARKER)
    shutil.rmtree(part)
    return _of_a_person(root, new)


def remove_demo(root: Path) -> list[str]:
    """Remove the files that are unchanged since the generator wrote them; return the paths of those that stay."""
    if not (root / MARKER).is_file():
        return [str(root)] if root.exists() else []
    _remove(root, _written(root))
    kept = _of_a_person(root, {})
    if not kept:
        (root / MARKER).unlink()
        _remove_empty(root)
    return kept


def _written(folder: Path) -> Mapping[str, str]:
    found = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    return found.get(FILES, {})  # type: ignore[no-any-return]


def _of_a_person(root: Path, written: Mapping[str, str]) -> list[str]:
    return [
        path.relative_to(root).as_posix()
        for path in sorted(root.rglob("*"))
        if (path.is_file() or path.is_symlink())
        and path != root / MARKER
        and (path.is_symlink() or _sha256(path) != written.get(path.relative_to(root).as_posix()))
    ]


def _remove(root: Path, files: Mapping[str, str]) -> None:
    for path, sha256 in files.items():
        place = root / path
        if place.is_file() and not place.is_symlink() and _sha256(place) == sha256:
            place.unlink()
            for folder in list(Path(path).parents)[:-1]:  # the last is `root` itself
                _remove_empty(root / folder)


def _remove_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _is_there(path: Path) -> bool:
    return path.exists() or path.is_symlink()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    if kept_files := remove_demo(Path(sys.argv[1])):
        more = f" and {len(kept_files) - 5} more" if len(kept_files) > 5 else ""
        print(
            f"kept in {sys.argv[1]}, as the demo did not write it or it has changed since: {', '.join(kept_files[:5])}{more}"
        )
