"""One look at the store and at the data set, for all that a command does before it changes anything."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from pipeline.config import ROOT, Settings
from pipeline.upstream import Upstream, known_sources
from stages.base import Entry
from stages.datasets.base import Source
from stages.digests import digests_in
from stages.names import SplitRef
from stages.source_files import source_digests
from store.format.column import ColumnMeta, Commit
from store.format.layout import column_dir
from store.format.lineage import Lineage
from store.format.tables import read_table
from store.write.writer import is_begun


class Look:
    """What a command has seen: each record is read, and each source file looked at, at most once.

    What changes later is not seen until :meth:`renew`.

    entries: split -> its images in their order (:func:`pipeline.entries.seen_entries`). sources: split -> what its
        data set lists (:func:`pipeline.entries.list_sources`). listed: the same with what ``only`` leaves out.
        drawn: run -> what it draws (:func:`pipeline.draws.drawn_pictures`), which the command itself does not change.
        todo: split -> its shards that are not done, as a plan of the whole
        split found.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.drawn: dict[str, Mapping[SplitRef, frozenset[str]]] = {}
        self.renew()

    def renew(self) -> None:
        """Forget what was seen, because the command has changed the store since."""
        self.records = Lineage(self.settings.store_path)
        self.entries: dict[SplitRef, tuple[Entry, ...]] = {}
        self.sources: dict[SplitRef, list[Source]] = {}
        self.listed: dict[SplitRef, list[Source]] = {}
        self.todo: dict[SplitRef, set[Upstream]] = {}
        self._held: dict[SplitRef, tuple[tuple[str, str], ...]] = {}
        self._files: dict[str, dict[str, str]] = {}
        self._sha256: dict[tuple[str, int], list[str]] = {}
        self._begun: dict[tuple[Path, str, int], bool] = {}

    def held_images(self, dataset: str) -> dict[str, tuple[tuple[str, str], ...]]:
        """(image_id, path) of the images that lie with a data set, or with the one that it borrows from, by split."""
        found = {}
        for split in self.settings.held(dataset):
            if split not in self._held:
                self._held[split] = known_sources(self.settings, split)
            found[split.split] = self._held[split]
        return found

    def is_begun(self, folder: Path, meta: ColumnMeta) -> bool:
        """:func:`store.write.writer.is_begun`, asked once."""
        key = (folder, meta.fingerprint, meta.images)
        if key not in self._begun:
            self._begun[key] = is_begun(folder, meta)
        return self._begun[key]

    def sha256(self, place: str, commit: Commit) -> list[str]:
        """Digests of the pictures of a shard of ``images``, read once."""
        key = (place, commit.shard)
        if key not in self._sha256:
            table = read_table(column_dir(self.settings.store_path, place), commit, ["sha256"])
            self._sha256[key] = table.column("sha256").to_pylist()
        return self._sha256[key]

    def file_digests(self, dataset: str, paths: Iterable[str]) -> dict[str, str]:
        """sha256 of source files as they were when first asked for; see :func:`stages.source_files.source_digests`."""
        paths, known = dict.fromkeys(paths), self._files.setdefault(dataset, {})
        known |= digest_files(self.settings, dataset, [path for path in paths if path not in known])
        return {path: known[path] for path in paths}


def digest_files(settings: Settings, dataset: str, paths: Iterable[str]) -> dict[str, str]:
    """sha256 of source files of a data set as they are now; see :func:`stages.source_files.source_digests`."""
    return source_digests(settings.folders(dataset), paths, digests_in(ROOT / settings.run.cache_dir))
