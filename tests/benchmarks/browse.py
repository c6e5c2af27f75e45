"""``python -m tests.benchmarks.browse FOLDER``: what the pages of ``browse`` take on the store that ``bench-scale --folder`` made.

Seconds from a request to the last byte, and memory of the server after it. The files are in the page cache.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from tests.benchmarks.report import table

ROOT = Path(__file__).resolve().parents[2]
SPLIT = "split=bench/train"
COLUMN = "mask_embeddings/sam/demo_sam"
POLL_S = 0.1
REQUESTS = {
    "first page": f"/api/page?{SPLIT}",
    "a thumbnail": f"/picture?{SPLIT}&index=7&side=320",
    "a page from the middle": f"/api/page?{SPLIT}&after=49999,49999",
    "text, for the first time": f"/api/page?{SPLIT}&text=number+777",
    "another text": f"/api/page?{SPLIT}&text=number+778",
    "sorted by area, for the first time": f"/api/page?{SPLIT}&sort=largest:sam",
    "sorted by area, and a range": f"/api/page?{SPLIT}&sort=largest:sam&range=largest:sam:10:40",
    "failed images, for the first time": f"/api/page?{SPLIT}&failed=yes",
    "nothing to be found, for the first time": f"/api/page?{SPLIT}&empty=yes",
    "sorted by the best mask's IoU, for the first time": f"/api/page?{SPLIT}&sort=best:sam",
    "one image": f"/api/image?{SPLIT}&index=77777",
    "its provenance": f"/api/provenance?{SPLIT}&index=77777",
    "nearest masks": f"/api/nearest?{SPLIT}&index=77777&mask=0&column={COLUMN}",
    "first page again": f"/api/page?{SPLIT}",
}


def main() -> None:
    """Start the server, ask, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="of bench-scale --folder")
    params = parser.parse_args().folder / "small/params.yaml"
    command = [sys.executable, str(ROOT / "cli.py"), "--params", str(params), "browse", "--port", "0"]
    began = time.perf_counter()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        address = next(line.strip().rstrip("/") for line in server.stdout if line.startswith("http"))
        rows = [
            [
                "from the command to its address",
                f"{time.perf_counter() - began:.2f}",
                f"{_memory_mb(server.pid, 'VmRSS')}",
            ]
        ]
        for name, path in REQUESTS.items():
            rows.append([name, f"{_seconds(address + path):.2f}", f"{_memory_mb(server.pid, 'VmRSS')}"])
            print(rows[-1], file=sys.stderr)
        peak = _memory_mb(server.pid, "VmHWM")
        server.send_signal(signal.SIGINT)
    print(table(("", "seconds", "memory, MB"), rows))
    print(f"\nmost memory at any time: {peak} MB")


def _seconds(address: str) -> float:
    """Seconds until the answer is there. While the server computes it, it is asked again, as the page does."""
    start = time.perf_counter()
    while True:
        with urllib.request.urlopen(address) as response:
            data = response.read()
            if response.status != 202:
                return time.perf_counter() - start
        assert "waiting" in json.loads(data)
        time.sleep(POLL_S)


def _memory_mb(process: int, field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    assert found
    return round(int(found[1]) * 1024 / 1e6)


if __name__ == "__main__":
    main()
