"""LLM-Seg and LISA answer: in both modes, several [SEG], rejection, and a whole run without a vision backbone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip.transformer
import pytest
import segment_anything.modeling
import torch
import transformers
from factory import Known

from stages.encoders import dinov2_vit
from stages.evaluate import score
from stages.train import run
from stages.train.folder import held
from stages.train.language.seg_text import evaluation, given
from stages.train.llmseg.selector import select
from store import rle
from store.split import Split

BOTH = pytest.mark.parametrize("name", ["llmseg", "lisa"])


@pytest.fixture
def backbones(seg_params: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """System -> its params, and from here on every vision backbone raises when it is made."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a vision backbone was built")

    params = {name: seg_params(name) for name in ("llmseg", "lisa")}
    for kind in (
        segment_anything.modeling.ImageEncoderViT,
        open_clip.transformer.VisionTransformer,
        dinov2_vit.DINOv2,
        transformers.CLIPVisionModel,
    ):
        monkeypatch.setattr(kind, "__init__", refuse)
    return params


def says(system: Any, monkeypatch: pytest.MonkeyPatch, answers: list[list[int]]) -> None:
    """Makes the language model generate these ids."""
    end, fill = system.tokenizer.eos_token_id, system.tokenizer.pad_token_id
    longest = max(map(len, answers)) + 1
    rows = torch.tensor([[*row, end, *[fill] * (longest - 1 - len(row))] for row in answers])
    monkeypatch.setattr(
        system.model, "generate", lambda input_ids, **how: torch.cat([input_ids, rows[: len(input_ids)]], 1)
    )


def only(batch: dict[str, Any], number: int) -> dict[str, Any]:
    return {key: value[number : number + 1] for key, value in batch.items()}


def small(found: Any, want: Any) -> bool:
    """Whether a prediction is in the frame of 4 x 6 px, and what was asked for by name."""
    return found.target_id == want and (found.segmentation is None or rle.decode(found.segmentation, 4, 6).any())


@BOTH
@pytest.mark.parametrize("mode", ["generated", "teacher_forced"])
def test_every_target_gets_an_answer_in_its_frame(
    name: str, mode: str, seg_system: Callable[..., Any], seg_batch: Callable[..., Any], seg_store: Known
) -> None:
    system = seg_system(name, strategy="top1") if name == "llmseg" else seg_system(name)
    batch = seg_batch(system, training=False)
    found = system.predict(batch, mode)
    targets = [target["target_id"] for rows in seg_store.targets for target in rows]
    assert all(small(*pair) for pair in zip(found, targets, strict=True))
    assert [one.text_index for one in found] == [0] * len(targets)
    if mode == "teacher_forced":
        assert {one.answer for one in found} == {given("")}
        assert not any(one.rejected for one in found)
    if name == "lisa":
        assert {one.chosen for one in found} == {None}
        return
    for one, image in zip(found, batch["image_index"].tolist(), strict=True):
        masks = seg_store.masks[image]
        assert one.chosen is not None
        assert len(one.chosen) == (1 if masks and mode == "teacher_forced" else len(one.chosen))
        want = np.any([masks[k] for k in one.chosen], axis=0) if one.chosen else np.zeros((4, 6), bool)
        got = rle.decode(one.segmentation, 4, 6) if one.segmentation else np.zeros((4, 6), bool)
        assert np.array_equal(got, want)


@BOTH
def test_generated_words_do_not_depend_on_the_batch(
    name: str, seg_system: Callable[..., Any], seg_batch: Callable[..., Any]
) -> None:
    system = seg_system(name, family="llama", max_new_tokens=8)
    batch = seg_batch(system, training=False)
    together = system.predict(batch)
    assert len({one.answer for one in together}) > 3
    assert [system.predict(only(batch, number))[0] for number in range(len(together))] == together


@BOTH
@pytest.mark.parametrize("mode", ["generated", "teacher_forced"])
def test_masks_do_not_depend_on_the_batch(
    name: str, mode: str, seg_system: Callable[..., Any], seg_batch: Callable[..., Any]
) -> None:
    system = seg_system(name, max_new_tokens=4)
    with torch.no_grad():  # [SEG] outshines all other words, so that there is something to compare
        system.model.words[0] = 20 * torch.randn(32, generator=torch.Generator().manual_seed(0))
    batch = seg_batch(system, training=False)
    together = system.predict(batch, mode)
    assert any(one.segmentation for one in together)
    assert any("[SEG]" in one.answer for one in together)
    for number in range(0, len(together), 3):
        assert system.predict(only(batch, number), mode) == [together[number]]


def test_the_teacher_forced_state_is_that_before_seg(
    seg_system: Callable[..., Any], seg_batch: Callable[..., Any]
) -> None:
    system = seg_system("llmseg", strategy="top1", geometry=False)
    batch = seg_batch(system, training=False)
    found = system.predict(batch, "teacher_forced")
    for number in (3, 7):
        question = evaluation(batch["texts"][number][0], bool(batch["is_sentence"][number]))
        ids = system.words.encode([(question, given(""))], system.tokens).ids
        before = ids[: ids.index(system.seg)]
        with torch.no_grad():
            features = batch["features"][number : number + 1]
            hidden = system.model(input_ids=torch.tensor([before]), pixel_values=features).hidden_states[0]
            masks, valid = batch["masks"][number : number + 1], batch["masks_mask"][number : number + 1]
            picked = select(system.selector(masks, valid, hidden[:, -1], torch.tensor([0])), "top1")
        assert tuple(torch.nonzero(picked[0])[:, 0].tolist()) == found[number].chosen


