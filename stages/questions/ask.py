"""Step ask: a description or tags, and the names of the objects -> a request for questions and their answers.

After section 4 of LLM-Seg's paper: a role, seven rules and one worked example, then the summary, the objects, and ``[Questions]:``
left open. The texts are our own and stand in stages/questions/prompts.
"""

from __future__ import annotations

from collections.abc import Sequence

from stages.questions.items import Scene
from stages.questions.params import AskParams
from stages.questions.prompts import Prompt, escaped, load_prompt
from stages.questions.requests import Picture, Request, Sampling

PLACES = ("summary", "objects", "questions")
"""Placeholders that a template of this step must have."""
_VARIANTS = {"picture": "ask-picture-1", "tags": "tags-1"}


def ask_prompt(params: AskParams, tags: bool = False) -> Prompt:
    """The template that the step uses.

    The default, ask-1, is replaced by another for an asker that sees the picture (with ``params.picture``), or for tags.

    Raises:
        PromptError: it is missing, malformed, or has other placeholders than :data:`PLACES`.
    """
    name = params.prompt
    if name == AskParams.model_fields["prompt"].default:
        name = _VARIANTS["picture"] if params.picture else _VARIANTS["tags"] if tags else name
    prompt = load_prompt(name)
    prompt.check(PLACES)
    return prompt


def ask_request(scene: Scene, summary: str | Sequence[str], params: AskParams, model: str) -> Request:
    """The request for questions about an image.

    Args:
        summary: a description, or tags; empty if there is no description, which the asker is told.
        model: the name that the endpoint knows it by.

    Raises:
        PromptError: as :func:`ask_prompt`.
        ValueError: the scene shows nothing that may be asked for.
    """
    if not scene.things:
        raise ValueError(f"{scene.image_id}: no object, expected at least one to ask for")
    prompt = ask_prompt(params, tags=not isinstance(summary, str))
    known = summary if any(map(escaped, [summary] if isinstance(summary, str) else summary)) else "(none)"
    pictures: tuple[Picture, ...] = ()
    if params.picture:
        from stages.questions.pictures import whole  # decodes pictures, which a text-only request does not need

        pictures = (whole(scene, params.side_px),)
    names = [thing.name for thing in scene.things]
    messages = prompt.messages(pictures, summary=known, objects=names, questions=str(params.questions))
    sampling = Sampling(params.max_tokens, params.temperature, params.seed)
    return Request("ask", scene.image_id, model, messages, sampling, prompt.record)
