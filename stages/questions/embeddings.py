"""Vectors of texts through the embeddings endpoint; each text is sent once, and its vector is kept in the journal's folder."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stages.questions.endpoint import Job, ask_jobs
from stages.questions.errors import EndpointError
from stages.questions.journal import Journal, Sending
from stages.questions.lines import Lines
from stages.questions.params import ModelParams
from stages.questions.prices import TOKENS_PER_MESSAGE, cost_usd, text_tokens
from stages.questions.requests import Answer, Unanswered
from stages.questions.wire import MalformedError, usage_of

VECTORS = "vectors.jsonl"
"""One line per text: ``key``, and ``vector``, float32 in little-endian order, in base64."""
TEXTS_PER_REQUEST = 64
_MAX_BYTES = 64 << 20
_STEP = "embed"


def embed_texts(journal: Journal, model: ModelParams, texts: Sequence[str]) -> list[np.ndarray[Any, Any]]:
    """Return the vector of each text, float32 [D], as the endpoint computes it; only texts that were never embedded are sent.

    Raises:
        EndpointError: as from :func:`~stages.questions.endpoint.ask_all`; or a text is refused, or vectors differ in length.
        BudgetSpent, LimitReached: before the first request that does not fit.
        ValueError: a text is empty.
    """
    if not all(texts):
        raise ValueError(
            f"text {next(i for i, text in enumerate(texts) if not text)} is empty, expected words to embed"
        )
    vectors = Lines(journal.folder / VECTORS, write=True)
    try:
        at = {entry["key"]: offset for offset, entry in vectors.scan()}
        missing = [text for text in dict.fromkeys(texts) if _key(model, text) not in at]
        chunks = [missing[begin : begin + TEXTS_PER_REQUEST] for begin in range(0, len(missing), TEXTS_PER_REQUEST)]
        jobs = [_job(model, chunk, vectors, at) for chunk in chunks]
        if jobs:
            ask_jobs(journal, model, jobs, lambda client: client.embeddings, f"questions: {_STEP}", _MAX_BYTES)
        for job in jobs:
            reply = journal.answer(job.sending.key)
            if isinstance(reply, Unanswered):
                raise EndpointError(f"{model.endpoint} does not embed {job.sending.subject}: {reply.reason}")
        found = [
            np.frombuffer(base64.b64decode(vectors.read(at[_key(model, text)])["vector"]), "<f4") for text in texts
        ]
    finally:
        vectors.close()
    if len(sizes := {len(vector) for vector in found}) > 1:
        raise EndpointError(
            f"{vectors.path}: vectors of {model.model} have {' and '.join(map(str, sorted(sizes)))} values, expected one length: "
            "the endpoint has another model under the same name; remove the file to embed everything again"
        )
    return found


def _key(model: ModelParams, text: str) -> str:
    return hashlib.sha256(json.dumps([model.model, text]).encode()).hexdigest()


def _job(model: ModelParams, texts: list[str], vectors: Lines, at: dict[str, int]) -> Job:
    """A request for the vectors of some texts. The answer is written to the file of vectors first, then to the journal."""
    tokens = sum(text_tokens(text) + TOKENS_PER_MESSAGE for text in texts)
    usd = cost_usd(model, tokens, 0)
    key = hashlib.sha256(json.dumps([_STEP, model.model, texts]).encode()).hexdigest()

    def read(document: dict[str, Any]) -> Answer:
        keys = [_key(model, text) for text in texts]
        lines = [
            {"key": each, "vector": base64.b64encode(vector.tobytes()).decode()}
            for each, vector in zip(keys, _vectors(document, len(texts)), strict=True)
        ]
        at.update(zip(keys, vectors.append(lines), strict=True))
        usage = usage_of(document)
        paid = cost_usd(model, *usage) if any(usage) else usd
        return Answer("", "stop", str(document.get("model") or model.model), *usage, paid)

    body = {"model": model.model, "input": texts, "encoding_format": "float"}
    return Job(Sending(key, _STEP, f"{len(texts)} texts", model.model, usd, {"texts": texts}), lambda: body, read)


def _vectors(document: Mapping[str, Any], count: int) -> list[np.ndarray[Any, Any]]:
    """The vectors of a document in the order of the texts.

    Raises:
        MalformedError: there are more or fewer vectors than texts, or some are not vectors of finite numbers.
    """
    try:
        with np.errstate(over="ignore"):  # what is too large for float32 becomes inf, which is refused below
            rows = {each["index"]: np.asarray(each["embedding"], "<f4") for each in document["data"]}
        found = [rows[index] for index in range(count)]
    except (KeyError, TypeError, ValueError) as error:
        raise MalformedError(f"found {str(document)[:100]!r}, expected {count} embeddings") from error
    if len(rows) != count or not all(row.ndim == 1 and row.size and np.isfinite(row).all() for row in found):
        raise MalformedError(f"expected {count} vectors of finite numbers")
    return found
