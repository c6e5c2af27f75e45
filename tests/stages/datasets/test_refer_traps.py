"""False premises of FP- and R-refCOCO, files that are not there or not what they should be, and files that mean harm."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from written_refer import HEIGHT, SQUARE, WIDTH, Attack, ref, thing, write_instances, write_refs

from stages.datasets.base import Annotation, DatasetError
from stages.datasets.params import ReferOptions
from stages.datasets.refer import annotate, list_sources
from stages.images import ImageFailure
from store import rle


def read(root: Path, split: str = "train", **options: Any) -> Annotation:
    chosen = ReferOptions(**options)
    (source,) = list_sources(root, split, chosen)
    return annotate(root, source, HEIGHT, WIDTH, chosen)


def write(root: Path, *refs: Any, things: Any = None, name: str = "refs(unc).p") -> None:
    write_refs(root, refs, name)
    write_instances(root, [thing(1, 7, [SQUARE])] if things is None else things)


def why(root: Path, **options: Any) -> str:
    with pytest.raises((DatasetError, ImageFailure)) as caught:
        read(root, **options)
    return str(caught.value)


def test_a_false_premise_is_a_target_of_its_own_that_is_absent_and_may_have_a_correction(tmp_path: Path) -> None:
    """SESAME: is_false_premise stands in the sentence, and the ref's ann_id names the object that is there."""
    false = ("green dog", {"is_false_premise": True, "gt_sent": "red dog"})
    bare = ("blue dog", {"is_false_premise": True, "gt_sent": ""})
    true = ("the dog", {"is_false_premise": False, "gt_sent": "the dog"})
    name = "refs(berkeley_exclude_unified).p"
    write(tmp_path, ref(1, 7, 1, false, true, bare, "a dog"), name=name)
    found = read(tmp_path, split_by="berkeley_exclude_unified")
    assert [(each.kind, each.texts, each.absent, each.correction) for each in found.targets] == [
        ("refer", ("the dog", "a dog"), False, None),
        ("false_premise", ("green dog",), True, "red dog"),
        ("false_premise", ("blue dog",), True, None),
    ]
    assert [each.target_id for each in found.targets] == [f"000000000007/{number}" for number in range(3)]
    for each in found.targets[1:]:
        assert each.instances == ()
        assert rle.area(each.segmentation) == 0
    assert len(found.instances) == 1


@pytest.mark.parametrize("values", [(True, False), (1, 0)])
def test_r_refcoco_says_exist(tmp_path: Path, values: tuple[Any, Any]) -> None:
    write(tmp_path, ref(1, 7, 1, ("a dog", {"exist": values[0]}), ("a cow", {"exist": values[1]})))
    found = read(tmp_path)
    assert [(each.texts, each.absent) for each in found.targets] == [(("a dog",), False), (("a cow",), True)]


def test_is_false_premise_is_asked_first(tmp_path: Path) -> None:
    write(tmp_path, ref(1, 7, 1, ("a dog", {"exist": True, "is_false_premise": True})))
    assert read(tmp_path).targets[0].absent


@pytest.mark.parametrize("ann_id", [4711, None, "none", -1, [3]])
def test_a_false_premise_may_be_about_an_object_that_is_not_there(tmp_path: Path, ann_id: Any) -> None:
    write(tmp_path, ref(1, 7, ann_id, ("a cow", {"exist": False})))
    (target,) = read(tmp_path).targets
    assert target.absent


def test_a_true_sentence_about_an_object_that_is_not_there_fails_the_image(tmp_path: Path) -> None:
    write(tmp_path, ref(1, 7, 4711, ("a cow", {"exist": False}), ("a dog", {"exist": True})))
    found = why(tmp_path)
    assert "refs(unc).p: ref 0 (ref_id 1): instances.json: annotation 4711: not there" in found
    assert "may belong to another data set" in found


def broken(**changes: Any) -> dict[str, Any]:
    record = {**ref(1, 7, 1, "a dog"), **changes}
    return {key: value for key, value in record.items() if value != "gone"}


