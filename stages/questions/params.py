"""Parameter models of section ``questions``, one entry for each set of questions that is made. No torch and no client here."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from stages.fields import Fraction, Key, Name, Params

Usd = Annotated[float, Field(ge=0)]
Tokens = Annotated[int, Field(ge=1, le=100_000)]
Temperature = Annotated[float, Field(ge=0, le=2)]
Template = Annotated[str, Field(min_length=1, max_length=1000)]
SidePx = Annotated[int, Field(ge=32, le=8192)]


class ModelParams(Params):
    """A model behind an OpenAI-compatible endpoint. ``model`` and ``body`` decide what it answers, the rest how it is reached."""

    endpoint: Annotated[str, Field(pattern=r"^https?://[^\s@]+$")] = "https://api.openai.com/v1"
    """Address of the API, such as http://127.0.0.1:8000/v1 of vLLM. It must not contain a key; keys come from the environment."""
    model: Annotated[str, Field(min_length=1)]
    """The name by which the endpoint knows the model."""
    key_from: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key. null: the endpoint needs none."""
    mode: Literal["chat", "batch"] = "chat"
    """chat: one request at a time, up to ``concurrency`` of them at once. batch: files of requests that are answered within a day,
    at half the price where the provider says so."""
    body: dict[str, Any] = Field(default_factory=dict)
    """Further fields of a request, such as {chat_template_kwargs: {enable_thinking: false}} for vLLM. A field that is null is
    not sent: {max_tokens: null, temperature: null, max_completion_tokens: 2000} for OpenAI's reasoning models. If body is
    changed, all requests are sent again."""
    concurrency: Annotated[int, Field(ge=1, le=512)] = 4
    """Requests that are under way at once. After a kill, up to this many may have to be sent again."""
    timeout_s: Annotated[float, Field(gt=0)] = 120
    """Longest wait for an answer."""
    retries: Annotated[int, Field(ge=0, le=100)] = 8
    """Further attempts when the endpoint is busy (429), fails (500 and above) or breaks the connection. Between them is the wait
    that the endpoint asks for, or else a wait that doubles each time, up to a minute."""
    usd_per_million_input: Usd | None = None
    """Price of a million input tokens; null: unknown, which a budget refuses."""
    usd_per_million_output: Usd | None = None
    """Price of a million output tokens."""
    seconds_per_request: Annotated[float, Field(gt=0)] | None = None
    """How long an answer takes, for estimates of hours. null: hours are not estimated."""
    tokens_per_picture: Annotated[int, Field(ge=0)] | None = None
    """Input tokens of one picture, for estimates. null: one for every 28 x 28 px, as Qwen's and GPT's models count roughly."""

    @field_validator("body")
    @classmethod
    def _bounded(cls, value: dict[str, Any]) -> dict[str, Any]:
        """Refuse what would leave the cost unbounded: fields that the steps set, and an answer without a token limit."""
        if taken := sorted(value.keys() & {"model", "messages", "n", "stream"}):
            raise ValueError(f"found {', '.join(taken)}, which the steps decide; expected other fields of a request")
        bounds = {name: value[name] for name in ("max_tokens", "max_completion_tokens") if name in value}
        wrong = [name for name, bound in bounds.items() if bound is not None and (type(bound) is not int or bound < 1)]
        if wrong or (bounds.get("max_tokens", 0) is None and bounds.get("max_completion_tokens") is None):
            raise ValueError(f"found {bounds}, expected a number of tokens in max_tokens or max_completion_tokens")
        return value


class Asking(Params):
    """What every step has that asks a model."""

    model: Key | None = None
    """A key of ``models``. null: the step is left out."""
    max_tokens: Tokens = 1024
    """Longest answer."""
    temperature: Temperature = 0.0
    """How freely the model words its answer; 0: always the likeliest word."""


class GroupParams(Params):
    """Some of the chosen images."""

    name: Name
    """Name of the group, such as simple."""
    categories: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)] | None]
    """From how many categories in the image to how many; null: no upper bound."""
    images: Annotated[int, Field(ge=1)]
    """How many images, or all there are where there are fewer."""

    @field_validator("categories")
    @classmethod
    def _ordered(cls, value: tuple[int, int | None]) -> tuple[int, int | None]:
        if value[1] is not None and value[1] < value[0]:
            raise ValueError(f"found {list(value)}, expected the smaller number first")
        return value


PAPER = (
    GroupParams(name="simple", categories=(2, 5), images=6000),
    GroupParams(name="complex", categories=(6, None), images=4000),
)
"""Groups of images of LVIS, as LLM-Seg's paper chose them (section 4)."""


