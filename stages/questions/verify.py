"""A second model looks at picture, outlined answer and question; a control without the picture shows which do not need it.

Neither is part of LLM-Seg's pipeline or of ReasonSeg's, which had no verifier. A verdict is a word of a closed set in a fixed
place. Nothing else that a model says, or is made to say by words in the picture or in the question, can accept a question.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from stages.questions.items import Pair, Reason, Scene, Step, Verdict
from stages.questions.names import match
from stages.questions.params import VerifyParams
from stages.questions.pictures import crop, outlined
from stages.questions.prompts import Prompt, load_prompt
from stages.questions.replies import labelled, raw_of, readable, whole_lines
from stages.questions.requests import Message, Reply, Request, Sampling, Unanswered

REASONS: dict[str, Reason | None] = {"yes": None, "no": Reason.VERIFIER, "other": Reason.AMBIGUOUS}
"""What the verifier may say: the question asks for what is outlined and nothing else fits; it does not ask for that; something else
fits as well."""
UNKNOWN = "unknown"
"""What the control says if the question without the picture leaves the answer open."""

_VERDICT = re.compile(r"[*_#\s]*verdict[*_\s]*[:：][*_\s]*(yes|no|other)[*_\s.!]*", re.IGNORECASE)
_BARE = re.compile(r"[*_\s]*(yes|no|other)[*_\s.!]*", re.IGNORECASE)
_ANYWHERE = re.compile(r"verdict\W*(?:is|was|must be|should be)?\W*(yes|no|other)\b", re.IGNORECASE)


def verify_request(pair: Pair, scene: Scene, counts: str, params: VerifyParams, model: str) -> Request:
    """Ask whether a question asks for what is outlined, and for nothing else. The model is not told what the answer is called.

    Args:
        counts: COCO RLE counts of the answer's mask, in the size of the image.
        model: the name that the endpoint knows the verifier by.

    Raises:
        ValueError: the mask has no pixel, or is not of the image's size.
    """
    prompt = load_prompt(params.prompt)
    pictures = outlined(scene, counts, params.side_px), crop(scene, counts, params.crop_px)
    return _request("verify", pair, params, model, prompt, prompt.messages(pictures, question=pair.question))


def control_request(pair: Pair, scene: Scene, params: VerifyParams, model: str) -> Request:
    """Ask for the answer with only the names of the objects: without the picture it should not be found.

    By chance it is found in one of ``len(scene.things)`` cases (:func:`chance`), so for an image with few objects a flag alone
    says little. Compare how many of all questions are flagged with the mean of their chances.
    """
    prompt = load_prompt(params.control_prompt)
    messages = prompt.messages(question=pair.question, objects=[thing.name for thing in scene.things])
    return _request("control", pair, params, model, prompt, messages)


def chance(scene: Scene) -> float:
    """How likely a blind guess of one object is right."""
    return 1 / len(scene.things)


def read_verdict(reply: Reply, model: str) -> Verdict:
    """What the verifier said.

    The verdict is the first or the last line, ``VERDICT: yes`` except for case, markup and a full stop; or the single word that
    is the whole answer. An answer that says ``verdict`` with another word anywhere else is rejected.

    Args:
        model: the name under which it was asked; it stands in the verdict if the answer does not name a model.
    """
    answer = readable(reply)
    if isinstance(answer, Reason):
        return _verdict("verify", reply, model, "", answer)
    lines = whole_lines(answer)
    edges = lines[:1] + (lines[-1:] if answer.finish_reason != "length" else [])  # a truncated answer has no end
    forms = (_VERDICT, _BARE) if len(lines) == 1 else (_VERDICT,)
    found = {match[1].lower() for line in edges for form in forms if (match := form.fullmatch(line))}
    said = found | {word.lower() for word in _ANYWHERE.findall(answer.text)}
    if len(found) != 1 or len(said) != 1:
        return _verdict("verify", reply, model, "", Reason.UNREADABLE_VERDICT)
    word = found.pop()
    return _verdict("verify", reply, model, word, REASONS[word])


def read_control(reply: Reply, pair: Pair, scene: Scene, model: str) -> Verdict:
    """What was answered without the picture: ``ANSWER:`` and an object of the list in the first or last line, or an object alone.

    An answer that names several objects is right if the question's answer is exactly these.
    """
    answer = readable(reply)
    if isinstance(answer, Reason):
        return _verdict("control", reply, model, "", answer)
    lines = whole_lines(answer)
    answers = [value for line in lines[:1] + lines[-1:] for _, value in labelled([line], ("answer",))]
    if not answers and len(lines) == 1:
        answers = lines
    if len(set(answers)) != 1:
        return _verdict("control", reply, model, "", Reason.UNREADABLE_VERDICT)
    if answers[0].strip(" .").lower() == UNKNOWN:
        return _verdict("control", reply, model, UNKNOWN, None)
    found = match(answers[0], scene.things)
    things = found if isinstance(found, list) else [] if found is None else [found]
    if not things:
        return _verdict("control", reply, model, "", Reason.UNREADABLE_VERDICT)
    right = {thing.label for thing in things} == set(pair.labels)
    return _verdict(
        "control", reply, model, " | ".join(thing.label for thing in things), Reason.BLIND if right else None
    )


def outcome(verdicts: Sequence[Verdict], params: VerifyParams) -> Reason | None:
    """Why a question is rejected by its verdicts, or None. A person has the last word.

    The control's verdict counts only if ``reject_blind`` is set; then an unreadable control rejects too, as it did not show
    that the picture is needed.
    """
    by_step = {verdict.step: verdict for verdict in verdicts}
    if "person" in by_step:
        return by_step["person"].reason
    counts: tuple[Step, ...] = ("verify", "control") if params.reject_blind else ("verify",)
    reasons = (by_step[step].reason for step in counts if step in by_step)
    return next((reason for reason in reasons if reason is not None), None)


def _request(
    step: Step, pair: Pair, params: VerifyParams, model: str, prompt: Prompt, messages: tuple[Message, ...]
) -> Request:
    sampling = Sampling(params.max_tokens, params.temperature)
    return Request(step, f"{pair.image_id}/{pair.number}", model, messages, sampling, prompt.record)


def _verdict(step: Step, reply: Reply, model: str, said: str, reason: Reason | None) -> Verdict:
    named = "" if isinstance(reply, Unanswered) else reply.model
    return Verdict(step, named or model, said, raw_of(reply), reason)