@BOTH
def test_rejected_silent_and_several(
    name: str,
    seg_system: Callable[..., Any],
    seg_batch: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    system = seg_system(name, strategy="top1") if name == "llmseg" else seg_system(name)
    batch, seg, rej = seg_batch(system, training=False), system.seg, system.rej
    full = 5  # a target of an image with masks
    word, comma = system.tokenizer("key ,", add_special_tokens=False)["input_ids"][:2]

    def answer(*ids: int) -> Any:
        says(system, monkeypatch, [list(ids)])
        (found,) = system.predict(only(batch, full))
        return found

    nothing = None if name == "lisa" else ()
    refused = answer(word, rej)
    assert (refused.rejected, refused.segmentation, refused.chosen) == (True, None, nothing)
    assert refused.answer.endswith("[REJ]")
    silent = answer(word)
    assert (silent.rejected, silent.segmentation, silent.chosen) == (False, None, nothing)
    one, both = answer(seg), answer(seg, comma, seg, rej)
    assert not both.rejected  # it names something
    assert both.answer.count("[SEG]") == 2
    first, union = (rle.decode(found.segmentation, 4, 6) for found in (one, both))
    assert (union | first == union).all()
    if name == "llmseg":
        assert set(one.chosen) <= set(both.chosen)
    says(system, monkeypatch, [[rej] if k % 2 else [seg] * (k % 4) for k in range(len(batch["id"]))])
    found = system.predict(batch)
    assert [answered.rejected for answered in found] == [bool(k % 2) for k in range(len(found))]


def test_the_union_of_lisas_masks_is_theirs(
    seg_system: Callable[..., Any], seg_batch: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    system = seg_system("lisa")
    batch, owner = seg_batch(system, training=False), torch.tensor([0, 2, 2, 2, 8])
    noise = torch.randn(5, 128, 128, generator=torch.Generator().manual_seed(0)) - 0.1
    monkeypatch.setattr(system.decoder, "decode", lambda *inputs: noise)
    found = system.masks(batch, torch.zeros(5, 32), owner)
    whole = system.decoder(torch.zeros(5, 32), owner, batch["sam"], system.sizes(batch))
    for (counts, chosen), logits in zip(found, whole, strict=True):
        assert chosen is None
        got = rle.decode(counts, 4, 6) if counts else np.zeros((4, 6), bool)
        assert np.array_equal(got, (logits > 0).any(0).numpy())
    three = (whole[2] > 0).sum((1, 2)).tolist()
    assert max(three) < rle.area(found[2][0]) < 24


@pytest.mark.parametrize(("strategy", "threshold"), [("iop", 0.0), ("top5_and_iop", 0.0), ("iop", 1.0)])
def test_llmsegs_strategies_choose_proposals(
    strategy: str, threshold: float, seg_system: Callable[..., Any], seg_batch: Callable[..., Any], seg_store: Known
) -> None:
    system = seg_system("llmseg", strategy=strategy, threshold=threshold, top_k=16)
    batch = seg_batch(system, training=False)
    for one, image in zip(system.predict(batch, "teacher_forced"), batch["image_index"].tolist(), strict=True):
        offered = len(seg_store.masks[image][:16])
        want = 0 if threshold == 1.0 else min(offered, 5 if strategy.startswith("top5") else 16)
        assert len(one.chosen or ()) == want
        masks = [seg_store.masks[image][k] for k in one.chosen or ()]
        union = rle.encode(np.any(masks, axis=0)) if masks else None
        assert one.segmentation == union


@BOTH
@pytest.mark.parametrize(
    "recipe",
    [
        {},  # 4 bit answers on a CPU in blocks of 64 weights, which is wider than this model
        {"base": "8bit", "optimizer": "adamw_bnb_8bit", "gradient_checkpointing": True},
    ],
    ids=["the demo's", "as for a GPU"],
)
def test_a_run_from_the_store_alone(
    name: str,
    recipe: dict[str, Any],
    backbones: dict[str, Any],
    seg_split: Split,
    sam_weights: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    params, out = backbones[name].model_copy(update=recipe), tmp_path / "out"
    out.mkdir()
    run.train(params, name, {"val": seg_split}, out, "cpu", sam_weights)
    found = held(out)
    assert found is not None
    assert found.finished
    assert not {path.suffix for path in out.rglob("*")} & {".bin", ".pt", ".pth"}
    systems = [run.restore(params, name, seg_split, out, "cpu", sam_weights) for _ in range(2)]
    for mode in ("generated", "teacher_forced"):
        first, again = (list(run.predict(system, seg_split, 4, mode)) for system in systems)  # type: ignore[arg-type]
        assert first == again
        assert len(first) == 9


def test_elisa_has_no_teacher_forced_mode() -> None:
    with pytest.raises(ValueError, match="mode: found 'teacher_forced'"):
        run.system_class("elisa").predict(object(), {}, "teacher_forced")  # type: ignore[arg-type]


def test_annotated_instances_may_be_offered(seg_system: Callable[..., Any], seg_split: Split) -> None:
    """ELISA's published choices are among proposals and instances; LISA chooses none."""
    system = seg_system("llmseg", strategy="top1")
    found = list(run.predict(system, seg_split, mode="teacher_forced", setting="proposals+gt"))
    score(seg_split, found, setting="proposals+gt", top_k=system.own.top_k)
    assert any(number < 0 for answer in found for number in answer.chosen or ())
    with pytest.raises(ValueError, match=r"setting: found proposals\+gt, but it chooses no proposals"):
        next(run.predict(seg_system("lisa"), seg_split, setting="proposals+gt"))
