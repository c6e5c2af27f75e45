"""The steps between the chosen images and the questions that are kept, each over all images before the next."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from stages.questions.ask import ask_request
from stages.questions.describe import describe_request, read_description
from stages.questions.items import Made, Origin, Pair, Reason, Rejected, Scene, Thing, Verdict
from stages.questions.near import distinct, leaked, within_quota
from stages.questions.params import QuestionSetParams
from stages.questions.parse import parse_pairs
from stages.questions.premises import absent_names, absent_request, read_absent
from stages.questions.rephrase import TextGroup, answer_request, read_answer, read_rephrased, rephrase_request
from stages.questions.requests import Answer, Reply, Request
from stages.questions.rules import check, check_text, rejection
from stages.questions.several import read_several, several_request
from stages.questions.sheet import Decision
from stages.questions.verify import control_request, outcome, read_control, read_verdict, verify_request

Summary = str | Sequence[str]
"""A description, or tags; may be empty."""


@dataclass(frozen=True)
class Tools:
    """What the steps need besides their parameters.

    Args:
        ask: (key of a model in the params, requests) -> replies in their order.
        mask: COCO RLE counts of the union of some categories of an image, by their labels.
        embed: texts -> vectors float32 [N, D]; None: near-duplicates are found without a model.
        stored: image_id -> description or tags, if these are not asked for.
        protected: questions that must not be repeated.
        decisions: ``image_id/number`` -> what a person decided.
    """

    ask: Callable[[str, Iterable[Request]], list[Reply]]
    mask: Callable[[Scene, Sequence[str]], str]
    embed: Callable[[Sequence[str]], object] | None = None
    stored: Mapping[str, Summary] | None = None
    protected: Sequence[str] = ()
    decisions: Mapping[str, Decision] = field(default_factory=dict)


@dataclass
class Work:
    """What is known during a run.

    Args:
        origins: of each pair. verdicts: of each pair. usd: the cost of requests, by (image, pair) or (image, None).
        decided: ids of questions that a person's decision applied to.
        numbers: image_id -> how many numbers are used by its pairs, kept or rejected.
    """

    scenes: Mapping[str, Scene]
    rejected: list[Rejected] = field(default_factory=list)
    origins: dict[tuple[str, int], Origin] = field(default_factory=dict)
    verdicts: dict[tuple[str, int], tuple[Verdict, ...]] = field(default_factory=dict)
    usd: defaultdict[tuple[str, int | None], float] = field(default_factory=lambda: defaultdict(float))
    numbers: Counter[str] = field(default_factory=Counter)
    decided: set[str] = field(default_factory=set)

    def paid(self, image_id: str, number: int | None, reply: Reply) -> None:
        """Count what a request cost."""
        if isinstance(reply, Answer):
            self.usd[image_id, number] += reply.usd


def make(scenes: Sequence[Scene], params: QuestionSetParams, tools: Tools) -> tuple[list[Made], Work]:
    """Make questions about images; return those that are kept, in the order of the images, and all that was rejected."""
    work = Work({scene.image_id: scene for scene in scenes})
    summaries = describe(scenes, params, tools, work)
    pairs = ask(scenes, summaries, params, tools, work)
    pairs = without_duplicates(pairs, params, tools, work)
    pairs = verify(pairs, params, tools, work)
    made = [*reword(pairs, params, tools, work), *premises(scenes, summaries, params, tools, work)]
    made = without_leaks(made, params, tools, work)
    place = {scene.image_id: number for number, scene in enumerate(scenes)}
    return with_costs(sorted(made, key=lambda each: (place[each.image_id], each.number)), work), work


def describe(scenes: Sequence[Scene], params: QuestionSetParams, tools: Tools, work: Work) -> dict[str, Summary]:
    """image_id -> what the image shows; images for which the model gave no description are rejected."""
    if tools.stored is not None:
        return {scene.image_id: tools.stored[scene.image_id] for scene in scenes}
    if params.describe.model is None:
        return {scene.image_id: "" for scene in scenes}
    model = params.models[params.describe.model].model
    replies = tools.ask(params.describe.model, (describe_request(scene, params.describe, model) for scene in scenes))
    found: dict[str, Summary] = {}
    for scene, reply in zip(scenes, replies, strict=True):
        work.paid(scene.image_id, None, reply)
        said = read_description(scene.image_id, reply)
        if isinstance(said, Rejected):
            work.rejected.append(said)
        else:
            found[scene.image_id] = said
    return found


def ask(
    scenes: Sequence[Scene], summaries: Mapping[str, Summary], params: QuestionSetParams, tools: Tools, work: Work
) -> list[Pair]:
    """Pairs that obey all rules: first those with one object as answer, then those with several."""
    asked = [scene for scene in scenes if scene.image_id in summaries]
    assert params.ask.model is not None, "QuestionSetParams says so"
    model = params.models[params.ask.model].model
    requests = [ask_request(scene, summaries[scene.image_id], params.ask, model) for scene in asked]
    of_image: dict[str, list[Pair]] = {}
    for scene, request, reply in zip(asked, requests, tools.ask(params.ask.model, requests), strict=True):
        pairs, rejected = parse_pairs(scene.image_id, reply, scene.things)
        of_image[scene.image_id] = _noted(work, pairs, rejected, request, reply)
    if params.rephrase.model is not None and params.rephrase.several:
        asked = [scene for scene in asked if len(scene.things) > 1]
        model = params.models[params.rephrase.model].model
        requests = [several_request(scene, summaries[scene.image_id], params.rephrase, model) for scene in asked]
        for scene, request, reply in zip(asked, requests, tools.ask(params.rephrase.model, requests), strict=True):
            first = work.numbers[scene.image_id]
            found = read_several(reply, scene, params.rephrase, params.check, first)
            of_image[scene.image_id] += _noted(work, *found, request, reply)
    kept = []
    for image_id, pairs in of_image.items():
        good, rejected = check(pairs, work.scenes[image_id].things, params.check)
        work.rejected += rejected
        kept += good
    return kept


def without_duplicates(pairs: Sequence[Pair], params: QuestionSetParams, tools: Tools, work: Work) -> list[Pair]:
    """Pairs whose question repeats neither another nor a protected one, within the quota of each category."""
    vectors = {}
    if tools.embed is not None and pairs:
        found = tools.embed([*(pair.question for pair in pairs), *tools.protected])
        vectors = {"vectors": found[: len(pairs)], "protected_vectors": found[len(pairs) :]}  # type: ignore[index]
    kept, again = distinct(pairs, params.check, tools.protected, **vectors)
    kept, over = within_quota(kept, params.check.per_category)
    work.rejected += [*again, *over]
    return kept


def verify(pairs: Sequence[Pair], params: QuestionSetParams, tools: Tools, work: Work) -> list[Pair]:
    """Pairs accepted by the verifier, and by a person if one decided. Questions that a person edited are checked again."""
    if params.verify.model is not None:
        model = params.models[params.verify.model].model
        looks = (verify_request(pair, *_seen(pair, tools, work), params.verify, model) for pair in pairs)
        for pair, reply in zip(pairs, tools.ask(params.verify.model, looks), strict=True):
            _add(work, pair, reply, read_verdict(reply, model))
        if params.verify.control:
            guesses = (control_request(pair, work.scenes[pair.image_id], params.verify, model) for pair in pairs)
            for pair, reply in zip(pairs, tools.ask(params.verify.model, guesses), strict=True):
                _add(work, pair, reply, read_control(reply, pair, work.scenes[pair.image_id], model))
    kept = []
    for pair in pairs:
        decision, fault = tools.decisions.get(_name(pair)), None
        if decision is not None and decision.is_about(pair.question):
            work.decided.add(_name(pair))
            work.verdicts[_key(pair)] = (*work.verdicts.get(_key(pair), ()), decision.verdict)
            if decision.question is not None and decision.decision == "keep":
                pair = replace(pair, question=decision.question)
                fault = _fault(pair, params, work)
        reason = outcome(work.verdicts.get(_key(pair), ()), params.verify) or fault
        if reason is None:
            kept.append(pair)
        else:
            work.rejected.append(rejection(pair, reason))
    return kept


def reword(pairs: Sequence[Pair], params: QuestionSetParams, tools: Tools, work: Work) -> list[Made]:
    """A target for each pair, and a second one if some of its texts are not sentences; with answers in words if asked for."""
    texts: dict[tuple[str, int], tuple[TextGroup, ...]]
    texts = {_key(pair): (TextGroup(True, (pair.question,)),) for pair in pairs}
    words: dict[tuple[str, int], str] = {}
    if params.rephrase.model is not None:
        model = params.models[params.rephrase.model].model
        if params.rephrase.texts > 1:
            requests = (rephrase_request(pair, params.rephrase, model) for pair in pairs)
            for pair, reply in zip(pairs, tools.ask(params.rephrase.model, requests), strict=True):
                work.paid(*_key(pair), reply)
                groups, rejected = read_rephrased(reply, pair, _things(pair, work), params.rephrase, params.check)
                texts[_key(pair)] = groups
                work.rejected += rejected
        if params.rephrase.answers:
            requests = (answer_request(pair, _things(pair, work), params.rephrase, model) for pair in pairs)
            for pair, reply in zip(pairs, tools.ask(params.rephrase.model, requests), strict=True):
                work.paid(*_key(pair), reply)
                said = read_answer(reply, pair, _things(pair, work))
                if isinstance(said, Rejected):
                    work.rejected.append(said)
                else:
                    words[_key(pair)] = said
    return [
        Made(
            pair.image_id,
            pair.number,
            group.texts,
            group.is_sentence,
            "several" if len(pair.labels) > 1 else "generated",
            pair.labels,
            work.origins[_key(pair)],
            answer=words.get(_key(pair)),
            incomplete=any(thing.incomplete for thing in _things(pair, work)),
            verdicts=work.verdicts.get(_key(pair), ()),
        )
        for pair in pairs
        for group in texts[_key(pair)]
    ]


def premises(
    scenes: Sequence[Scene], summaries: Mapping[str, Summary], params: QuestionSetParams, tools: Tools, work: Work
) -> list[Made]:
    """Questions about what images do not show."""
    if params.rephrase.model is None or not params.rephrase.absent:
        return []
    model = params.models[params.rephrase.model].model
    asked = [
        (scene, name)
        for scene in scenes
        if scene.image_id in summaries and scene.things
        for name in absent_names(scene, params.rephrase.absent)
    ]
    requests = [absent_request(scene, name, summaries[scene.image_id], params.rephrase, model) for scene, name in asked]
    made = []
    for (scene, name), request, reply in zip(asked, requests, tools.ask(params.rephrase.model, requests), strict=True):
        found = read_absent(reply, scene, name, params.check)
        if isinstance(found, Rejected):
            work.rejected.append(found)
            continue
        assert isinstance(reply, Answer), "what is not answered is rejected"
        number = work.numbers[scene.image_id]
        work.numbers[scene.image_id] += 1
        work.paid(scene.image_id, number, reply)
        texts, origin = (found.question,), _origin(request, reply)
        made.append(Made(scene.image_id, number, texts, True, "absent", (), origin, correction=found.correction))
    return made


def without_leaks(made: Sequence[Made], params: QuestionSetParams, tools: Tools, work: Work) -> list[Made]:
    """The questions without texts that are nearly protected ones: rephrasings, false premises and edits are new texts."""
    texts = [text for each in made for text in each.texts]
    found = iter(range(len(texts)))
    gone = leaked(texts, tools.protected, params.check.near)
    kept = []
    for each in made:
        places = {place: text for text, place in zip(each.texts, found, strict=False)}
        good = tuple(text for place, text in places.items() if place not in gone)
        work.rejected += [
            Rejected(each.image_id, each.number, Reason.LEAKED, text, gone[place])
            for place, text in places.items()
            if place in gone
        ]
        kept += [replace(each, texts=good)] if good else []
    return kept


def with_costs(made: Sequence[Made], work: Work) -> list[Made]:
    """The questions, each with the cost of its own requests and its share of those about its image."""
    shares = Counter(each.image_id for each in made)
    own = Counter((each.image_id, each.number) for each in made)
    return [
        replace(
            each,
            usd=round(
                work.usd[each.image_id, each.number] / own[each.image_id, each.number]
                + work.usd[each.image_id, None] / shares[each.image_id],
                9,
            ),
        )
        for each in made
    ]


def _noted(
    work: Work, pairs: Sequence[Pair], rejected: Sequence[Rejected], request: Request, reply: Reply
) -> list[Pair]:
    """The pairs, after recording everything that was said about their image."""
    image_id = request.subject
    work.paid(image_id, None, reply)
    work.rejected += rejected
    said = [pair.number for pair in pairs] + [each.number for each in rejected if each.number is not None]
    work.numbers[image_id] = max([*said, work.numbers[image_id] - 1]) + 1
    if isinstance(reply, Answer):
        origin = _origin(request, reply)
        work.origins |= {_key(pair): origin for pair in pairs}
    return list(pairs)


def _add(work: Work, pair: Pair, reply: Reply, verdict: Verdict) -> None:
    work.paid(*_key(pair), reply)
    work.verdicts[_key(pair)] = (*work.verdicts.get(_key(pair), ()), verdict)


def _fault(pair: Pair, params: QuestionSetParams, work: Work) -> Reason | None:
    """The rule that a pair breaks now that a person has edited it."""
    return next(filter(None, (check_text(pair.question, thing, params.check) for thing in _things(pair, work))), None)


def _seen(pair: Pair, tools: Tools, work: Work) -> tuple[Scene, str]:
    scene = work.scenes[pair.image_id]
    return scene, tools.mask(scene, pair.labels)


def _things(pair: Pair, work: Work) -> list[Thing]:
    known = {thing.label: thing for thing in work.scenes[pair.image_id].things}
    return [known[label] for label in pair.labels]


def _origin(request: Request, answer: Answer) -> Origin:
    messages = [[message.role, message.text] for message in request.messages]
    return Origin(json.dumps(messages, ensure_ascii=False), answer.text, answer.model)


def _key(pair: Pair) -> tuple[str, int]:
    return pair.image_id, pair.number


def _name(pair: Pair) -> str:
    return f"{pair.image_id}/{pair.number}"
