"""A local OpenAI-compatible HTTP server for tests: chat completions, embeddings, files and batches, with faults on demand."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

Answerer = Callable[[dict[str, Any]], str | dict[str, Any]]
"""From the body of a chat completion: the text of the answer, or the whole document."""


class Fault(NamedTuple):
    """What goes wrong with a request.

    Args:
        kind: status, slow, cut, malformed, not_an_object, deep, page, or a key of ``_CHANGES``: no_choices, null, tool_call,
            length, megabyte, no_usage, error.
        status, message: of the kind status. seconds: before an answer of the kinds slow and status.
    """

    kind: str
    status: int = 500
    headers: Mapping[str, str] = {}
    seconds: float = 0.0
    message: str = "injected"


class Call(NamedTuple):
    """A request that arrived. ``digest``: of its body. ``time_s``: of time.monotonic."""

    method: str
    path: str
    body: Any
    digest: str
    authorization: str
    time_s: float


Faults = Callable[[dict[str, Any], int], Fault | None]
"""From the body of a request, and how often the same one arrived before: its fault."""


@dataclass
class Served:
    """A running server: where it is, and what it was asked."""

    base_url: str
    answer: Answerer
    faults: Faults
    calls: list[Call] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    """How often each chat completion or embedding was asked, alone or in a batch, by the digest of its body."""
    most_at_once: int = 0
    files: dict[str, bytes] = field(default_factory=dict)
    batches: dict[str, dict[str, Any]] = field(default_factory=dict)
    batch_polls: int = 1
    """How often a batch is looked at before it has ended."""
    batch_end: Callable[[int], str] = lambda number: "completed"
    """The status that the nth batch ends with; one that "expired" has answered the first half of its requests."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    at_once: int = 0

    def chats(self) -> list[Call]:
        """The chat completions that were asked alone."""
        return [call for call in self.calls if call.path.endswith("/chat/completions")]


def nth(*faults: Fault | None) -> Faults:
    """The nth fault for the nth time that the same request arrives, then none."""
    return lambda body, seen: faults[seen] if seen < len(faults) else None


def text_of(body: Mapping[str, Any]) -> str:
    """The text of the last message of a chat completion."""
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def echo(body: dict[str, Any]) -> str:
    """An answer that repeats the last message."""
    return f"answer to {text_of(body)}"


@contextmanager
def serve(answer: Answerer = echo, faults: Faults = lambda body, seen: None) -> Iterator[Served]:
    """Run a server on a free port of 127.0.0.1 until the block ends."""
    served = Served("", answer, faults)
    handler = type("Handler", (_Handler,), {"served": served})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    served.base_url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    served: Served
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: Any) -> None:
        pass

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:  # the client was killed, or gave up
            self.close_connection = True

    def do_GET(self) -> None:
        self._called(None)
        parts = self.path.split("?")[0].split("/")[2:]
        if parts == ["batches"]:
            self._json({"object": "list", "data": list(reversed(self.served.batches.values())), "has_more": False})
        elif parts[0] == "batches" and parts[1] in self.served.batches:
            self._json(self._polled(self.served.batches[parts[1]]))
        elif parts[0] == "files" and parts[1] in self.served.files:
            self._send(200, self.served.files[parts[1]])
        else:
            self._json({"error": {"message": f"no {self.path}"}}, 404)

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.endswith("/files"):
            self._called(None)
            self._json({"id": self._new_file(_uploaded(data)), "object": "file", "purpose": "batch"})
            return
        body = json.loads(data)
        self._called(body)
        if self.path.endswith("/batches"):
            self._new_batch(body)
            return
        served, digest = self.served, _digest(body)
        with served.lock:
            seen = served.counts[digest]
            served.counts[digest] += 1
            served.at_once += 1
            served.most_at_once = max(served.most_at_once, served.at_once)
        try:
            fault = served.faults(body, seen)
            if fault is not None and fault.kind in ("status", "slow"):
                time.sleep(fault.seconds)
            document = self._document(body)
        finally:
            with served.lock:  # before the answer goes out: the client may then ask the next one
                served.at_once -= 1
        self._faulty(fault, document)

    def _called(self, body: Any) -> None:
        authorization = self.headers.get("Authorization", "")
        call = Call(self.command, self.path, body, _digest(body), authorization, time.monotonic())
        with self.served.lock:
            self.served.calls.append(call)

    def _document(self, body: dict[str, Any]) -> dict[str, Any]:
        if "input" in body:
            return _embeddings(body)
        answer = self.served.answer(body)
        return answer if isinstance(answer, dict) else completion(answer, body["model"])

    def _faulty(self, fault: Fault | None, document: dict[str, Any]) -> None:
        headers = {} if fault is None else fault.headers
        if fault is None or fault.kind == "slow":
            self._json(document, headers=headers)
        elif fault.kind == "status":
            self._json({"error": {"message": fault.message}}, fault.status, headers)
        elif fault.kind == "cut":
            data = json.dumps(document).encode()
            self._send(200, data[: len(data) // 2], headers, length=len(data))
            self.close_connection = True
        elif fault.kind in _BODIES:
            self._send(200, _BODIES[fault.kind], headers)
        else:
            self._json(_CHANGES[fault.kind](document), headers=headers)

    def _new_file(self, data: bytes) -> str:
        with self.served.lock:
            name = f"file-{len(self.served.files)}"
            self.served.files[name] = data
        return name

    def _new_batch(self, body: dict[str, Any]) -> None:
        name = f"batch-{len(self.served.batches)}"
        batch = {
            "id": name, "object": "batch", "endpoint": body["endpoint"], "input_file_id": body["input_file_id"], "created_at": 0,
            "completion_window": "24h", "status": "in_progress", "metadata": body.get("metadata"), "polls": 0,
        }  # fmt: skip
        for line in self.served.files[body["input_file_id"]].splitlines():
            self.served.counts[_digest(json.loads(line)["body"])] += 1
        self.served.batches[name] = batch
        fault = self.served.faults(body, sum(call.path.endswith("/batches") for call in self.served.calls) - 1)
        self._faulty(fault, batch)

    def _polled(self, batch: dict[str, Any]) -> dict[str, Any]:
        batch["polls"] += 1
        if batch["status"] == "in_progress" and batch["polls"] > self.served.batch_polls:
            batch["status"] = self.served.batch_end(int(batch["id"].split("-")[1]))
            if batch["status"] == "failed":
                batch["errors"] = {"object": "list", "data": [{"code": "invalid", "message": "injected", "line": 1}]}
            else:
                self._end(batch)
        return batch

    def _end(self, batch: dict[str, Any]) -> None:
        lines = [json.loads(line) for line in self.served.files[batch["input_file_id"]].splitlines()]
        kept = len(lines) // 2 if batch["status"] == "expired" else len(lines)
        good, bad = [], []
        for number, line in enumerate(reversed(lines)):  # a batch keeps no order
            fault = self.served.faults(line["body"], self.served.counts[_digest(line["body"])] - 1)
            reply = {"id": f"r{number}", "custom_id": line["custom_id"], "response": None, "error": None}
            if number >= kept:
                bad.append(reply | {"error": {"code": "batch_expired", "message": "too late"}})
            elif fault is not None and fault.kind == "status":
                found = {"error": {"message": fault.message}}
                bad.append(reply | {"response": {"status_code": fault.status, "body": found}})
            else:
                document = self._document(line["body"])
                changed = document if fault is None else _CHANGES[fault.kind](document)
                good.append(reply | {"response": {"status_code": 200, "body": changed}})
        for name, replies in (("output_file_id", good), ("error_file_id", bad)):
            if replies:
                batch[name] = self._new_file("".join(json.dumps(reply) + "\n" for reply in replies).encode())

    def _json(self, value: Any, status: int = 200, headers: Mapping[str, str] = {}) -> None:
        self._send(status, json.dumps(value).encode(), headers)

    def _send(self, status: int, data: bytes, headers: Mapping[str, str] = {}, length: int | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        self.end_headers()
        self.wfile.write(data)


def completion(text: str | None, model: str, **change: Any) -> dict[str, Any]:
    """A chat completion with an answer. ``change``: of its choice."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "finish_reason": "stop", "message": message, **change}
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    return {"id": "c", "object": "chat.completion", "created": 0, "model": model, "choices": [choice], "usage": usage}


def _tool_call(document: dict[str, Any]) -> dict[str, Any]:
    call = {"id": "t", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    return completion(None, document["model"], message=message, finish_reason="tool_calls")


_BODIES = {
    "malformed": b'{"choices": [{"mess',
    "not_an_object": b"[]",
    "deep": b"[" * 500_000,
    "page": b"\n<!doctype html>",
}
_CHANGES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "no_choices": lambda document: {**document, "choices": []},
    "null": lambda document: completion(None, document["model"]),
    "tool_call": _tool_call,
    "length": lambda document: completion("cut off in the mid", document["model"], finish_reason="length"),
    "megabyte": lambda document: completion("x" * (3 << 20), document["model"]),
    "no_usage": lambda document: {name: value for name, value in document.items() if name != "usage"},
    "error": lambda document: {"error": {"message": "upstream failed"}},
}


def _embeddings(body: Mapping[str, Any]) -> dict[str, Any]:
    """Vectors of four numbers, from a digest of each text; the rows come in reverse order."""
    rows = [
        {
            "object": "embedding",
            "index": index,
            "embedding": [each / 255 for each in hashlib.sha256(text.encode()).digest()[:4]],
        }
        for index, text in enumerate(body["input"])
    ]
    return {
        "object": "list",
        "model": body["model"],
        "data": rows[::-1],
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
    }


def _digest(body: Any) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _uploaded(data: bytes) -> bytes:
    """The file in a multipart form: the part whose head names a file."""
    boundary = data.split(b"\r\n", 1)[0]
    parts = [part.split(b"\r\n\r\n", 1) for part in data.split(boundary) if b"\r\n\r\n" in part]
    return next(content for head, content in parts if b"filename=" in head).removesuffix(b"\r\n")
