"""ELISA over the store: which columns it reads, batches as model inputs, the loss, and predictions that it generates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor

from stages.predictions import Prediction
from stages.train.elisa.align import align
from stages.train.elisa.text import EVALUATION, Style, conversation, drop_tokens
from stages.train.language.llava import load_llava
from stages.train.language.mask_words import REJ, MaskWords
from stages.train.language.near_words import WORDS_SEEN, nearest_rows, nearest_spelled
from stages.train.language.text import check_texts, collate, encode_prompt, pad
from stages.train.language.vision import feature_tokens
from stages.train.language.vocabulary import ExtendedLlava, NamedOnce
from stages.train.params import TrainParams
from stages.train.places import GEOMETRY, with_places
from stages.train.system import Batch, Mode, dense, dense_names, rng_of, sizes_of, text_of, union_of
from store.split import Split
from store.stream.candidates import Candidates, instance_of
from store.stream.request import companion


class Elisa:
    """A :class:`stages.train.system.System`.

    Args:
        dim: length of a mask embedding.
        most: largest number of candidates of a sample.
        tokens: patch features per image.
    """

    def __init__(self, params: TrainParams, dim: int, most: int, tokens: int, device: str) -> None:
        self.params, self.own, self.tokens, self.device = params, params.elisa, tokens, device
        sizes = {"dim_in": dim, "geometry": GEOMETRY if self.own.geometry else 0, **self.own.adapter.model_dump()}
        extra = {"words": (REJ,), "adapter": sizes}
        self.model, self.tokenizer = load_llava(params.llava, params.base, device, ExtendedLlava, extra)
        assert self.model.adapter is not None
        self.model.adapter.start_like(self.model.get_input_embeddings().weight)
        ids = self.tokenizer(" nothing", add_special_tokens=False)["input_ids"]
        self.model.start_words_like({REJ: ids})
        self.words = MaskWords(self.tokenizer, {REJ: self.model.word_id(REJ)}, self.model.first_mask, most)
        self.style = Style(self.own.position, self.own.text, self.own.token_dropout)

    @classmethod
    def build(cls, params: TrainParams, split: Split, device: str, weights: object) -> Elisa:
        """Make the system with new parameters, in the sizes of the split's columns."""
        names = cls.columns(params, training=True)
        masks, instances = (split.column(name).meta.array for name in (names["masks"], companion(names["masks"])))
        assert masks is not None
        assert instances is not None
        most = masks.row_shape[0] + instances.row_shape[0]
        return cls(params, masks.row_shape[1], most, feature_tokens(params, split), device)

    @staticmethod
    def columns(params: TrainParams, training: bool) -> dict[str, str]:
        """Keys of a batch -> what is read."""
        if params.mean is None:
            raise ValueError(
                "train.mean: found null, expected the name of a train mean: ELISA learns from centred embeddings"
            )
        shared = {
            **dense_names("features", f"image_features/{params.image_encoder}", params.dense),
            "masks": f"centered/{params.mean}/mask_embeddings/{params.elisa.mask_encoder}",
            **({"bbox": "masks.bbox"} if params.elisa.geometry else {}),
        }
        if not training:
            return {**shared, "segmentation": "masks.segmentation"}
        return {
            **shared,
            "overlap": "match/instances.iou",
            "answer": "targets.answer",
            "instances": "targets.instances",
        }

    @staticmethod
    def candidates(params: TrainParams, training: bool) -> Candidates:
        """Training may see the annotated instances; an evaluation of proposals does not."""
        own = params.elisa
        if not training:
            return Candidates(top_k=own.top_k)
        return Candidates(top_k=own.top_k, drop_near_gt=own.drop_near_gt, with_gt=own.with_gt)

    def groups(self) -> list[tuple[list[torch.nn.Parameter], float]]:
        """What is trained, each with its learning rate."""
        lora = [weight for name, weight in self.model.named_parameters() if "lora_" in name]
        assert self.model.adapter is not None
        new = [self.model.words, *self.model.adapter.parameters()]
        return [(new, self.own.learning_rate), (lora, self.own.lora_learning_rate)]

    def begin(self, batches: Callable[[], Iterable[Batch]]) -> None:
        """Pre-train the adapter where the parameters ask for it."""
        if self.own.align is not None:
            assert self.model.adapter is not None
            align(self.model.adapter, self.model.get_input_embeddings(), batches, self.meant, self.own.align)

    def meant(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """The masks that are answers, and the words of question and answer: :data:`stages.train.elisa.align.Pairs`."""
        check_texts(batch, self.words.tokenizer)
        masks, rows = [], []
        features = self._features(batch)["masks"].to(self.device)
        for number, positives in enumerate(self.positives(batch)):
            said = f"{batch['texts'][number][0]} {batch['answer'][number] or ''}".strip()
            masks.append(features[number][positives])
            rows += [self.tokenizer(said, add_special_tokens=False)["input_ids"]] * len(positives)
        tokens = pad(rows or [[]], self.tokenizer.pad_token_id).to(self.device)
        return torch.cat(masks), tokens, (tokens != self.tokenizer.pad_token_id).float()

    def inputs(self, batch: Batch, epoch: int) -> dict[str, Tensor]:
        """A stream's batch as the model's inputs with labels; they depend only on sample and epoch, not on earlier batches."""
        check_texts(batch, self.words.tokenizer)
        rows = []
        for number, positives in enumerate(self.positives(batch)):
            rng = rng_of(self.params, epoch, batch, number)
            text, answer = text_of(batch, number, rng), batch["answer"][number]
            turn = conversation(text, answer, positives, rng, self.style)
            rows.append(self.words.encode([turn], self.tokens))
        found = collate(rows, self.tokenizer.pad_token_id)
        return {**found, **self._features(batch)}

    def positives(self, batch: Batch) -> Iterator[list[int]]:
        """For each sample, the numbers of the candidates that are answers."""
        chosen, there = batch["candidates"], batch["masks_mask"]
        for number, wanted in enumerate(batch["instances"]):
            found = []
            for k in torch.nonzero(there[number])[:, 0].tolist():
                instance = instance_of(int(chosen[number][k]))
                if instance is not None:
                    right = instance in wanted
                elif self.own.targets == "ground_truth":
                    right = False
                else:
                    overlap = batch["overlap"][number][k]
                    right = any(float(overlap[j]) >= self.own.positive_iou for j in wanted)
                if right:
                    found.append(k)
            yield found

    def _features(self, batch: Batch) -> dict[str, Tensor]:
        masks = batch["masks"].float()
        if self.own.geometry:
            masks = with_places(masks, batch["bbox"], sizes_of(batch))
        return {
            "pixel_values": dense(batch, "features", -1).float(),
            "masks": masks,
            "masks_valid": batch["masks_mask"],
        }

    def loss(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """ELISA's loss: cross entropy over the extended vocabulary."""
        ids = inputs["input_ids"]
        if self.model.training and self.style.token_dropout:
            image = ids == self.model.config.image_token_id
            ids = drop_tokens(ids, self.style.token_dropout, self.tokenizer.unk_token_id, image)
        how = {"temperature": self.own.temperature, "row_weight": self.own.mask_weight, "over": self.own.loss_over}
        loss: Tensor = self.model(**{**inputs, "input_ids": ids}, loss_options=how).loss
        return loss

    @torch.no_grad()
    def nearest_words(self, batch: Batch, count: int) -> dict[int, list[tuple[str, float]]]:
        """The ``count`` nearest words of the language model for each mask of a batch of one image, nearest first.

        The rows that the adapter makes of the masks are compared with the embeddings of all tokens, by their cosine, as in the
        released explorer of token similarities (DavidC001/LISA_ACV). Words that differ only by a space count once.

        Returns:
            Number of a mask -> words with their cosines.
        """
        features = self._features(batch)
        there = features["masks_valid"][0]
        assert self.model.adapter is not None
        rows = self.model.adapter(features["masks"][0][there].to(self.device, self.model.words.dtype))
        ids, cosines = nearest_rows(rows, self.model.get_input_embeddings().weight, WORDS_SEEN * count)
        numbers = batch["candidates"][0][there.cpu()].tolist()
        return {
            int(number): nearest_spelled(self.tokenizer, near, values, count)
            for number, near, values in zip(numbers, ids.tolist(), cosines.tolist(), strict=True)
        }

    @torch.no_grad()
    def predict(self, batch: Batch, mode: Mode = "generated") -> list[Prediction]:
        """Generated answers with the proposals they name."""
        if mode != "generated":
            raise ValueError(f"mode: found {mode!r}, but ELISA names masks by generating them; expected generated")
        check_texts(batch, self.words.tokenizer, first_alone=True)
        questions = [EVALUATION.format(question=texts[0]) for texts in batch["texts"]]
        prompts = [encode_prompt(self.tokenizer, question, self.tokens) for question in questions]
        ids = pad(prompts, self.tokenizer.pad_token_id, left=True).to(self.device)
        there = pad([[1] * len(prompt) for prompt in prompts], 0, left=True).to(self.device)
        features = {name: value.to(self.device) for name, value in self._features(batch).items()}
        found = self.model.generate(
            input_ids=ids,
            attention_mask=there,
            max_new_tokens=self.own.max_new_tokens,
            num_beams=self.own.beams,
            do_sample=False,
            eos_token_id=self.tokenizer.eos_token_id,
            pad_token_id=self.tokenizer.pad_token_id,
            logits_processor=[] if self.own.repeats else [NamedOnce(ids.shape[1], self.model.first_mask)],
            **features,
        )
        answers = []
        for number, row in enumerate(found[:, ids.shape[1] :].tolist()):
            text, chosen = self.words.decode(row)
            masks = tuple(int(batch["candidates"][number][k]) for k in chosen)
            rejected = REJ in text and not chosen
            answers.append(Prediction(batch["id"][number], 0, union_of(batch, number, chosen), rejected, masks, text))
        return answers
