"""Whether the templates that a set of questions names can be used."""

from __future__ import annotations

from stages.questions.ask import ask_prompt
from stages.questions.params import QuestionSetParams
from stages.questions.prompts import load_prompt


def require_templates(params: QuestionSetParams) -> None:
    """Check that all templates exist and have the placeholders that their steps fill, before anything is paid for.

    Raises:
        PromptError: one is missing, malformed, or has other placeholders.
    """
    if params.describe.model is not None:
        load_prompt(params.describe.prompt).check(())
    ask_prompt(params.ask, tags=params.describe.tags is not None)
    if params.verify.model is not None:
        load_prompt(params.verify.prompt).check(("question",))
        if params.verify.control:
            load_prompt(params.verify.control_prompt).check(("question", "objects"))
    if params.rephrase.model is not None:
        load_prompt(params.rephrase.prompt).check(("question",))