@pytest.mark.parametrize(
    ("record", "found"),
    [
        (broken(image_id="gone"), "ref 0: key 'image_id' is missing"),
        (broken(image_id=True), "ref 0: 'image_id' is bool, expected int"),
        (broken(image_id=-5), "found the image id -5, expected a number of at most 12 digits"),
        (broken(image_id=10**30), "expected a number of at most 12 digits"),
        (broken(image_id=8), "instances.json lists no image 8"),
        (broken(split="gone"), "ref 0: key 'split' is missing"),
        (broken(split=3), "ref 0: 'split' is int, expected str"),
        (broken(ann_id="gone"), "ref 0 (ref_id 1): 'ann_id' is missing or no number"),
        (broken(ann_id=[1]), "ref 0 (ref_id 1): 'ann_id' is a list; the format grefer reads such files"),
        (broken(ann_id="1"), "'ann_id' is missing or no number"),
        (broken(sentences="gone"), "ref 0 (ref_id 1): key 'sentences' is missing"),
        (broken(sentences=[]), "'sentences' is empty, expected at least one"),
        (broken(sentences=[{"raw": "a"}]), "key 'sent' is missing"),
        (broken(sentences=[{"sent": 3}]), "'sent' is int, expected str"),
        (broken(sentences=[{"sent": "a", "exist": "no"}]), "a sentence says 'no' of whether its object exists"),
        (broken(sentences=["a"]), "found str, expected an object with 'sent'"),
        (broken(ref_id="gone", sentences=3), "ref 0: 'sentences' is int, expected list"),
        ("a ref", "ref 0: found str, expected an object with 'image_id'"),
    ],
)
def test_a_broken_ref_is_named(tmp_path: Path, record: Any, found: str) -> None:
    write(tmp_path, record)
    assert found in why(tmp_path)


def test_a_broken_ref_fails_its_own_image_and_split_alone(tmp_path: Path) -> None:
    write_refs(tmp_path, [broken(sentences=[]), ref(2, 9, 2, "a"), ref(3, 7, 1, "b", split="val")])
    write_instances(tmp_path, [thing(1, 7, [SQUARE]), thing(2, 9, [SQUARE])])
    bad, good = list_sources(tmp_path, "train")
    with pytest.raises(ImageFailure, match="'sentences' is empty"):
        annotate(tmp_path, bad, HEIGHT, WIDTH)
    assert annotate(tmp_path, good, HEIGHT, WIDTH).targets
    assert read(tmp_path, "val").targets


@pytest.mark.parametrize(
    ("annotation", "found"),
    [
        (thing(1, 9, [SQUARE]), "annotation 1: is of image 9, expected 7"),
        (thing(1, 7, None), "annotation 1: segmentation is None"),
        (thing(1, 7, "mask"), "annotation 1: segmentation is 'mask'"),
        (thing(1, 7, [[float("nan")] * 6]), "annotation 1: polygon has numbers beyond"),
        (thing(1, 7, [[1e300] * 6]), "annotation 1: polygon has numbers beyond"),
        (thing(1, 7, {"size": [2**31, 2**31], "counts": "0"}), "run lengths are of an image of"),
        (thing(1, 7, {"size": [HEIGHT, WIDTH], "counts": "o" * 1000}), "annotation 1: run lengths"),
        ({"id": 1, "image_id": 7}, "annotation 1: not there"),
    ],
)
def test_a_broken_object_is_named(tmp_path: Path, annotation: Any, found: str) -> None:
    write(tmp_path, ref(1, 7, 1, "a"), things=[annotation])
    assert found in why(tmp_path)


