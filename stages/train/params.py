"""Section ``train`` of the params: what all systems have, and a section for each system. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from stages.fields import Dense, Fraction, Key, Name, Params

Positive = Annotated[float, Field(gt=0)]
Below1 = Annotated[float, Field(ge=0, lt=1)]

SINCE = (
    "adam_betas", "dense", "draw", "elisa.targets", "epoch_samples", "leaks", "leaks_pixels", "lisa.form", "llmseg.form",
    "max_steps", "max_text_tokens", "mixture", "prompts", "questions", "save_steps", "schedule_options", "start", "warmup_steps",
    "weight_decay",
)  # fmt: skip
"""Parameters that were added after trainings had been recorded. One that has its default is left out of a run's digest, as the
default means what was done before. A default never changes: else a params file that does not name it would mean another run."""
HOW = ("report_to", "save_steps")
"""Parameters that decide neither what a run becomes nor what it answers."""


class LoraParams(Params):
    """LoRA on the language model's layers (peft)."""

    r: Annotated[int, Field(ge=1)] = 16
    """Rank."""
    alpha: Positive = 32
    """Updates are scaled by alpha / r."""
    dropout: Fraction = 0.0
    """Dropout of what enters LoRA."""
    targets: tuple[str, ...] = ("q_proj", "v_proj")
    """Linear layers of the language model, by the end of their names."""


class AdapterParams(Params):
    """ELISA's adapter from mask embeddings to words."""

    variant: Literal["mlp", "query"] = "mlp"
    """One hidden layer, or learned queries over parallel views."""
    expand: Annotated[int, Field(ge=1)] = 2
    """Hidden width, as a multiple of the language model's."""
    dropout: Fraction = 0.2
    """Dropout in the hidden layer."""
    noise: Annotated[float, Field(ge=0)] = 1e-6
    """Standard deviation of the noise after the first norm."""


class AlignParams(Params):
    """Pre-training of ELISA's adapter on the words of what masks show (stages/train/elisa/align.py)."""

    epochs: Annotated[int, Field(ge=1)]
    """Passes over the targets."""
    learning_rate: Positive
    """Learning rate of AdamW, constant."""
    temperature: Positive
    """Cosines are divided by this."""


class ElisaParams(Params):
    """ELISA: masks are words of the language model's vocabulary."""

    mask_encoder: Name = "alphaclip_vit_b16_mask_only"
    """Name of the mask encoder: masks are read from the column centered/MEAN/mask_embeddings/NAME, where MEAN is ``train.mean``."""
    top_k: Annotated[int, Field(ge=1)] = 30
    """This many of the largest proposals are offered."""
    drop_near_gt: Fraction | None = 0.95
    """In training, proposals with a larger IoU with an annotated instance are left out; null: none."""
    with_gt: bool = True
    """In training, annotated instances are offered next to the proposals."""
    positive_iou: Fraction = 0.5
    """A proposal is an answer when its IoU with one of the target's instances is at least this; not used with targets:
    ground_truth."""
    targets: Literal["proposals", "ground_truth"] = "proposals"
    """What an answer names in training. proposals (default): every candidate that is right. ground_truth: only annotated instances,
    as released; proposals are then offered, but never an answer, however well they fit (needs with_gt)."""
    geometry: bool = False
    """The adapter also gets a mask's position and size (ours; ELISA's vectors do not contain positions)."""
    adapter: AdapterParams = AdapterParams()
    """The adapter, which maps mask embeddings to words."""
    align: AlignParams | None = None
    """Pre-training of the adapter; null: none, as released."""
    position: Literal["before", "after", "randomized"] = "randomized"
    """Whether the masks come before or after the explanatory answer."""
    text: bool = True
    """Whether an answer has words around its masks."""
    token_dropout: Fraction = 0.2
    """Share of text tokens the model sees as unknown."""
    temperature: Positive = 0.1
    """Logits are divided by this in the loss."""
    mask_weight: Positive = 2.0
    """Weight of a mask that is an answer, in the loss."""
    loss_over: Literal["labels", "positions"] = "positions"
    """What the loss is averaged over. labels: the labelled tokens. positions, as released: all tokens of the answers, each
    padded to the longest answer of the batch."""
    learning_rate: Positive = 1e-3
    """Learning rate of adapter and new words."""
    lora_learning_rate: Positive = 1e-4
    """Learning rate of LoRA."""
    max_new_tokens: Annotated[int, Field(ge=1)] = 100
    """Most tokens of a generated answer."""
    beams: Annotated[int, Field(ge=1)] = 1
    """Beams of generation; 1: greedy."""
    repeats: bool = True
    """Whether a generated answer may name a mask again, as released: then it tends to repeat that mask up to max_new_tokens."""

    @model_validator(mode="after")
    def _answers_are_offered(self) -> ElisaParams:
        if self.targets == "ground_truth" and not self.with_gt:
            raise ValueError(
                "with_gt: found false with targets ground_truth, which would never be offered; expected true"
            )
        return self


