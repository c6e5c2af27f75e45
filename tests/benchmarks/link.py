"""A bucket behind a slow link: serves ranges of a folder's files by S3's protocol, with a delay per request and a shared bandwidth.

It runs in a process of its own and lets the kernel send the files (``sendfile``), so that it takes little of the cores that are
measured. ``python -m tests.benchmarks.link FOLDER`` prints the port. It answers HEAD, GET (of a range, under If-Match) and lists of
keys. It writes nothing and checks no signatures.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

PIECE = 1 << 17
"""Bytes that pass the link at a time; requests that are answered concurrently share it in such pieces."""
BUCKET = "bench"


class Link:
    """Files below a folder, as objects of the bucket :data:`BUCKET`.

    Args:
        latency_s: of each request, before its answer begins. bytes_s: of all answers together.
    """

    def __init__(self, root: Path, latency_s: float, bytes_s: float) -> None:
        self.root, self.latency_s, self.bytes_s = root, latency_s, bytes_s
        self.requests: list[str] = []
        self.bytes = self.at_once = self.most_at_once = 0
        self._free_at = 0.0

    async def serve(self) -> None:
        """Answer until the process ends."""
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, RuntimeError):  # the client left
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                method, target, _ = head[0].split(" ")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
                if target == "/-/counts":
                    arrays = sum("/c/" in each for each in self.requests)
                    await self._text(writer, 200, f"{len(self.requests)} {arrays} {self.bytes} {self.most_at_once}")
                    self.requests, self.bytes, self.most_at_once = [], 0, 0
                    continue
                self.requests.append(f"{method} {target} {headers.get('range', '')}")
                self.at_once += 1
                self.most_at_once = max(self.most_at_once, self.at_once)
                try:
                    await asyncio.sleep(self.latency_s)
                    await self._answer(writer, method, target, headers)
                finally:
                    self.at_once -= 1
        writer.close()

    async def _answer(self, writer: asyncio.StreamWriter, method: str, target: str, headers: dict[str, str]) -> None:
        url = urlsplit(target)
        key = unquote(url.path).removeprefix(f"/{BUCKET}").strip("/")
        query = parse_qs(url.query)
        if "list-type" in query:
            await self._text(writer, 200, self._list(query), "application/xml")
            return
        path = self.root / key
        if not path.is_file():
            await self._text(writer, 404, "" if method == "HEAD" else "<Error><Code>NoSuchKey</Code></Error>")
            return
        state = path.stat()
        tag = f'"{state.st_ino}-{state.st_mtime_ns}"'
        if headers.get("if-match", tag) != tag:
            await self._text(writer, 412, "")
            return
        start, end, status = 0, state.st_size, 200
        if wanted := headers.get("range"):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, status = int(first) if first else max(0, end - int(last)), 206
            end = min(end, int(last) + 1) if first and last else end
        fields = {
            "ETag": tag,
            "Last-Modified": "Mon, 30 Nov 2026 00:00:00 GMT",
            "Content-Length": str(end - start),
            "Accept-Ranges": "bytes",
            **({"Content-Range": f"bytes {start}-{end - 1}/{state.st_size}"} if status == 206 else {}),
        }
        lines = [f"HTTP/1.1 {status} OK", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
        writer.write("\r\n".join(lines).encode())
        await writer.drain()
        if method == "HEAD":
            return
        with path.open("rb") as file:
            while start < end:
                piece = min(PIECE, end - start)
                await self._pass(piece)
                await asyncio.get_running_loop().sendfile(writer.transport, file, start, piece)
                start += piece

    async def _pass(self, count: int) -> None:
        now = asyncio.get_running_loop().time()
        self._free_at = max(self._free_at, now - 0.005) + count / self.bytes_s  # a late wake-up costs nothing
        self.bytes += count
        if self._free_at > now:
            await asyncio.sleep(self._free_at - now)

    def _list(self, query: dict[str, list[str]]) -> str:
        prefix, delimiter = query.get("prefix", [""])[0], query.get("delimiter", [""])[0]
        base = self.root / prefix
        contents, prefixes = [], []
        for folder, folders, files in os.walk(base) if base.is_dir() else ():
            where = Path(folder).relative_to(self.root).as_posix().removeprefix(".").lstrip("/")
            if delimiter:
                prefixes = [f"{where}/{name}/".lstrip("/") for name in folders]
                folders.clear()
            for name in files:
                state = (Path(folder) / name).stat()
                contents.append((f"{where}/{name}".lstrip("/"), state.st_size, f"{state.st_ino}-{state.st_mtime_ns}"))
        objects = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{size}</Size><ETag>&quot;{tag}&quot;</ETag>"
            "<LastModified>2026-11-30T00:00:00.000Z</LastModified></Contents>"
            for key, size, tag in sorted(contents)
        )
        common = "".join(
            f"<CommonPrefixes><Prefix>{escape(each)}</Prefix></CommonPrefixes>" for each in sorted(prefixes)
        )
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{objects}{common}</ListBucketResult>"

    @staticmethod
    async def _text(writer: asyncio.StreamWriter, status: int, text: str, kind: str = "text/plain") -> None:
        body = text.encode()
        head = f"HTTP/1.1 {status} OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()


class Served:
    """The server side of the link: its address, and counts of requests."""

    def __init__(self, port: int) -> None:
        self.address = f"http://127.0.0.1:{port}"

    def environment(self) -> dict[str, str]:
        """Environment variables with which an S3 client finds it."""
        return {
            "AWS_ENDPOINT": self.address,
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
        }

    def counts(self) -> dict[str, int]:
        """Since the last call: requests, those of them for shards of arrays, bytes, and how many requests there were at once."""
        found = urllib.request.urlopen(f"{self.address}/-/counts").read().split()
        return dict(zip(("requests", "of_arrays", "bytes", "at_once"), map(int, found), strict=True))


@contextlib.contextmanager
def linked(root: Path, latency_ms: float = 20, mb_s: float = 200) -> Iterator[Served]:
    """A link in a process of its own, for as long as the block runs."""
    options = ["--latency-ms", str(latency_ms), "--mb-s", str(mb_s)]
    command = [sys.executable, "-m", "tests.benchmarks.link", str(root), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Served(int(process.stdout.readline()))
        finally:
            process.kill()


def main(arguments: Any = None) -> None:
    """Serve a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--latency-ms", type=float, default=20)
    parser.add_argument("--mb-s", type=float, default=200)
    options = parser.parse_args(arguments)
    asyncio.run(Link(options.folder, options.latency_ms / 1e3, options.mb_s * 1e6).serve())


if __name__ == "__main__":
    main()