@pytest.mark.parametrize(
    ("document", "found"),
    [
        ("[]", "found '[' at byte 0, expected '{'"),
        ("{", "instances.json: not JSON"),
        ("[" * 100_000, "instances.json: not JSON"),
        ('{"annotations": [], "images": {}}', "'images' is dict, expected list"),
        ('{"annotations": [], "images": [7]}', "found int, expected an object with 'id'"),
        ('{"annotations": [], "images": [{"id": "7"}]}', "'id' is str, expected int"),
        (
            '{"annotations": [], "images": [{"id": 7, "file_name": "../COCO_train2014_000000000007.jpg"}]}',
            "leads outside",
        ),
        ('{"annotations": [], "images": [{"id": 7, "file_name": "/000000000007.jpg"}]}', "leads outside"),
        ('{"annotations": [{"id": 1, "segmentation": ' + "[" * 5000 + "]" * 5000 + '}], "images": []}', "not JSON"),
        ('{"segmentation": 1}', "key 'images' is missing (found: 'segmentation')"),
    ],
)
def test_a_broken_instances_json_is_named(tmp_path: Path, document: str, found: str) -> None:
    write(tmp_path, ref(1, 7, 1, "a"))
    (tmp_path / "instances.json").write_text(document)
    assert found in why(tmp_path)


def test_a_path_that_leaves_the_root_is_refused(tmp_path: Path) -> None:
    write_refs(tmp_path, [ref(1, 7, 1, "a")])
    write_instances(tmp_path, [thing(1, 7, [SQUARE])], names="../../{:d}.jpg")
    assert "leads outside" in why(tmp_path, ids="path")


def test_two_pictures_of_one_name_are_refused(tmp_path: Path) -> None:
    write_refs(tmp_path, [ref(1, 7, 1, "a"), ref(1, 9, 1, "a")])
    write_instances(tmp_path, [thing(1, 7, [SQUARE])], names="same.jpg")
    assert "images 7 and 9 would both be the image 'same'" in why(tmp_path, ids="path")


def test_a_pickle_with_code_is_refused_unexecuted(tmp_path: Path) -> None:
    write(tmp_path, ref(1, 7, 1, "a"))
    (tmp_path / "refs(unc).p").write_bytes(pickle.dumps([Attack(tmp_path / "executed")], 2))
    found = why(tmp_path)
    assert f"{tmp_path}/refs(unc).p: pickle, at byte " in found
    assert "asks for posix.mkdir" in found
    assert not (tmp_path / "executed").exists()


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    write(tmp_path, ref(1, 7, 1, "a"))
    (tmp_path / "refs(unc).p").write_bytes(pickle.dumps({"refs": []}, 2))
    assert "found dict, expected a list of refs" in why(tmp_path)
    (tmp_path / "refs(unc).p").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert "pickle, at byte 0: " in why(tmp_path)


def test_a_file_that_is_not_there_says_which_are(tmp_path: Path) -> None:
    assert "no folder" in why(tmp_path / "none")
    write(tmp_path, ref(1, 7, 1, "a"))
    write_refs(tmp_path, [], "refs(google).p")
    found = why(tmp_path, split_by="umd")
    assert "no refs(umd).p in" in found
    assert "(files of refs there: refs(google).p, refs(unc).p)" in found
    assert "set root or split_by" in found
    (tmp_path / "instances.json").unlink()
    assert "no instances.json in" in why(tmp_path)
    (tmp_path / "refs(unc).p").unlink()
    (tmp_path / "refs(google).p").unlink()
    assert "(files of refs there: none)" in why(tmp_path)


def test_a_source_whose_refs_went_away_is_a_failure(tmp_path: Path) -> None:
    write(tmp_path, ref(1, 7, 1, "a"))
    (source,) = list_sources(tmp_path, "train")
    write_refs(tmp_path, [ref(1, 9, 1, "a")])
    with pytest.raises(ImageFailure, match=r"refs\(unc\).p has no refs about it"):
        annotate(tmp_path, source, HEIGHT, WIDTH)


def test_a_huge_text_is_read_as_it_is(tmp_path: Path) -> None:
    write(tmp_path, ref(1, 7, 1, "a" * 2**20))
    assert len(read(tmp_path).targets[0].texts[0]) == 2**20


def test_half_a_surrogate_pair_is_no_text(tmp_path: Path) -> None:
    write_instances(tmp_path, [thing(1, 7, [SQUARE])])
    record = json.loads(json.dumps(ref(1, 7, 1, "a")).replace('"sent": "a"', '"sent": "\\ud800"'))
    (tmp_path / "refs(unc).p").write_bytes(pickle.dumps([record], 4))
    assert "'sent' has half of a surrogate pair" in why(tmp_path)