class SegParams(Params):
    """What LLM-Seg and LISA have in common: a [SEG] in the answer asks for a mask."""

    one_per: Literal["target", "instance"] = "target"
    """What a [SEG] in the training answers stands for: the whole target, or one instance of it (GSVA)."""
    explanatory: Fraction | None = None
    """Of the targets with an explanatory answer, the share that is asked for the explanation alone, without a mask; half of the
    others get both. null: no explanations."""
    answers: (
        Annotated[tuple[Annotated[str, Field(pattern=r"^[^\[]*\[SEG\][^\[]*$")], ...], Field(min_length=1)] | None
    ) = None
    """Wordings of the training answers with a mask, each with one [SEG]; null: the five that were released."""
    form: Literal["lisa", "gsva", "sesame"] = "lisa"
    """How questions are asked and answered. lisa: a question for each text. gsva: in a mixture, one question for all phrases of
    a picture, and an answer that names each of them. sesame: questions that doubt whether the thing is there; a false premise
    is denied or corrected in words, without [REJ]; answers and explanatory are not used."""
    text_weight: Positive = 1.0
    """Weight of the text's cross entropy in the loss."""
    learning_rate: Positive
    """Learning rate of the new modules and of the embeddings."""
    lora_learning_rate: Positive
    """Learning rate of LoRA."""
    train_embeddings: bool = True
    """Train the language model's embeddings and lm_head, as released; the words [SEG] and [REJ] are trained in any case."""
    max_new_tokens: Annotated[int, Field(ge=1)]
    """Most tokens of a generated answer."""


class LlmSegParams(SegParams):
    """LLM-Seg: a [SEG] chooses among the proposals. The fusion's sizes are called as in stages/train/llmseg/selector.py."""

    learning_rate: Positive = 1e-4
    """Learning rate of the new modules and of the embeddings."""
    lora_learning_rate: Positive = 1e-4
    """Learning rate of LoRA."""
    max_new_tokens: Annotated[int, Field(ge=1)] = 32
    """Most tokens of a generated answer."""
    mask_encoder: Name = "dinov2_vitl14"
    """The column mask_embeddings/NAME, as stored."""
    geometry: bool = False
    """Give the model a mask's position and size in addition to its vector (ours)."""
    top_k: Annotated[int, Field(ge=1)] = 50
    """This many of the largest proposals are offered."""
    dim: Annotated[int, Field(ge=2)] = 256
    """Width of the fusion."""
    num_heads: Annotated[int, Field(ge=1)] = 8
    """Attention heads of the fusion."""
    depth: Annotated[int, Field(ge=0)] = 2
    """Blocks of the fusion."""
    mlp_dim: Annotated[int, Field(ge=1)] = 2048
    """Hidden width of the fusion's MLPs and of the similarity head."""
    heads: Literal["both", "iou", "iop"] = "both"
    """Which heads the model has (Table 2 of the paper)."""
    fusion: bool = True
    """Whether masks and text are fused (Table 2 of the paper)."""
    strategy: Literal["top1", "iop", "top1_or_iop", "top5_and_iop"] = "iop"
    """How the answer's proposals are chosen (Table 3 of the paper)."""
    threshold: Fraction = 0.5
    """Predicted IoP above which a proposal is chosen."""
    tau: Positive = 0.05
    """Temperature of both distributions in the similarity's loss."""
    align_weight: Positive = 1.0
    """Weight of the similarity's loss."""
    regression_weight: Positive = 1.0
    """Weight of the IoP's loss, on top of the factor 50 in it."""

    @model_validator(mode="after")
    def _heads_fit(self) -> LlmSegParams:
        if self.dim % self.num_heads:
            raise ValueError(f"num_heads: found {self.num_heads}, expected a divisor of dim, which is {self.dim}")
        if self.heads == "iop" and not self.fusion:
            raise ValueError("fusion: found false with heads iop, which would never see the question; expected true")
        lacking = {"iou": ("iop", "top1_or_iop", "top5_and_iop"), "iop": ("top1", "top1_or_iop", "top5_and_iop")}
        if self.strategy in lacking.get(self.heads, ()):
            raise ValueError(f"strategy: found {self.strategy}, which needs a head that heads {self.heads} leaves out")
        return self