class ChooseParams(Params):
    """Which images of the source split are asked about."""

    groups: Annotated[tuple[GroupParams, ...], Field(min_length=1)] = PAPER
    """Groups by the number of categories; no image is in two groups. Default: those of LLM-Seg's paper for LVIS."""
    seed: int = 0
    """Seed of the draw."""
    per_category: Annotated[int, Field(ge=1)] | None = None
    """At most this many chosen images show a category. null: no bound."""
    min_area: Fraction = 0.0
    """Categories whose masks together cover a smaller part of the image are not shown to the model and not counted."""
    drop: tuple[str, ...] = ()
    """Labels of categories that are never asked about."""

    @field_validator("groups")
    @classmethod
    def _apart(cls, value: tuple[GroupParams, ...]) -> tuple[GroupParams, ...]:
        names = [group.name for group in value]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"found two groups {twice!r}, expected another name for each")
        ordered = sorted(value, key=lambda group: group.categories[0])
        for one, other in pairwise(ordered):
            if one.categories[1] is None or one.categories[1] >= other.categories[0]:
                raise ValueError(
                    f"{one.name} {list(one.categories)} and {other.name} {list(other.categories)} overlap, expected each number "
                    "of categories in one group"
                )
        return value


class DescribeParams(Asking):
    """Image -> a description in words, by a vision-language model or from a file."""

    prompt: Template = "describe-1"
    """Template in stages/questions/prompts, or a file of your own, such as mine/ask.txt."""
    file: str | None = None
    """Stored descriptions instead: a JSON object by image_id, or JSON Lines with image_id and description."""
    tags: str | None = None
    """Stored tags instead: as ``file``, with a list of tags, or text with ``|`` between them (RAM's form)."""
    side_px: SidePx = 768
    """Pictures are sent no longer than this on their longer side."""

    @model_validator(mode="after")
    def _one_source(self) -> DescribeParams:
        given = [name for name in ("model", "file", "tags") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"found {' and '.join(given)}, expected one of model, file and tags, or none")
        return self


class AskParams(Asking):
    """Description and names of objects -> questions and their answers."""

    prompt: Template = "ask-1"
    """As in ``describe``."""
    questions: Annotated[int, Field(ge=1, le=50)] = 5
    """How many questions the model is asked for, per image."""
    picture: bool = False
    """Show the model the picture as well. In the paper, it sees only words."""
    side_px: SidePx = 768
    """Limit for the longer side of the picture, as in ``describe``."""
    temperature: Temperature = 0.7
    """As in ``describe``."""
    seed: int | None = 0
    """Seed of each request; null: none is sent."""


class CheckParams(Params):
    """Rules that code checks on every pair of question and answer."""

    per_answer: Annotated[int, Field(ge=1)] = 2
    """At most this many questions of one image have the same answer."""
    names: Literal["word", "name"] = "word"
    """What a question must not contain. word: any content word of the answer's names. name: a whole name of the answer."""
    places: bool = True
    """Reject questions that say where in the picture the answer is."""
    words: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] = (4, 45)
    """Fewest and most words of a question."""
    across: bool = True
    """Reject a question that another image has with the same answer, as it is not about its image. false: only compare within
    an image."""
    near: Fraction = 0.9
    """Questions whose texts have at least this similarity (cosine) are near-duplicates (stages/questions/near.py)."""
    embeddings: Key | None = None
    """A key of ``models`` whose endpoint embeds texts, for near-duplicates; null: character n-grams, which need no model."""
    protected: tuple[str, ...] = ()
    """Splits of section data whose questions must not come up again, such as reasonseg/val and reasonseg/test."""
    allow_incomplete: bool = False
    """Keep a question whose answer the image may show more often than annotated."""
    per_category: Annotated[int, Field(ge=1)] | None = None
    """At most this many questions in the whole set have the same category as answer. null: no bound."""

    @field_validator("words")
    @classmethod
    def _ordered(cls, value: tuple[int, int]) -> tuple[int, int]:
        if value[1] < value[0]:
            raise ValueError(f"found {list(value)}, expected the smaller number first")
        return value


