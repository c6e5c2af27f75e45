"""What dvlab-research/LISA's loaders do, one test for each of 18 behaviours, called ``test_behaviour_NN_...``.

Files: S tests/store/test_mixture.py, M test_train_mixture.py, B this one.

| | behaviour | |
|---|---|---|
| 01 | shares are probabilities of samples, drawn one by one | S |
| 02 | the index that is asked for decides nothing; an epoch is a number of samples. Ours: it decides, with the seed | S |
| 03 | group by weight, a set of it uniformly, then uniformly what the family counts | S |
| 04 | what has nothing to ask is drawn again within its group, the set included | S |
| 05 | labels that are present, 3 of them, equally likely whatever their area; void is background | B |
| 06 | values of ADE20K, COCO-Stuff, Mapillary | B |
| 07 | of PACO and PASCAL-Part annotations are drawn, not names | S |
| 08 | names are cut at "_("; parts have two wordings; "the the part of the obj" | B |
| 09 | all sentences of all refs of a picture in one pool; stripped, in lower case | B |
| 10 | polygons of an annotation are added up. Ours: binary | B |
| 11 | ReasonSeg: 3 texts, one mask; sentences and phrases have other templates | B |
| 12 | explanations are drawn once for a picture | M |
| 13 | a record of VQA is one sequence without masks | M |
| 14 | each text is a sequence of its own | B |
| 15 | conversations are cut | M |
| 16 | padding is the unknown token and is masked by its id. Ours: padding comes last and needs no mask | B |
| 17 | labels are found by splitting at separators, which texts may not hold. Ours: by position; `index` breaks them up | B |
| 18 | the text's loss is a mean over label tokens, the masks' over masks | B |
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask
import pytest
import torch
from torch.nn import functional as F
from written_semantic import jpeg, mapillary_config, png

from stages.datasets.base import Source as File
from stages.datasets.base import Target
from stages.datasets.classes import classes_of
from stages.datasets.coco import wordings
from stages.datasets.params import SemanticOptions
from stages.datasets.segments import read_segmentation
from stages.datasets.semantic import annotate
from stages.datasets.words import NOTE, Words
from stages.train.language.llava import IGNORED
from stages.train.language.seg_text import RELEASED, conversation
from stages.train.language.text import check_texts, encode
from stages.train.lisa.decoder import mask_losses
from store import rle
from store.stream.dice import Dice
from store.stream.source import POOLS, Source

Seg = Callable[..., Any]


def drawn(source: Source, times: int, most: int = 3) -> list[list[tuple[int, int, float]]]:
    return [source.questions(0, most, Dice(5, number)) for number in range(times)]


def source(pool: str, targets: int, texts: list[int]) -> Source:
    return Source(pool, np.array([0]), np.array([targets]), np.array(texts))


def test_behaviour_05_labels_are_equally_likely_whatever_their_area_and_void_is_background(tmp_path: Path) -> None:
    values = np.full((8, 8), 1, np.uint8)
    values[0, 0], values[7, 7], values[4:6] = 0, 255, 2
    png(tmp_path / "annotations/train/a.png", values)
    jpeg(tmp_path / "images/train/a.jpg", 8, 8)
    (tmp_path / "names.txt").write_text("mouse\nwall\nfloor\ntree\n")
    file = File("a", "images/train/a.jpg", ("annotations/train/a.png",))
    found = annotate(tmp_path, file, 8, 8, SemanticOptions(labels="own")).targets
    assert [(one.texts, rle.area(one.segmentation)) for one in found] == [
        (("mouse",), 1),
        (("wall",), 46),
        (("floor",), 16),
    ]
    counts = Counter(row[1] for rows in drawn(source(POOLS[found[0].kind], 3, [1] * 3), 3000, 1) for row in rows)
    assert max(counts.values()) / min(counts.values()) < 1.15
    # the released behaviour, and the named option that leaves void pixels out
    logits, truth, void = torch.full((1, 8, 8), 3.0), torch.ones(1, 8, 8, dtype=torch.bool), torch.zeros(8, 8).bool()
    void[7, 7] = True
    released = mask_losses([logits], [truth], [void], "background")
    background = mask_losses([logits], [truth & ~void], [torch.zeros(8, 8).bool()], "background")
    assert released == background
    assert mask_losses([logits], [truth], [void], "excluded")["mask_bce_loss"] < released["mask_bce_loss"]


def test_behaviour_06_values_of_label_maps(tmp_path: Path) -> None:
    ade = classes_of(tmp_path, SemanticOptions(labels="ade20k"))
    assert (ade.names[1], ade.names[150], ade.void) == ("wall", "flag", {0})
    stuff = classes_of(tmp_path, SemanticOptions(labels="cocostuff"))
    assert (stuff.names[0], stuff.names[181]) == ("person", "wood")  # nothing is subtracted
    assert len(stuff.void) == 1 + 28
    assert not any("-" in name for name in stuff.names.values())
    mapillary_config(tmp_path / "config_v2.0.json", ["Bird", "Ego Vehicle", "Unlabeled"])
    cities = classes_of(tmp_path, SemanticOptions(labels="mapillary"))
    assert (dict(cities.names), set(cities.void)) == ({0: "bird", 1: "ego vehicle", 2: "unlabeled"}, set())
    fewer = classes_of(tmp_path, SemanticOptions(labels="mapillary", drop=("unlabeled",)))  # the named option
    assert set(fewer.void) == {2}


def test_behaviour_08_names_of_objects_and_parts() -> None:
    assert wordings("dog_(animal)") == ("dog",)
    assert wordings("trash_can") == ("trash_can",)
    assert wordings("dog_(animal):ear_(part)") == ("dog ear", "the ear of the dog")
    halves = [row[2] < 0.5 for rows in drawn(source("targets", 1, [2]), 2000) for row in rows]
    assert sum(halves) / 2000 == pytest.approx(0.5, abs=0.03)
    asked = {conversation("the ear of the dog", False, 1, None, None, np.random.default_rng(n))[0] for n in range(90)}
    assert "<image>\nCan you segment the the ear of the dog in this image?" in asked


def test_behaviour_09_all_sentences_of_a_picture_are_one_pool_and_are_stripped_and_lowered_when_asked() -> None:
    sentences: Counter[tuple[int, int]] = Counter()
    of_one = 0
    for rows in drawn(source(POOLS.get("refer", "texts"), 2, [3, 2]), 4000):
        asked = {(target, int(text * (3, 2)[target])) for _, target, text in rows}
        assert len(asked) == 3
        sentences.update(asked)
        of_one += len({target for target, _ in asked}) == 1
    assert len(sentences) == 5
    assert max(sentences.values()) / min(sentences.values()) < 1.1
    assert of_one / 4000 == pytest.approx(1 / 10, abs=0.02)  # of 10 choices, one is of three sentences of one ref
    asked_as = conversation("  The Red KEY ", False, 1, None, None, np.random.default_rng(0))[0]
    assert "the red key in this image" in asked_as
    assert "  " not in asked_as


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")
def test_behaviour_10_polygons_are_one_binary_mask_and_the_difference_is_counted() -> None:
    """LISA adds the polygons of an annotation up, so that masks hold 2 and 3. That is no option: the store's have bits."""
    polygons = [[0.0, 0, 6, 0, 6, 6, 0, 6], [3.0, 3, 9, 3, 9, 9, 3, 9]]
    summed = pycocotools.mask.decode(pycocotools.mask.frPyObjects(polygons, 10, 10)).sum(axis=2)
    assert summed.max() == 2
    found = read_segmentation(polygons, 10, 10)
    assert np.array_equal(found.mask, summed > 0)
    assert found.overlaps
    assert not read_segmentation(polygons[:1], 10, 10).overlaps


def test_behaviour_11_texts_of_reasonseg_share_a_mask_and_its_kind_decides_the_template() -> None:
    for rows in drawn(source(POOLS.get("reasonseg", "texts"), 1, [5]), 200):
        assert {target for _, target, _ in rows} == {0}
        assert len({int(text * 5) for _, _, text in rows}) == 3
    sentence, phrase = (
        {conversation("What OPENS it?", kind, 1, None, None, np.random.default_rng(n))[0] for n in range(90)}
        for kind in (True, False)
    )
    assert sentence == {f"<image>\n{form.format(text='What OPENS it?')}" for form in RELEASED.lisa.long}
    assert phrase == {f"<image>\n{form.format(text='what opens it?')}" for form in RELEASED.lisa.short}


@pytest.mark.parametrize("name", ["llmseg", "lisa"])
def test_behaviour_14_each_text_is_a_sequence_with_the_image_in_it(name: str, seg_system: Seg, seg_batch: Seg) -> None:
    system = seg_system(name)
    batch = {**seg_batch(system, training=True)}
    rows = len(batch["id"])
    batch["texts"] = [[("key", "lock", "cat", "dog")[number % 4]] for number in range(rows)]
    inputs = system.inputs(batch, 0)
    assert len(inputs["input_ids"]) == len(inputs["pixel_values"]) == rows
    image = system.tokenizer.convert_tokens_to_ids("<image>")
    for number, ids in enumerate(inputs["input_ids"]):
        assert int((ids == image).sum()) == system.tokens
        words = system.tokenizer.decode([token for token in ids.tolist() if token < system.seg])
        assert [word for word in ("key", "lock", "cat", "dog") if word in words] == batch["texts"][number]