class LisaParams(SegParams):
    """LISA: a [SEG] prompts SAM's mask decoder."""

    explanatory: Fraction | None = 0.1
    """Of the targets with an explanatory answer, the share that is asked for the explanation alone, without a mask; half of the
    others get both. null: no explanations."""
    learning_rate: Positive = 3e-4
    """Learning rate of the new modules and of the embeddings."""
    lora_learning_rate: Positive = 3e-4
    """Learning rate of LoRA."""
    max_new_tokens: Annotated[int, Field(ge=1)] = 512
    """Most tokens of a generated answer."""
    sam_model: Name = "sam_vit_h"
    """The column sam_features/NAME, and the weights of the decoder."""
    ignore: Literal["background", "excluded"] = "background"
    """What ignored pixels count as in the loss; background: as released."""
    bce_weight: Positive = 2.0
    """Weight of the pixels' binary cross entropy."""
    dice_weight: Positive = 0.5
    """Weight of Dice."""


class MixtureGroup(Params):
    """Splits that share a weight in a mixture."""

    weight: Positive
    """The group's share of the samples, relative to the weights of the other groups."""
    of: Annotated[tuple[str, ...], Field(min_length=1)]
    """Splits, as refcoco/train; each is drawn from equally often."""
    absent: Fraction | Literal["pooled", "redrawn"] = 0.0
    """How questions with a false premise are asked. A number: in this share of the samples every question has a false premise,
    in the others none has (default 0: none are asked; SESAME's ReasonSeg: 0.15). pooled: they are drawn together with the other
    questions. redrawn: as pooled, but a sample in which every question has a false premise is drawn again (GSVA)."""


