"""``stages.weights``: the registry's facts, and fetching from a real HTTP server on this machine."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from stages import download, weights
from stages.adopt import adopt
from stages.checkpoints import WeightsError
from stages.weights import WEIGHTS, Weights, expected_sha256, fetch, locate, record

CONTENT = bytes(range(256)) * 20_000  # 5 MB, a few blocks
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Site:
    """What the server sends, and what it was asked."""

    content: bytes = CONTENT
    ranges: bool = True
    stop_after: int | None = None
    silent: bool = False
    asked: list[str | None] = field(default_factory=list)
    url: str = ""


def handler_of(site: Site) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers["Range"]
            site.asked.append(asked)
            if self.path != "/model.pth":
                self.send_error(404)
                return
            start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and site.ranges else 0
            if start >= len(site.content):
                self.send_error(416)
                return
            body = site.content[start:]
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(site.content) - 1}/{len(site.content)}")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: site.stop_after])  # then the connection is closed
            if site.silent:
                self.rfile.read(1)  # returns when the other side has closed it

        def log_message(self, *_: object) -> None:
            """Be quiet."""

    return Handler


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A server on this machine, and checkpoints in the registry that are to be fetched from it."""
    site = Site()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(site))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    site.url = f"http://127.0.0.1:{server.server_port}/model.pth"
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    entry = Weights("tiny", site.url, SHA256, len(CONTENT), "MIT", "a test", "tiny.pth")
    monkeypatch.setitem(WEIGHTS, "tiny", entry)
    monkeypatch.setitem(WEIGHTS, "by_hand", replace(entry, name="by_hand", url=None, sha256=None, path="hand.pth"))
    yield site
    server.shutdown()
    server.server_close()


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "weights.lock"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data" / "weights"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_fetched_file_is_located(site: Site, folder: Path, lock: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = fetch("tiny", folder, lock, progress=True)
    assert capfd.readouterr().err == ""  # no bar: stderr is no terminal
    assert path == folder / "tiny.pth" == locate("tiny", folder, lock)
    assert path.read_bytes() == CONTENT
    assert names(folder) == ["tiny.pth"]
    assert not lock.exists()
    fetch("tiny", folder, lock, progress=False)
    assert site.asked == [None]  # the second call found the file


def test_interrupted_fetch_is_resumed(site: Site, folder: Path, lock: Path) -> None:
    site.stop_after = 3_000_000
    with pytest.raises(WeightsError, match=r"try again: python cli.py weights tiny"):
        fetch("tiny", folder, lock, progress=False)
    assert names(folder) == ["tiny.pth.part"]
    kept = (folder / "tiny.pth.part").stat().st_size
    assert 0 < kept <= site.stop_after
    site.stop_after = None
    assert fetch("tiny", folder, lock, progress=False).read_bytes() == CONTENT
    assert site.asked == [None, f"bytes={kept}-"]
    assert names(folder) == ["tiny.pth"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (("http:", "https:"), "no secure connection to the server: .*SSL"),
        (("127.0.0.1", "127.0.0.1:1/"), "cannot be reached from this machine"),
        (("model.pth", "other.pth"), "404"),
    ],
)
def test_why_nothing_could_be_fetched(
    site: Site, folder: Path, lock: Path, monkeypatch: pytest.MonkeyPatch, change: tuple[str, str], why: str
) -> None:
    url = site.url.replace(*change)
    monkeypatch.setitem(WEIGHTS, "tiny", replace(WEIGHTS["tiny"], url=url))
    with pytest.raises(WeightsError, match=why):
        fetch("tiny", folder, lock, progress=False)


def test_a_server_that_falls_silent(site: Site, folder: Path, lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_TIMEOUT_S", (5, 0.2))
    site.stop_after, site.silent = 3_000_000, True
    with pytest.raises(WeightsError, match="did not answer in time"):
        fetch("tiny", folder, lock, progress=False)


def test_server_without_ranges_sends_all_again(site: Site, folder: Path, lock: Path) -> None:
    site.ranges = False
    folder.mkdir(parents=True)
    (folder / "tiny.pth.part").write_bytes(CONTENT[:1000])
    assert fetch("tiny", folder, lock, progress=False).read_bytes() == CONTENT
    assert site.asked == ["bytes=1000-"]


@pytest.mark.parametrize("extra", [b"", b"more"])
def test_part_with_nothing_left_to_fetch(site: Site, folder: Path, lock: Path, extra: bytes) -> None:
    folder.mkdir(parents=True)
    (folder / "tiny.pth.part").write_bytes(CONTENT + extra)
    if extra:
        with pytest.raises(WeightsError, match="nothing was kept"):
            fetch("tiny", folder, lock, progress=False)
        assert names(folder) == []
    assert fetch("tiny", folder, lock, progress=False).read_bytes() == CONTENT


def test_another_digest_is_refused_and_nothing_kept(site: Site, folder: Path, lock: Path) -> None:
    site.content = CONTENT[:-1] + b"x"
    with pytest.raises(WeightsError, match=rf"found sha256 [0-9a-f]{{64}} \(a file of .*\), expected {SHA256}"):
        fetch("tiny", folder, lock, progress=False)
    assert names(folder) == []


def test_damaged_file_is_replaced_only_by_the_right_one(site: Site, folder: Path, lock: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "tiny.pth").write_bytes(b"damaged")
    with pytest.raises(WeightsError, match=rf"expected {SHA256}; type: python cli.py weights tiny"):
        locate("tiny", folder, lock)
    site.content = b"wrong too"
    with pytest.raises(WeightsError, match="nothing was kept"):
        fetch("tiny", folder, lock, progress=False)
    assert (folder / "tiny.pth").read_bytes() == b"damaged"
    site.content = CONTENT
    fetch("tiny", folder, lock, progress=False)
    assert locate("tiny", folder, lock).read_bytes() == CONTENT


def test_missing_page_and_dead_server_name_the_way_out(
    site: Site, folder: Path, lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for url, reason in ((site.url + "x", "404"), ("http://127.0.0.1:9/model.pth", "127.0.0.1")):
        monkeypatch.setitem(WEIGHTS, "tiny", replace(WEIGHTS["tiny"], url=url))
        with pytest.raises(WeightsError, match=rf"{reason}.*python cli.py weights tiny --from FILE"):
            fetch("tiny", folder, lock, progress=False)
        assert names(folder) == []


def test_adopted_file_is_recorded_and_checked(site: Site, folder: Path, lock: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no digest in .*type: python cli.py weights by_hand --from FILE"):
        fetch("by_hand", folder, lock, progress=False)
    mine = tmp_path / "downloaded"
    mine.write_bytes(CONTENT)
    path = adopt("by_hand", mine, folder, lock)
    assert path == locate("by_hand", folder, lock)
    assert path.read_bytes() == CONTENT
    assert mine.exists()
    assert json.loads(lock.read_text()) == {"by_hand": SHA256}
    assert expected_sha256("by_hand", lock) == SHA256
    assert adopt("by_hand", path, folder, lock) == path  # in place

    mine.write_bytes(b"another \xff")
    with pytest.raises(
        WeightsError, match=rf"expected {SHA256} of .*weights.lock; .* weights by_hand --from {mine} --replace"
    ):
        adopt("by_hand", mine, folder, lock)
    assert path.read_bytes() == CONTENT
    assert adopt("by_hand", mine, folder, lock, replace=True) == locate("by_hand", folder, lock)
    assert path.read_bytes() == mine.read_bytes()
    mine.write_bytes(CONTENT)
    assert adopt("by_hand", mine, folder, lock, replace=True) == path

    path.unlink()
    for get in (locate, partial(fetch, progress=False)):
        with pytest.raises(WeightsError, match=r"type: python cli.py weights by_hand --from FILE"):
            get("by_hand", folder, lock)
    assert names(folder) == []
    assert site.asked == []


def test_adopted_file_must_have_the_registrys_digest(site: Site, folder: Path, lock: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.pth"
    mine.write_bytes(b"another")
    with pytest.raises(WeightsError, match=rf"expected {SHA256} of the registry; nothing was kept"):
        adopt("tiny", mine, folder, lock)
    assert names(folder) == []
    mine.write_bytes(CONTENT)
    assert adopt("tiny", mine, folder, lock) == locate("tiny", folder, lock)
    assert not lock.exists()
    with pytest.raises(WeightsError, match="found no file .*none, expected a file"):
        adopt("tiny", tmp_path / "none", folder, lock)
    with pytest.raises(WeightsError, match="found a folder .*, expected a file"):
        adopt("tiny", tmp_path, folder, lock)


def test_digest_is_taken_once_and_again_after_a_change(
    site: Site, folder: Path, lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = fetch("tiny", folder, lock, progress=False)
    read: list[Path] = []

    def file_sha256(file: Path) -> str:
        read.append(file)
        return hashlib.sha256(file.read_bytes()).hexdigest()

    monkeypatch.setattr("store.storage.files.file_sha256", file_sha256)
    for _ in range(3):
        locate("tiny", folder, lock)
    assert read == [path]
    path.write_bytes(b"changed")
    with pytest.raises(WeightsError, match=f"expected {SHA256}"):
        locate("tiny", folder, lock)
    assert read == [path, path]


def test_retrained_demo_model_updates_the_lock(lock: Path, tmp_path: Path) -> None:
    model = tmp_path / "demo_sam.safetensors"
    for content in (b"first", b"second"):
        model.write_bytes(content)
        record("demo_sam", model, lock)
        record("demo_clip", model, lock)
        digest = hashlib.sha256(content).hexdigest()
        assert lock.read_text() == f'{{\n "demo_clip": "{digest}",\n "demo_sam": "{digest}"\n}}\n'
    assert sorted(tmp_path.iterdir()) == [model, lock]
    with pytest.raises(WeightsError, match="in the registry"):
        record("sam_vit_b", model, lock)


def test_demo_models_lie_in_the_repository(lock: Path, folder: Path, tmp_path: Path) -> None:
    path = Path(weights.__file__).parents[1] / "demo" / "models" / "demo_sam.safetensors"
    (tmp_path / "other").write_bytes(b"other")
    record("demo_sam", tmp_path / "other", lock)
    with pytest.raises(WeightsError, match=rf"{path}.*python cli.py demo --train-models"):
        locate("demo_sam", folder, lock)
    with pytest.raises(WeightsError, match="part of the repository"):
        adopt("demo_sam", tmp_path / "other", folder, lock)


@pytest.mark.parametrize("text", ["not JSON", "[]", '{"by_hand": 3}'])
def test_damaged_lock_is_an_error(site: Site, folder: Path, lock: Path, text: str) -> None:
    lock.write_text(text)
    with pytest.raises(WeightsError, match=r"restore it: git checkout weights.lock"):
        locate("by_hand", folder, lock)


def test_unknown_name_lists_the_known_ones(folder: Path, lock: Path) -> None:
    with pytest.raises(WeightsError, match=r"unknown weights 'sam'; choose one of: alphaclip_vit_b16"):
        locate("sam", folder, lock)


def test_registry_is_complete_and_sound() -> None:
    sam = [f"sam_vit_{size}" for size in "blh"]
    dinov2 = [f"dinov2_vit{size}14{registers}" for size in "sblg" for registers in ("", "_reg")]
    clip = [f"{family}_vit_{size}" for family in ("clip", "alphaclip") for size in ("b16", "l14", "l14_336")]
    demo = ["demo_sam", "demo_alphaclip", "demo_alphaclip_text", "demo_dinov2", "demo_clip"]
    assert sorted(WEIGHTS) == sorted([*sam, *dinov2, *clip, "openclip_convnext_l", *demo])
    assert len({entry.path for entry in WEIGHTS.values()}) == len(WEIGHTS)
    for name, entry in WEIGHTS.items():
        assert entry.name == name
        assert entry.licence
        assert entry.source
        assert entry.committed == name.startswith("demo_")
        assert (entry.url is None) == (entry.sha256 is None) == name.startswith(("demo_", "alphaclip_"))
        if entry.url is not None and entry.sha256 is not None:
            assert entry.url.startswith("https://")
            assert len(bytes.fromhex(entry.sha256)) == 32
        if name.startswith("clip_"):
            assert entry.url is not None
            assert entry.url.split("/")[-2] == entry.sha256  # as OpenAI's own loader reads it


def test_clip_addresses_are_open_clips() -> None:
    from open_clip.pretrained import get_pretrained_url

    for name, model in (("b16", "ViT-B-16"), ("l14", "ViT-L-14"), ("l14_336", "ViT-L-14-336")):
        assert WEIGHTS[f"clip_vit_{name}"].url == get_pretrained_url(model, "openai")


def test_import_needs_no_torch() -> None:
    code = "import sys, stages.weights; assert not {'torch', 'zarr', 'dask'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(weights.__file__).parents[1])
