"""The demo's models behind an OpenAI-compatible endpoint on this machine, for as long as a command runs.

`python -m demo.questions.endpoint --truth FILE -- python cli.py --params params/questions_demo.yaml questions passed`
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from demo.questions import asker, looker

PORT = 8766
"""The port in params/questions_demo.yaml."""
SEED = 20_261_130
"""Seed of the asker's faults, used nowhere else."""
MAX_BODY_BYTES = 2**24


class Models:
    """The models that answer, and the file to which the truth about questions is written, a line per pair."""

    def __init__(self, truth: Path) -> None:
        self._truth, self._lock = truth, threading.Lock()
        self._looker: looker.Looker | None = None

    def choice(self, body: dict[str, Any]) -> dict[str, Any]:
        """The choice of a chat completion. ValueError if the request does not have a form that the model knows."""
        if body.get("model") == asker.MODEL:
            choice, said = asker.ask(body, SEED)
            with self._lock, self._truth.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(vars(each)) + "\n" for each in said)
            return choice
        if body.get("model") == looker.MODEL:
            with self._lock:
                self._looker = self._looker or looker.Looker()
            return {"message": {"role": "assistant", "content": self._looker.verify(body)}, "finish_reason": "stop"}
        raise ValueError(f"found model {body.get('model')!r}, expected {asker.MODEL} or {looker.MODEL}")


class _Handler(BaseHTTPRequestHandler):
    models: Models
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        """Answer chat completions; any other path is not found."""
        size = int(self.headers.get("Content-Length", 0))
        if self.path != "/v1/chat/completions" or size > MAX_BODY_BYTES:
            self._send(404, {"error": {"message": f"no {self.path}, or more than {MAX_BODY_BYTES} bytes"}})
            return
        data = self.rfile.read(size)
        try:
            body = json.loads(data)
            choice = self.models.choice(body)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            self._send(400, {"error": {"message": f"{type(error).__name__}: {error}"}})
            return
        text = choice["message"]["content"] or ""
        usage = {
            "prompt_tokens": size // 4,
            "completion_tokens": len(text) // 4,
            "total_tokens": (size + len(text)) // 4,
        }
        self._send(
            200,
            {"id": "demo", "object": "chat.completion", "created": 0, "model": body["model"], "usage": usage}
            | {"choices": [{"index": 0, **choice}]},
        )

    def _send(self, status: int, value: dict[str, Any]) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def main() -> int:
    """Serve until the command has ended; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m demo.questions.endpoint", description=__doc__)
    parser.add_argument("--port", type=int, default=PORT)
    parser.add_argument("--truth", type=Path, required=True, help="what is true of each question goes here")
    parser.add_argument("command", nargs="+", help="run while it serves, such as python cli.py ...")
    options = parser.parse_args()
    options.truth.parent.mkdir(parents=True, exist_ok=True)
    handler = type("Handler", (_Handler,), {"models": Models(options.truth)})
    server = ThreadingHTTPServer(("127.0.0.1", options.port), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        return subprocess.run(options.command, check=False).returncode
    finally:
        server.shutdown()


if __name__ == "__main__":
    sys.exit(main())
