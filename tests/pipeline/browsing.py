"""A store with all that a browser page may meet, and the real server in front of it."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import numpy as np

from pipeline.browse.app import make_app
from pipeline.browse.serve import listening, server_of
from pipeline.browse.shelf import Shelf, splits_of
from pipeline.params_file import load_settings
from stages.evaluate import Meta, Prediction, write
from store import open_split, rle

NAME = "\"><img src=x onerror=document.title=1>&a=1#b?c=%41 '\u202egnp"
"""Of an image file."""
CAPTION = '<img src="https://example.org/x.png" onerror="document.title=1"><b>bold</b> & "quoted" </li>{{ page }} \u202e\u0000 ${1}'


def with_everything(project: Any) -> Any:
    """``val`` of a finished project with a hostile name and caption, a failed image, one without annotation, an empty target."""
    project.configure(embed__image_encoders=[])  # which no page shows
    project.add("val", NAME, 21)
    path = project.data / "val" / f"{NAME}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "text": [CAPTION, "asked in other words"]}))
    project.add("val", "empty", 22, regions=0)
    project.add_image("val", "unasked", 24)
    (project.data / "val/wrong.png").write_bytes(b"no picture")
    for stage in ("index --split val", "extract --split val", "normalize"):
        done = project.run(*stage.split(), before=("--set", "run.max_failures=9"))
        assert done.code == 0, done.out + done.err
    answer(project, "elisa", right=True)
    answer(project, "lisa", right=False)
    return project


def answer(project: Any, run: str, right: bool, split: str = "val") -> Path:
    """Answers of a run to every question: the ground truth, or the left half of the image."""
    opened = open_split(project.store, "tiny", split, columns=["images", "targets"], allow_incomplete=True)
    answers = []
    for record in opened:
        if not opened.columns["targets"].is_ok(record.image_index):
            continue
        half = np.zeros((record.height_px, record.width_px), bool)
        half[:, : record.width_px // 2] = True
        for target in record.rows("targets"):
            mask = target["segmentation"] if right else rle.encode(half)
            answers.append(Prediction(target["target_id"], 0, mask, False, answer=f"It is <b>{run}</b>."))
    path = Path(load_settings(project.params).run.train_dir) / run / f"predictions/tiny/{split}.parquet"
    write(path, Meta(run, "tiny", split), answers)
    return path


class Got(NamedTuple):
    """An answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Server:
    """A server that runs, and its port."""

    def __init__(self, port: int) -> None:
        self.port = port

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str, method: str = "GET", host: str | None = None, **headers: str) -> Got:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.putrequest(method, path, skip_host=host is not None)
            for name, value in ({"Host": host} if host is not None else {}).items():
                connection.putheader(name, value)
            for name, value in headers.items():
                connection.putheader(name, value)
            connection.endheaders()
            found = connection.getresponse()
            return Got(found.status, {key.lower(): value for key, value in found.getheaders()}, found.read())
        finally:
            connection.close()

    def ask(self, name: str, **params: Any) -> Any:
        """The JSON of a question, when it is worked out."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            got = self.get(f"/api/{name}?{urlencode(params, doseq=True)}")
            if got.status != 202:
                return got.json() if got.status == 200 else got
            time.sleep(0.05)
        raise AssertionError(f"{name} is not worked out")


@contextmanager
def served(params: Path, host: str = "127.0.0.1", token: str | None = None) -> Iterator[Server]:
    """The server of the verb on a free port, in a thread."""
    settings = load_settings(params)
    app = make_app(Shelf(settings, splits_of(settings, None, [])), host, token)
    with listening("127.0.0.1", 0) as bound:
        server = server_of(app)
        thread = threading.Thread(target=server.run, args=([bound],))
        thread.start()
        try:
            yield Server(bound.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join(30)
