"""A server of Azure Blob Storage's protocol on this machine: npm's azurite, with the account and key that it publishes.

``npm install azurite`` anywhere, and its folder ``node_modules/.bin`` in PATH.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import shutil
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path

import pytest

from tests.s3 import free_port

AZURITE = shutil.which("node") and shutil.which("azurite-blob")
"""The server's command, if it is installed."""
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Account and key are the same in every azurite, and protect nothing."""


@dataclass
class Azurite:
    """The server, and where it is."""

    address: str

    def container(self) -> str:
        """A new, empty container; ``obstore`` cannot make one."""
        name = f"c{uuid.uuid4().hex[:12]}"
        headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
        given = "".join(f"{header}:{value}\n" for header, value in headers.items())
        signed = "PUT" + 12 * "\n" + given + f"/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
        signature = base64.b64encode(hmac.digest(base64.b64decode(KEY), signed.encode(), hashlib.sha256)).decode()
        headers |= {"Authorization": f"SharedKey {ACCOUNT}:{signature}", "Content-Length": "0"}
        address = f"{self.address}/{ACCOUNT}/{name}?restype=container"
        urllib.request.urlopen(urllib.request.Request(address, headers=headers, method="PUT")).close()
        return name


@contextmanager
def serving(folder: Path) -> Iterator[Azurite]:
    """A server in a process of its own, which keeps everything in ``folder``, and the environment of a client that finds it."""
    port = free_port()
    found = Azurite(f"http://127.0.0.1:{port}")
    place = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder)]
    quiet = ["--silent", "--skipApiVersionCheck", "--disableTelemetry"]
    environment = {
        "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
        "AZURE_STORAGE_ACCOUNT_KEY": KEY,
        "AZURE_STORAGE_ENDPOINT": f"{found.address}/{ACCOUNT}",
        "AZURE_ALLOW_HTTP": "true",
        "ELISA_CACHE": "",
    }
    with subprocess.Popen(["azurite-blob", *place, *quiet], stdout=subprocess.DEVNULL) as server:
        try:
            _wait_for(found, server)
            with pytest.MonkeyPatch.context() as patch:
                for name, value in environment.items():
                    patch.setenv(name, value)
                yield found
        finally:
            server.terminate()


def _wait_for(found: Azurite, server: subprocess.Popen[bytes]) -> None:
    for _ in range(400):
        assert server.poll() is None, "azurite-blob has ended"
        try:
            found.container()
            return
        except urllib.error.HTTPError:
            raise
        except OSError:
            time.sleep(0.05)
    raise TimeoutError(found.address)