class TrainParams(Params):
    """What the systems have in common."""

    llava: str = "Intel/llava-gemma-2b"
    """Folder, or id on the Hugging Face hub, of the LLaVA that is fine-tuned."""
    base: Literal["float32", "bfloat16", "8bit", "4bit"] = "4bit"
    """Type of LLaVA's weights. 8bit and 4bit (only the language model's layers) use bitsandbytes: meant for a GPU, slow on a
    CPU."""
    image_encoder: Name = "clip_vit_l14_336"
    """The column image_features/NAME: what LLaVA's vision tower would give."""
    dense: Dense = "float16"
    """The form, one of those in ``embed.dense``, in which the image's features are read (for LISA also SAM's)."""
    train: tuple[str, ...] = ()
    """Splits to train on, as demo/train; with a single data set, train is enough."""
    mean: Name | None = None
    """The train mean of the centred embeddings, by its name in section means; null, the default: the only one there is."""
    proposer: Name | None = None
    """The proposer whose masks elisa and llmseg choose from, a key of section proposers; null, the default: the first one."""
    epochs: Annotated[int, Field(ge=1)] = 50
    """Passes over the targets of the training splits."""
    batch_size: Annotated[int, Field(ge=1)] = 2
    """Targets per step and process."""
    accumulation: Annotated[int, Field(ge=1)] = 1
    """Steps per update."""
    lora: LoraParams = LoraParams()
    """LoRA of the language model."""
    optimizer: str = "adamw_bnb_8bit"
    """A name that the Trainer knows: adamw_torch, adamw_bnb_8bit, ..."""
    schedule: str = "cosine"
    """A name that the Trainer knows: cosine, linear, ..."""
    warmup: Fraction = 0.0
    """Share of the updates in which the learning rate rises; or give warmup_steps."""
    clip: Annotated[float, Field(ge=0)] = 0.0
    """Largest norm of a gradient; 0: none."""
    gradient_checkpointing: bool = True
    """Compute activations twice instead of keeping them."""
    report_to: tuple[str, ...] = ()
    """Where the Trainer reports, besides DVCLive: tensorboard, wandb, ... (install them yourself)."""
    seed: Annotated[int, Field(ge=0)] = 42
    """Seed of the order, the templates and dropout."""
    without: Literal["image", "question"] | None = None
    """Train and answer without the image or without the question: a baseline that shows how much the other alone reveals. null:
    with both."""
    elisa: ElisaParams = ElisaParams()
    """Parameters of ELISA alone."""
    llmseg: LlmSegParams = LlmSegParams()
    """Parameters of LLM-Seg alone."""
    lisa: LisaParams = LisaParams()
    """Parameters of LISA alone."""
    max_steps: Annotated[int, Field(ge=0)] = 0
    """Number of updates, which overrides ``epochs``; 0, the default: as many as the epochs take."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Number of updates in which the learning rate rises; 0, the default: ``warmup`` gives it as a share."""
    schedule_options: dict[str, float] = Field(default_factory=dict)
    """Further options of the schedule, e.g. ``min_lr_rate`` of cosine_with_min_lr; default: none."""
    adam_betas: tuple[Below1, Below1] = (0.9, 0.999)
    """Decay of the optimizer's two moments; default: PyTorch's."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled weight decay of everything that is trained; default: none."""
    save_steps: Annotated[int, Field(ge=1)] = 100
    """A checkpoint is written whenever this many updates are done, and the previous one is removed. The result stays the same."""

    mixture: dict[Key, MixtureGroup] = Field(default_factory=dict)
    """Groups of splits to train on, by name, used instead of ``train``. A sample is then a picture with at most
    ``train.questions`` questions, each a sequence of its own, and ``batch_size`` counts samples (dvlab-research/LISA,
    ``utils/dataset.py``)."""
    draw: Literal["released", "laps"] = "released"
    """How samples of a mixture are drawn. released: each independently: a group by weight, then a split of it, then a picture
    of that split. laps: groups have exact shares, and no picture of a split is drawn again before all of them were drawn."""
    questions: Annotated[int, Field(ge=1)] = 3
    """In a mixture: at most this many questions per picture."""
    epoch_samples: Annotated[int, Field(ge=0)] = 0
    """In a mixture: samples per epoch, over all processes. 0: as many as ``max_steps`` updates take."""
    max_text_tokens: Annotated[int, Field(ge=0)] = 0
    """Conversations are cut after this many tokens; the image counts as one. 0: they are not cut; LISA and LLM-Seg: 257."""

    prompts: Annotated[str, Field(min_length=1)] | None = None
    """A file with your own prompts for lisa and llmseg, in the form of stages/train/language/prompts.yaml; prompts that it
    leaves out are the released ones. null: only the released ones."""

    leaks: Literal["all", "paper", "none"] = "all"
    """Which pictures are left out of the training. all: those that other data sets have in splits for evaluation (splits whose
    name does not begin with train). paper: those that referring sets (formats refer and grefer) have in their splits val;
    they are left out of the other data sets, and stay in the referring sets (LISA's paper). none: no pictures, as LISA's code."""

    leaks_pixels: bool = False
    """Also find copies that have another name and other bytes, by their decoded pixels; every picture is read once for this."""
    start: Name | None = None
    """A finished run of the same system; this one begins with its trained weights and a fresh optimizer (the papers' "ft" rows);
    null: none."""

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits to train on."""
        return tuple(name for group in self.mixture.values() for name in group.of) or self.train

    def __hash__(self) -> int:
        return hash(self.model_dump_json())  # a dict has no hash

    @model_validator(mode="after")
    def _each_split_once(self) -> TrainParams:
        if len(set(self.splits)) != len(self.splits):
            raise ValueError(f"a split appears twice in {list(self.splits)}")
        if self.mixture and not (self.epoch_samples or self.max_steps):
            raise ValueError(
                "epoch_samples: found 0 with a mixture and no max_steps, expected how many samples an epoch has, such as "
                "epoch_samples: 1000"
            )
        return self

    @model_validator(mode="after")
    def _one_warm_up(self) -> TrainParams:
        if self.warmup and self.warmup_steps:
            raise ValueError(
                f"warmup_steps: found {self.warmup_steps} together with warmup {self.warmup}, expected one of them; set the "
                "other to 0"
            )
        return self


def overridden(params: TrainParams, changes: Mapping[str, Any]) -> TrainParams:
    """Section ``train`` with some of its values changed, sections in it key by key.

    Raises:
        pydantic.ValidationError: a name or value is wrong.
    """
    whole = {name: changes[name] for name in ("schedule_options", "mixture") if name in changes}  # their keys are free
    return TrainParams.model_validate(_merged(params.model_dump(mode="json"), changes) | whole)


def _merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(values)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged
