"""What LLM-Seg and LISA have in common: a ``[SEG]`` in the answer, the state that predicted it, and a mask for each state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from stages.predictions import Prediction
from stages.train.language.llava import IGNORED, load_llava
from stages.train.language.mask_words import REJ, MaskWords
from stages.train.language.prompts import SEG, Evaluation, load_prompts
from stages.train.language.seg_states import seg_states
from stages.train.language.seg_text import conversation, evaluation, given, names_conversation, premise_conversation
from stages.train.language.text import IMAGE, Encoded, Turn, check_texts, collate, cut, encode_prompt, pad
from stages.train.language.vocabulary import ExtendedLlava
from stages.train.params import SegParams, TrainParams
from stages.train.system import Batch, Mode, dense, dense_names, draws_of_sample, rng_of, text_of

LABELS = ("semantic", "object", "part", "box")
"""Kinds of targets whose texts are labels."""
ALONE = ("reasonseg", "reasonseg_plus")
"""Kinds of targets that are asked one by one even if the others of a picture are asked together."""
Found = tuple[str | None, tuple[int, ...] | None]
"""COCO RLE counts of a mask (None: empty), and the numbers of the proposals it consists of (None: it is not made of proposals)."""


class SegSystem(ABC):
    """Most of a :class:`stages.train.system.System`; a subclass says which masks the states ask for.

    Args:
        own: the system's section of the params.
        tokens: patch features per image.
    """

    def __init__(self, params: TrainParams, own: SegParams, tokens: int, device: str) -> None:
        self.params, self.own, self.tokens, self.device = params, own, tokens, device
        self.prompts = load_prompts(params.prompts)
        self.model, self.tokenizer = load_llava(params.llava, params.base, device, ExtendedLlava, {"words": (SEG, REJ)})
        like = {SEG: "the segmentation mask", REJ: " nothing"}
        self.model.start_words_like(
            {word: self.tokenizer(text, add_special_tokens=False)["input_ids"] for word, text in like.items()}
        )
        self.new: list[nn.Parameter] = [self.model.words]
        if own.train_embeddings:
            tables = (self.model.get_input_embeddings(), self.model.lm_head)
            self.new += dict.fromkeys(weight for table in tables for weight in table.parameters())  # they may be tied
        self.seg, self.rej = self.model.word_id(SEG), self.model.word_id(REJ)
        self.words = MaskWords(self.tokenizer, {SEG: self.seg, REJ: self.rej}, self.model.first_mask, most=0)

    def attach(self, name: str, module: nn.Module) -> None:
        """Make ``module`` a part of the model; what requires a gradient in it is trained."""
        self.model.add_module(name, module.to(self.device))
        self.new += [weight for weight in module.parameters() if weight.requires_grad]

    @staticmethod
    def shared_columns(params: TrainParams, own: SegParams, training: bool) -> dict[str, str]:
        """Keys of a batch -> what both systems read."""
        names = dense_names("features", f"image_features/{params.image_encoder}", params.dense)
        names |= {"is_sentence": "targets.is_sentence"}
        names |= {"kind": "targets.kind"} if own.form == "gsva" else {}
        if not training:
            return names
        names |= {"correction": "targets.correction"} if own.form == "sesame" else {}
        return {**names, "answer": "targets.answer", "instances": "targets.instances", "turns": "targets.turns"}

    def groups(self) -> list[tuple[list[nn.Parameter], float]]:
        """What is trained, each with its learning rate."""
        lora = [weight for name, weight in self.model.named_parameters() if "lora_" in name]
        return [(self.new, self.own.learning_rate), (lora, self.own.lora_learning_rate)]

    def begin(self, batches: Callable[[], Iterable[Batch]]) -> None:  # noqa: B027 (nothing is what it does)
        """Does nothing: there is no pre-training."""

    def inputs(self, batch: Batch, epoch: int) -> dict[str, Any]:
        """A stream's batch as the model's inputs with labels, and the target masks; see :class:`System`."""
        check_texts(batch, self.words.tokenizer)
        one_each = self.own.one_per == "instance"
        together = self._together(batch)
        rows, wanted, owner = [], [], []
        for numbers in together:
            instances = {number: [int(j) for j in batch["instances"][number]] for number in numbers}
            masks = [len(found) if one_each else min(len(found), 1) for found in instances.values()]
            row = self.words.encode(self._turns(batch, epoch, numbers, masks), self.tokens)
            if self.params.max_text_tokens:
                row = cut(row, self.params.max_text_tokens - 1 + self.tokens)  # the image counts as one
            rows.append(row)
            said = row.labels.count(self.seg)
            for (number, found), asked in zip(instances.items(), masks, strict=True):
                here = min(asked, said)
                said -= here
                wanted.append(found[:here] if one_each else found * here)
                owner += [number] * here
        features = dense(batch, "features", -1)
        if len(together) < len(batch["id"]):
            features = features[torch.tensor([numbers[0] for numbers in together])]
        return {
            **collate(rows, self.tokenizer.pad_token_id),
            "pixel_values": features,
            "owner": torch.tensor(owner, dtype=torch.long),
            **self.wanted(batch, wanted),
        }

    def _together(self, batch: Batch) -> list[list[int]]:
        """The rows of a batch that are asked in one sequence: each by itself, or, as in GSVA, all phrases of a picture."""
        numbers = range(len(batch["id"]))
        if self.own.form != "gsva" or "sample" not in batch:
            return [[number] for number in numbers]

        def sequence(number: int) -> tuple[int, int]:
            return int(batch["sample"][number]), -1 if self._is_name(batch, number) else number

        return [list(found) for _, found in groupby(numbers, sequence)]

    def _is_name(self, batch: Batch, number: int) -> bool:
        """Whether GSVA asks a row as one of the names of its picture."""
        return not batch["is_sentence"][number] and batch["kind"][number] not in (*ALONE, "vqa")

    def _turns(self, batch: Batch, epoch: int, numbers: Sequence[int], masks: Sequence[int]) -> list[Turn]:
        """The questions and answers about rows of a batch: a question with masks, or a conversation unchanged.

        ``masks``: how many each row asks for.
        """
        number = numbers[0]
        if turns := batch["turns"][number]:
            asked, answered = list(turns[::2]), list(turns[1::2])
            asked[0] = f"{IMAGE}\n{asked[0]}"
            return list(zip(asked, answered, strict=True))
        rng = rng_of(self.params, epoch, batch, number)
        texts = [text_of(batch, each, rng) for each in numbers]
        if self.own.form == "gsva" and self._is_name(batch, number):
            labels = batch["kind"][number] in LABELS
            return [names_conversation(texts, masks, labels, rng, self.prompts.gsva)]
        question = texts[0], bool(batch["is_sentence"][number]), masks[0], batch["answer"][number]
        if self.own.form == "sesame":
            return [premise_conversation(*question, batch["correction"][number], rng, self.prompts.sesame)]
        draws = draws_of_sample(self.params, epoch, batch, number)
        alone, answers = self.own.explanatory, self.own.answers
        return [conversation(*question, alone, rng, answers, draws, self.prompts.lisa)]

    def loss(self, inputs: Mapping[str, Any]) -> Tensor:
        """Cross entropy of the text and the losses of the masks, weighted."""
        with self._autocast():
            text, states, _ = self._read(inputs)
            return self.own.text_weight * text + self.mask_loss(inputs, states, inputs["owner"].to(states.device))

    @torch.no_grad()
    def predict(self, batch: Batch, mode: Mode = "generated") -> list[Prediction]:
        """Answers to the first text of each target; the mask is the union of the masks of all [SEG] in the answer.

        Args:
            mode: "generated", or "teacher_forced": the answer "[SEG]." is given, so nothing is ever rejected.
        """
        check_texts(batch, self.words.tokenizer, first_alone=True)
        forms = [self._evaluation(batch, number) for number in range(len(batch["id"]))]
        asked = list(zip(batch["texts"], batch["is_sentence"], forms, strict=True))
        questions = [evaluation(texts[0], bool(is_sentence), form) for texts, is_sentence, form in asked]
        features = dense(batch, "features", -1).to(self.device)
        with self._autocast():
            if mode == "teacher_forced":
                answers_given = [given(texts[0], form) for texts, _, form in asked]
                turns = zip(questions, answers_given, strict=True)
                rows = [self.words.encode([turn], self.tokens) for turn in turns]
            else:
                rows = self._generate(questions, features)
            found = {name: value.to(self.device) for name, value in collate(rows, self.tokenizer.pad_token_id).items()}
            _, states, owner = self._read({**found, "pixel_values": features})
            masks = self.masks(batch, states, owner)
        answers = []
        for name, row, (segmentation, chosen) in zip(batch["id"], rows, masks, strict=True):
            said = [token for token in row.labels if token != IGNORED]
            rejected = self.seg not in said and (self.rej in said or self.own.form == "sesame")
            answers.append(Prediction(name, 0, segmentation, rejected, chosen, self.words.decode(said)[0]))
        return answers

    def _evaluation(self, batch: Batch, number: int) -> Evaluation:
        """The question for a row of a batch in evaluation."""
        if self.own.form == "gsva" and self._is_name(batch, number):
            return self.prompts.gsva.evaluation
        return (self.prompts.sesame if self.own.form == "sesame" else self.prompts.lisa).evaluation

    def _generate(self, questions: Sequence[str], features: Tensor) -> list[Encoded]:
        """The questions with greedily generated answers, whose tokens have labels."""
        prompts = [encode_prompt(self.tokenizer, question, self.tokens) for question in questions]
        ids = pad(prompts, self.tokenizer.pad_token_id, left=True)
        lengths = torch.tensor([[len(prompt)] for prompt in prompts])
        found = self.model.generate(
            input_ids=ids.to(self.device),
            attention_mask=(torch.arange(ids.shape[1]) >= ids.shape[1] - lengths).long().to(self.device),
            pixel_values=features,
            max_new_tokens=self.own.max_new_tokens,
            num_beams=1,
            do_sample=False,
            eos_token_id=self.tokenizer.eos_token_id,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        answers = found[:, ids.shape[1] :].tolist()
        return [
            Encoded([*prompt, *answer], [*[IGNORED] * len(prompt), *answer])
            for prompt, answer in zip(prompts, answers, strict=True)
        ]

    def _read(self, inputs: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        """Loss of the text, 0-d, and for every [SEG] in the answers its state, float [C, h], and its sample, int64 [C]."""
        names = ("input_ids", "pixel_values", "labels")
        outputs = self.model(**{name: inputs[name] for name in names})
        # searched in the labels, as a [SEG] in a question does not ask for a mask
        return outputs.loss, *seg_states(outputs.hidden_states[0], inputs["labels"], self.seg)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.params.base != "float32")

    @abstractmethod
    def wanted(self, batch: Batch, instances: Sequence[Sequence[int]]) -> dict[str, Any]:
        """What :meth:`mask_loss` needs from a batch: for each sample the masks that its [SEG] stand for, given by ``instances``.

        With ``one_per`` "target" that is one mask, their union as painted; without instances there is no mask.
        """

    @abstractmethod
    def mask_loss(self, inputs: Mapping[str, Any], states: Tensor, owner: Tensor) -> Tensor:
        """Weighted loss, 0-d, of the masks that states float [C, h] of samples ``owner`` int64 [C] ask for."""

    @abstractmethod
    def masks(self, batch: Batch, states: Tensor, owner: Tensor) -> list[Found]:
        """For each sample the union of the masks of its states; arguments as :meth:`mask_loss`."""