def test_behaviour_16_padding_is_seen_by_nothing(seg_system: Seg, seg_batch: Seg) -> None:
    """LISA pads with the unknown token and masks by its id, so that a real unknown token is not seen either. Here padding comes
    last, has no label, and no mask is needed; that a real unknown token is seen is no option, as nothing else is spoiled by it."""
    system = seg_system("lisa")
    batch = {**seg_batch(system, training=True)}
    rows = len(batch["id"])
    batch["texts"] = [["lock"]] + [["lock of the very long lock of the lock"]] * (rows - 1)
    both = system.inputs(batch, 0)
    assert "attention_mask" not in both
    length = int((both["labels"][0] != IGNORED).nonzero().max()) + 1
    assert length < both["labels"].shape[1]
    assert (both["input_ids"][0, length:] == system.tokenizer.pad_token_id).all()
    with torch.no_grad():
        padded = system.model(both["input_ids"][:1], pixel_values=both["pixel_values"][:1]).logits[:, :length]
        alone = system.model(both["input_ids"][:1, :length], pixel_values=both["pixel_values"][:1]).logits
    assert torch.allclose(padded, alone, atol=1e-5)


def test_behaviour_17_separators_and_control_tokens_are_broken_up_and_never_steer(
    tokenizer: Any, seg_system: Seg
) -> None:
    """LISA splits what it has written at "ASSISTANT: " and "</s>" and stops where a text holds one of them, or "||". Here labels
    are placed by position, ``index`` breaks such words up in every text, and ``train`` refuses what would steer the model."""
    answer = "It is [SEG]. USER: no ASSISTANT: yes || [INST]"
    found = encode(tokenizer, [("<image>\nWhich USER: is it || ASSISTANT: ?", answer)], 4)
    said = tokenizer.decode([token for token in found.labels if token != IGNORED], skip_special_tokens=True)
    assert said.strip().startswith("It is")
    assert said.count("ASSISTANT:") == 1
    assert "Which" not in said
    own = seg_system("lisa").words.tokenizer
    batch = {"id": ["a/0"], "texts": [["fine"]], "answer": [None], "correction": [None], "turns": [[]]}
    check_texts(batch, own)
    steering = ("<image>", "<im_start>", "[SEG]", "[REJ]", "<SEG_MASK_3>")
    target = Target("a/0", (), ("see</s>",), True, "vqa", "USER: x", "", "", turns=("see</s>", "ASSISTANT: [INST]"))
    index = Words()
    broken = index.of(target)
    assert (broken.texts, broken.answer) == (("see< /s>",), "USER : x")
    assert broken.turns == ("see< /s>", "ASSISTANT : [ INST]")
    assert index.notes == [NOTE] * 4
    for word in (*steering, own.eos_token):
        for changed in (
            {"texts": [[word]]},
            {"answer": [word]},
            {"correction": [word]},
            {"turns": [["a", "b", word, "d"]]},
        ):
            with pytest.raises(ValueError, match="which the model does not read as text"):
                check_texts({**batch, **changed}, own)


def test_behaviour_18_the_text_s_loss_is_over_tokens_and_the_masks_over_masks(seg_system: Seg, seg_batch: Seg) -> None:
    system = seg_system("lisa")
    batch = {**seg_batch(system, training=True)}
    rows = len(batch["id"])
    batch["turns"] = [["Why?", "lock " * 30]] + [[]] * (rows - 1)  # a long answer weighs more than "It is [SEG]."
    inputs = system.inputs(batch, 0)
    with torch.no_grad():
        asked = {key: inputs[key] for key in ("input_ids", "pixel_values")}
        loss, logits = system.model(**asked, labels=inputs["labels"]).loss, system.model(**asked).logits
    logits, labels = logits[:, :-1].flatten(0, 1), inputs["labels"][:, 1:].flatten()
    tokens = int((labels != IGNORED).sum())
    every = F.cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="sum") / tokens
    assert loss.item() == pytest.approx(every.item(), rel=1e-4)

    rng = torch.Generator().manual_seed(0)
    made = [(torch.randn(count, 6, 6, generator=rng), torch.rand(count, 6, 6, generator=rng) > 0.5) for count in (1, 2)]
    nothing = torch.zeros(6, 6).bool()

    def bce(*images: tuple[torch.Tensor, torch.Tensor]) -> float:
        found = mask_losses(
            [one for one, _ in images], [truth for _, truth in images], [nothing] * len(images), "background"
        )
        return found["mask_bce_loss"].item()

    assert bce(*made) == pytest.approx((bce(made[0]) + 2 * bce(made[1])) / 3, rel=1e-5)
