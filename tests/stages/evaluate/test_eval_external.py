"""Import of anyone's predictions: the same masks by every way, and a clear error for every mistake."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factory import Known, write_images, write_table
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco

from stages.evaluate import Prediction, PredictionError, read_external, score
from stages.evaluate.cases import Question
from stages.evaluate.external import _Keys
from store import Split, open_split, rle

Mask = NDArray[np.bool_]


def a_mask(seed: int) -> Mask:
    return np.random.default_rng(seed).random((4, 6)) < 0.4


def target_ids(known: Known) -> list[str]:
    return [target["target_id"] for targets in known.targets for target in targets]


def images_with(known: Known, several: bool) -> list[str]:
    return [f"image{k}" for k, targets in enumerate(known.targets) if (len(targets) > 1) == several]


def compressed(mask: Mask) -> dict[str, Any]:
    """As pycocotools and everybody's COCO results file."""
    found = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": found["size"], "counts": found["counts"].decode()}


def uncompressed(mask: Mask) -> dict[str, Any]:
    """Run lengths in clear, as in COCO's crowd annotations: the first counts zeros."""
    flat = mask.ravel(order="F").tolist()
    runs, value = [], False
    while flat:
        end = next((k for k, pixel in enumerate(flat) if pixel != value), len(flat))
        runs.append(end)
        flat, value = flat[end:], not value
    return {"size": list(mask.shape), "counts": runs}


@pytest.mark.parametrize("encode", [compressed, uncompressed])
@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_json_of_every_spelling(
    split: Split, known: Known, tmp_path: Path, suffix: str, encode: Callable[[Mask], dict[str, Any]]
) -> None:
    ids = target_ids(known)
    entries: list[dict[str, Any]] = [
        {"target_id": name, "segmentation": encode(a_mask(k))} for k, name in enumerate(ids[:-3])
    ]
    entries.append({"target_id": ids[-3], "segmentation": None})
    entries.append({"target_id": ids[-2], "segmentation": encode(np.zeros((4, 6), bool)), "rejected": False})
    entries.append({"target_id": ids[-1], "text_index": 1, "segmentation": encode(a_mask(99)), "answer": "Höre."})
    path = tmp_path / f"ovseg{suffix}"
    text = json.dumps(entries) if suffix == ".json" else "\n\n".join(json.dumps(entry) for entry in entries) + "\n"
    path.write_text(text)
    expected = [Prediction(name, 0, rle.encode(a_mask(k)), None) for k, name in enumerate(ids[:-3])]
    expected.append(Prediction(ids[-3], 0, None, None))
    expected.append(Prediction(ids[-2], 0, rle.encode(np.zeros((4, 6), bool)), False))
    expected.append(Prediction(ids[-1], 1, rle.encode(a_mask(99)), None, None, "Höre."))
    assert read_external(path, split) == expected


def test_an_image_with_one_target_may_be_named(split: Split, known: Known, tmp_path: Path) -> None:
    sole = images_with(known, several=False)
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"image_id": name, "segmentation": compressed(a_mask(0))} for name in sole]))
    assert [found.target_id for found in read_external(path, split)] == [f"{name}/0" for name in sole]


MODES: dict[str, Callable[[Mask], Image.Image]] = {
    "1": lambda mask: Image.fromarray(mask),
    "L": lambda mask: Image.fromarray(mask.astype(np.uint8)),  # 0 and 1
    "L 255": lambda mask: Image.fromarray(mask.astype(np.uint8) * 255),
    "P": lambda mask: Image.fromarray(mask.astype(np.uint8) * 7).convert("P"),
    "I;16": lambda mask: Image.fromarray(mask.astype(np.uint16) * 256),
    "RGB": lambda mask: Image.fromarray(mask[..., None] * np.array([0, 0, 9], np.uint8)),
}


@pytest.mark.parametrize("mode", MODES)
def test_a_folder_of_pngs(split: Split, known: Known, tmp_path: Path, mode: str) -> None:
    several, sole = images_with(known, several=True)[0], images_with(known, several=False)[0]
    (tmp_path / several).mkdir()
    masks = {f"{several}/0": a_mask(1), f"{several}/1": np.zeros((4, 6), bool), sole: np.ones((4, 6), bool)}
    for name, mask in masks.items():
        MODES[mode](mask).save(tmp_path / f"{name}.png")
    (tmp_path / ".DS_Store").write_bytes(b"no picture")
    found = {prediction.target_id: prediction for prediction in read_external(tmp_path, split)}
    assert found == {
        f"{several}/0": Prediction(f"{several}/0", 0, rle.encode(a_mask(1)), None),
        f"{several}/1": Prediction(f"{several}/1", 0, None, None),
        f"{sole}/0": Prediction(f"{sole}/0", 0, rle.encode(np.ones((4, 6), bool)), None),
    }


def entry(**changes: Any) -> dict[str, Any]:
    whole = {"target_id": "image0/0", "segmentation": compressed(a_mask(0)), **changes}
    return {name: value for name, value in whole.items() if value != "drop"}


RLE = compressed(a_mask(0))


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ([entry(target_id="image0/9")], r"\[0\]: no target 'image0/9' in d/val; its \d+ targets are image0/0"),
        ([entry(), entry()], r"\[1\]: target 'image0/0', text 0 is there already, at .*\[0\]"),
        ([entry(image_id="image0")], "found target_id and image_id"),
        ([entry(target_id="drop")], "found neither, expected target_id or image_id"),
        ([entry(target_id="drop", image_id="image99")], "'image99' is not an image with targets in d/val"),
        ([entry(target_id=5)], "target_id: found 5, expected str"),
        ([entry(text_index="0")], "text_index: found '0', expected int"),
        ([entry(text_index=True)], "text_index: found True, expected int"),
        ([entry(text_index=-1)], r"\[0\]: image0/0: text_index is -1"),
        ([entry(rejected=1)], "rejected: found 1, expected bool"),
        ([entry(rejected=True)], r"\[0\]: image0/0: it is rejected, but has a mask"),
        ([entry(answer=None)], "answer: found None, expected str"),
        ([entry(score=0.5)], "unknown key 'score', expected target_id, image_id"),
        ([entry(segmentation="drop")], "no key 'segmentation'"),
        ([entry(segmentation=[[1, 2, 3, 4]])], "expected COCO RLE with the keys size and counts"),
        ([entry(segmentation={"size": [4, 6]})], "expected COCO RLE with the keys size and counts"),
        ([entry(segmentation={**RLE, "size": [6, 4]})], r"size is \[6, 4\], expected \[height, width\] = \[4, 6\]"),
        ([entry(segmentation={**RLE, "counts": [20]})], "counts cover 20 pixels, expected 4 x 6"),
        ([entry(segmentation={**RLE, "counts": []})], "found runs of shape"),
        ([entry(segmentation={**RLE, "counts": [-1, 25]})], "run 0 has -1 pixels"),
        ([entry(segmentation={**RLE, "counts": [10**30]})], r"\[0\]: "),
        (
            [entry(segmentation={**RLE, "counts": [1.0, 23.0]})],
            "counts: found list, expected a string or a list of int",
        ),
        ([entry(segmentation={**RLE, "counts": "a b"})], "counts have ' '"),
        ([entry(segmentation={**RLE, "counts": ""})], "counts have 0 characters"),
        (["image0/0"], r"\[0\]: found str, expected an object"),
        ({"predictions": []}, "found dict, expected a list of objects"),
    ],
)
def test_mistakes_in_json(split: Split, tmp_path: Path, entries: object, why: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(entries))
    with pytest.raises(PredictionError, match=why) as caught:
        read_external(path, split)
    assert str(caught.value).startswith(str(path))


def test_an_image_with_several_targets_is_not_enough(split: Split, known: Known, tmp_path: Path) -> None:
    name = images_with(known, several=True)[0]
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"image_id": name, "segmentation": None}]))
    with pytest.raises(PredictionError, match=f"image '{name}' has . targets, expected one of {name}/0, {name}/1"):
        read_external(path, split)


def test_a_line_that_is_no_json_is_named(split: Split, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(entry()) + "\n{oops\n")
    with pytest.raises(PredictionError, match=r"a\.jsonl:2: not JSON in UTF-8"):
        read_external(path, split)
    path.write_text(json.dumps(entry()) + "\n\n" + json.dumps(entry()))
    with pytest.raises(PredictionError, match=r"a\.jsonl:3: .* at .*a\.jsonl:1; expected it once"):
        read_external(path, split)
    path.write_bytes(b'{"answer": "\xff"}\n')
    with pytest.raises(PredictionError, match="not JSON in UTF-8"):
        read_external(path, split)


def save(path: Path, pixels: NDArray[Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (
            lambda to: save(to / "image0/0.png", np.zeros((6, 4), np.uint8)),
            "4 x 6 px .width x height., expected 6 x 4 px of",
        ),
        (lambda to: save(to / "image0/7.png", np.zeros((4, 6), np.uint8)), "'image0/7' is not an image with targets"),
        (lambda to: save(to / "image0/0.png", np.zeros((4, 6, 4), np.uint8)), "mode RGBA, expected one without alpha"),
        (lambda to: (to / "image0.jpg").write_bytes(b""), "found .jpg, expected PNGs alone"),
        (lambda to: (to / "readme").write_bytes(b""), "found no suffix, expected PNGs alone"),
    ],
)
def test_mistakes_in_a_folder(split: Split, tmp_path: Path, make: Callable[[Path], object], why: str) -> None:
    make(tmp_path)
    with pytest.raises(PredictionError, match=why):
        read_external(tmp_path, split)


def test_a_truncated_png_is_an_error(split: Split, tmp_path: Path) -> None:
    path = tmp_path / "image0/0.png"
    save(path, a_mask(0).astype(np.uint8))
    whole = path.read_bytes()
    for content in (whole[:45], b"no picture"):
        path.write_bytes(content)
        with pytest.raises(PredictionError, match="cannot be read as PNG"):
            read_external(tmp_path, split)


def test_a_target_twice_in_a_folder(split: Split, known: Known, tmp_path: Path) -> None:
    name = images_with(known, several=False)[0]
    save(tmp_path / f"{name}.png", a_mask(0).astype(np.uint8))
    save(tmp_path / f"{name}/0.PNG", a_mask(0).astype(np.uint8))
    where = re.escape(str(tmp_path))
    with pytest.raises(PredictionError, match=f"^{where}.*target '{name}/0', text 0 is there already, at {where}"):
        read_external(tmp_path, split)


def test_another_kind_of_file_is_an_error(split: Split, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("")
    with pytest.raises(PredictionError, match=r"expected a folder of PNGs, a \.json or a \.jsonl file"):
        read_external(tmp_path / "a.csv", split)


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".JSON", ".JsonL"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_signature_says_the_encoding(split: Split, tmp_path: Path, suffix: str, encoding: str) -> None:
    entries = [entry(answer="Höre, 鍵."), entry(target_id="image1/0")]
    lines = [json.dumps(one, ensure_ascii=False) for one in entries]
    text = "\r\n".join(lines) if suffix.lower() == ".jsonl" else f"[{', '.join(lines)}]"
    signed = "\ufeff" * encoding.endswith(("-le", "-be"))  # the others write their own
    path = tmp_path / f"a{suffix}"
    path.write_bytes((signed + text).encode(encoding))
    found = read_external(path, split)
    assert [one.target_id for one in found] == ["image0/0", "image1/0"]
    assert found[0].answer == "Höre, 鍵."


def test_files_with_signatures_that_were_joined(split: Split, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b"".join(f"\ufeff{json.dumps(entry(target_id=name))}\n".encode() for name in ("image0/0", "image1/0"))
    )
    assert len(read_external(path, split)) == 2


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.json", b"", "found an empty file, expected a list of objects"),
        ("a.json", b"\xef\xbb\xbf \n", "found an empty file"),
        ("a.json", b"[]", "found no prediction in it"),
        ("a.jsonl", b"", "found no prediction in it"),
        ("a.jsonl", b"\n \n", "found no prediction in it"),
        (
            "a.json",
            b'{"target_id": "x"}\n{"target_id": "y"}',
            r"not JSON in UTF-8: .*; one object per line is a .jsonl file",
        ),
        ("a.json", b"\xff\xfe[\x00", "not JSON in UTF-8: Expecting value"),
        ("a.json", b"\xff\xfe[", "not JSON in UTF-8, or in the encoding that its first bytes name"),
        ("a.json", "[]".encode("utf-16-le"), "not JSON in UTF-8"),
        ("a.json", b"[" * 200_000, "JSON that is nested too deeply"),
        ("a.jsonl", b'{"text_index": 1' + b"0" * 5000 + b"}", r"a\.jsonl:1: Exceeds the limit"),
        (
            "a.json",
            b'[{"target_id": "image0/0", "target_id": "image1/0", "segmentation": null}]',
            "key 'target_id' is there twice",
        ),
        (
            "a.json",
            b'[{"segmentation": {"size": [4, 6], "counts": "0", "counts": "1"}}]',
            "key 'counts' is there twice",
        ),
    ],
)
def test_files_that_hold_no_predictions(split: Split, tmp_path: Path, name: str, content: bytes, why: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(PredictionError, match=why) as caught:
        read_external(path, split)
    assert str(caught.value).startswith(str(path))


def test_a_file_that_cannot_be_read(split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    path.write_text("[]")

    def read_bytes(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    with pytest.raises(PredictionError, match=r"a\.json: cannot be read: Permission denied"):
        read_external(path, split)


def test_half_a_surrogate_pair_in_an_answer(split: Split, tmp_path: Path) -> None:
    """As a model leaves it whose answer was cut."""
    path = tmp_path / "a.json"
    path.write_text(json.dumps([entry(answer="a \ud83d")]))
    (found,) = read_external(path, split)
    assert found.answer == "a ?"


def test_a_turned_size_is_told(split: Split, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([entry(segmentation={**RLE, "size": [6, 4]})]))
    with pytest.raises(PredictionError, match=r"it is turned: \[width, height\], or the frame before the image's EXIF"):
        read_external(path, split)


def test_answers_of_gsva_are_both(split: Split, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([entry(rejected=True)]))
    with pytest.raises(PredictionError, match=r"\[0\]: image0/0: it is rejected, but has a mask.*--protocol gsva"):
        read_external(path, split)
    (found,) = read_external(path, split, protocol="gsva")
    assert found == Prediction("image0/0", 0, rle.encode(a_mask(0)), True)


@pytest.fixture
def partly(tmp_path: Path) -> Split:
    """Image 1 failed, image 2 has no target; image 3's name is that of another image's target."""
    mask, empty = rle.encode(np.ones((4, 6), bool)), rle.encode(np.zeros((4, 6), bool))
    images = write_images(tmp_path / "store", 4, failed={1: "truncated"})
    fields = {"texts": ["?"], "is_sentence": True, "kind": "t", "answer": None, "segmentation": mask, "ignore": empty}
    targets = [
        [{"target_id": f"image{k}/0", "image_index": k, "instances": [0], **fields}] if k in (0, 3) else []
        for k in range(4)
    ]
    write_table(tmp_path / "store", "d/targets/val", targets, {"images": images}, failed={1: "truncated"})
    return open_split(tmp_path / "store", "d", "val", columns=["targets"])


def test_entries_for_images_without_questions_are_counted(partly: Split, tmp_path: Path) -> None:
    """Whatever they say: what size the image would have is not known."""
    silent = [
        {"target_id": "image1/0", "segmentation": {"size": [900, 7], "counts": "?"}},
        {"target_id": "image1/1", "segmentation": None},
        {"image_id": "image2", "segmentation": None},
    ]
    entries = [{"target_id": "image0/0", "segmentation": None}, *silent, {"image_id": "image3", "segmentation": None}]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(entries))
    counted: dict[str, int] = {}
    found = read_external(path, partly, unasked=counted)
    assert [one.target_id for one in found] == ["image0/0", "image3/0"]
    assert counted == {"image1": 2, "image2": 1}
    path.write_text(json.dumps(silent))
    assert read_external(path, partly) == []
    folder = tmp_path / "pngs"
    for name in ("image0/0", "image1/0", "image2"):
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        Image.fromarray(np.zeros((4, 6) if name == "image0/0" else (9, 9), np.uint8)).save(folder / f"{name}.png")
    counted.clear()
    assert [one.target_id for one in read_external(folder, partly, unasked=counted)] == ["image0/0"]
    assert counted == {"image1": 1, "image2": 1}
    for unknown in ("image9/0", "image0/1", "image"):
        path.write_text(json.dumps([{"target_id": unknown, "segmentation": None}]))
        with pytest.raises(PredictionError, match=f"no target '{unknown}'"):
            read_external(path, partly)


def test_ours_for_images_without_questions_are_counted(partly: Split) -> None:
    answers = [
        Prediction(name, 0, None, False) for name in ("image0/0", "image3/0", "image1/0", "image1/1", "image2/0")
    ]
    scores = score(partly, answers)
    assert scores.unasked == {"image1": 2, "image2": 1}
    assert len(scores.systems["predictions"]) == 2, "an image without targets is no empty target"
    with pytest.raises(
        PredictionError, match="1 predictions are for no question of the split, first target 'image9/0'"
    ):
        score(partly, [*answers, Prediction("image9/0", 0, None, False)])


def test_a_name_whose_letters_a_file_system_took_apart(tmp_path: Path) -> None:
    keys = _Keys([Question("clé", 0, 4, 6, 0, {"target_id": "clé/0", "instances": []})], {}, "d/val")
    for name in ("clé", "cle\u0301", "clé/0", "cle\u0301/0"):
        found = keys.of_name("here", name)
        assert found is not None
        assert found.target_id == "clé/0"