class VerifyParams(Asking):
    """A second model looks at picture, answer and question."""

    prompt: Template = "verify-1"
    """As in ``describe``."""
    side_px: SidePx = 768
    """Limit for the longer side of the picture with the outlined answer, in px."""
    crop_px: SidePx = 384
    """Limit for the longer side of the crop around the answer, in px."""
    control: bool = True
    """Also ask without the picture, and flag questions that are still answered correctly."""
    control_prompt: Template = "control-1"
    """Template of the control."""
    reject_blind: bool = False
    """Reject flagged questions instead of only marking them."""
    person: str | None = None
    """A file of a person's decisions, saved by the pages of ``questions --sheet``; they override the verifier's."""
    max_tokens: Tokens = 256
    """As in ``describe``."""


class RephraseParams(Asking):
    """More texts for each target: rephrased questions, answers in words, false premises, questions with several answers."""

    prompt: Template = "rephrase-1"
    """As in ``describe``."""
    texts: Annotated[int, Field(ge=1, le=5)] = 5
    """Texts per target, including the question itself (LISA's appendix: up to five)."""
    answers: bool = False
    """Also ask for an answer in words (ELISA)."""
    absent: Annotated[int, Field(ge=0, le=5)] = 0
    """False premises per image, of categories that are verified absent (SESAME)."""
    several: Annotated[int, Field(ge=0, le=5)] = 0
    """Questions per image whose answer is several objects (GSVA, MUSE)."""
    temperature: Temperature = 0.7
    """As in ``describe``."""


class QuestionSetParams(Params):
    """One set of questions, an entry of section ``questions``. Its data set is the entry of section ``data`` with the same name, of
    the format generated."""

    of: Annotated[tuple[str, ...], Field(min_length=1)]
    """Splits with annotated instances that questions are made about, such as lvis/train. All hold or borrow pictures of one data
    set."""
    exhaustive: bool = False
    """true: every image is annotated with all categories of the source, as with COCO's 80: a category without an annotation is
    absent, and false premises may ask for it. false: only categories in ``neg_category_ids`` count as absent (LVIS, with
    ``absent: true`` in its entry of section data)."""
    models: Annotated[dict[Key, ModelParams], Field(min_length=1)]
    """Models by names of your own."""
    choose: ChooseParams = ChooseParams()
    """Which images questions are made about."""
    describe: DescribeParams = DescribeParams()
    """Step describe."""
    ask: AskParams
    """Step ask."""
    check: CheckParams = CheckParams()
    """Rules that every pair of question and answer must follow."""
    verify: VerifyParams = VerifyParams()
    """Step verify."""
    rephrase: RephraseParams = RephraseParams()
    """Step rephrase."""
    splits: Annotated[dict[Name, Annotated[float, Field(gt=0)]], Field(min_length=1)] = Field(
        default_factory=lambda: {"train": 11.0, "val": 1.0, "test": 2.0}
    )
    """Shares of the images by split, drawn by the digest of the picture; default: LLM-Seg40K's 11 : 1 : 2."""
    journal: str | None = None
    """Folder that keeps all requests and answers, so that nothing is asked twice. null: next to the root of the data set, with
    ``.journal`` after its name."""
    budget_usd: Usd | None = None
    """The most that all requests together may cost; each is counted before it is sent. null: no bound."""

    @model_validator(mode="after")
    def _models_are_known(self) -> QuestionSetParams:
        used = {f"{step}.model": getattr(self, step).model for step in ("describe", "ask", "verify", "rephrase")}
        used["check.embeddings"] = self.check.embeddings
        for name, model in used.items():
            if model is not None and model not in self.models:
                raise ValueError(f"{name}: found {model!r}, expected one of models: {', '.join(self.models)}")
        if self.ask.model is None:
            raise ValueError(f"ask.model: missing, expected one of models: {', '.join(self.models)}")
        unpriced = [
            name
            for name, model in self.models.items()
            if self.budget_usd is not None and None in (model.usd_per_million_input, model.usd_per_million_output)
        ]
        if unpriced:
            raise ValueError(
                f"budget_usd: {self.budget_usd} cannot be kept without prices; expected usd_per_million_input and "
                f"usd_per_million_output of models.{', models.'.join(unpriced)} (0 for a model of your own)"
            )
        return self
