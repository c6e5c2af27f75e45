"""What each reader takes out of files as the programs write them, and what it says of files that nobody should write."""

from __future__ import annotations

import io
import json
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import cv2
import h5py
import numpy as np
import pytest
from pycocotools import mask as coco

from stages.datasets import jsonstream
from stages.images import ImageFailure
from stages.imported import Foreign, ImportFailure
from stages.imported.elisa import SIDE_PX
from stages.imported.formats import files_at
from stages.imported.llmseg import MAX_TEXT_BYTES, entry_of, literal
from stages.imported.npz import MAX_ARRAY_BYTES
from store import rle

MASK = np.zeros((30, 40), bool)
MASK[3:20, 5:30] = True
RLE = {"size": [30, 40], "counts": rle.encode(MASK)}
RECORD = {
    "segmentation": RLE, "area": 425, "bbox": [5, 3, 24, 16], "predicted_iou": 0.9, "point_coords": [[7.0, 8.0]],
    "stability_score": 0.97, "crop_box": [0, 0, 40, 30],
}  # fmt: skip


def read(path: Path) -> list[Foreign]:
    found: list[Foreign] = []
    files_at(path).read(found.append)
    return found


def written(path: Path, value: Any) -> Path:
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


class TestJson:
    """amg.py, SA-1B and LLM-Seg."""

    def test_a_folder_of_amg_has_a_picture_per_file_in_order_of_names(self, tmp_path: Path) -> None:
        written(tmp_path / "b.x.json", [RECORD, RECORD])
        written(tmp_path / "a.json", [])
        (tmp_path / "a.jpg").touch()
        (tmp_path / ".hidden.json").write_text("no JSON")
        assert read(tmp_path) == [Foreign("a", []), Foreign("b.x", [RECORD, RECORD])]

    def test_sa1b_says_the_name_and_size_itself(self, tmp_path: Path) -> None:
        image = {"image_id": 3, "width": 40, "height": 30, "file_name": "sa_3.jpg"}
        path = written(tmp_path / "sa_3.json", {"image": image, "annotations": [{"id": 9, **RECORD}]})
        assert read(path) == [Foreign("sa_3.jpg", [{"id": 9, **RECORD}])]
        path = written(path, {"image": {**image, "height": 31}, "annotations": [RECORD]})
        assert read(path)[0].trouble == "a mask has the size [30, 40], expected [31, 40] of the image"

    def test_llmseg_has_many_pictures_and_their_size(self, tmp_path: Path) -> None:
        entry = {"image": "a/b/c.jpg", "target_size": [30, 40], "masks": [RECORD]}
        assert read(written(tmp_path / "masks.json", [entry])) == [Foreign("a/b/c.jpg", [RECORD], (30, 40))]

    @pytest.mark.parametrize(
        ("entry", "trouble"),
        [
            ({"image": "a", "masks": []}, "key 'target_size' is missing"),
            ({"image": "a", "target_size": [30], "masks": []}, "target_size is [30], expected [height, width] px"),
            ({"image": "a", "target_size": [30, 40.5], "masks": []}, "target_size is [30, 40.5], expected"),
            ({"image": 7, "target_size": [30, 40], "masks": []}, "image is int, expected str"),
            ({"image": "a", "target_size": [30, 40], "masks": {}}, "'masks' is dict, expected list"),
        ],
    )
    def test_a_wrong_picture_is_a_trouble_of_its_own(self, tmp_path: Path, entry: Any, trouble: str) -> None:
        right = {"image": "z", "target_size": [30, 40], "masks": []}
        wrong, after = read(written(tmp_path / "masks.json", [entry, right]))
        assert trouble in str(wrong.trouble)
        assert after == Foreign("z", [], (30, 40))

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("[" * 100_000, "not JSON"),
            ('[{"segmentation": {}}', "not JSON"),
            ("", "not JSON"),
            ('[{"image": "a"}]', "expected masks with a segmentation alone"),
            ('[{"segmentation": {}}, {"image": "a", "masks": []}]', "expected masks with a segmentation alone"),
            ("[1]", "expected masks with a segmentation alone"),
            ('{"image": {}}', "file_name is null"),
            ('{"annotations": []}', "key 'image' is missing"),
            ('{"a": ' * 5000, "not JSON"),
            (f"[{'9' * 5000}]", "not JSON"),
        ],
    )
    def test_a_file_that_is_none_of_them_is_named(self, tmp_path: Path, text: str, message: str) -> None:
        path = written(tmp_path / "masks.json", text)
        with pytest.raises(ImportFailure, match=message) as error:
            read(path)
        assert str(path) in str(error.value)
        (tmp_path / "other.json").write_text("[]")
        troubles = {foreign.name: foreign.trouble for foreign in read(tmp_path)}  # of a folder: of that picture alone
        assert message in str(troubles.pop("masks"))
        assert troubles == {"other": None}

    def test_a_large_file_takes_the_memory_of_a_few_pictures(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(jsonstream, "CHUNK_BYTES", 2**16)
        entry = {"image": "a.jpg", "target_size": [30, 40], "masks": [RECORD] * 100}
        written(tmp_path / "masks.json", [entry] * 200)
        names: list[str] = []
        files = files_at(tmp_path / "masks.json")
        tracemalloc.start()
        files.read(lambda foreign: names.append(foreign.name))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(names) == 200
        assert peak < (tmp_path / "masks.json").stat().st_size / 5


class TestHdf5:
    """LLM-Seg's texts, and the files that they stand in."""

    ENTRY: ClassVar[dict[str, Any]] = {
        "image": "a.jpg",
        "target_size": [30, 40],
        "masks": [{**RECORD, "segmentation": coco.encode(np.asfortranarray(MASK, np.uint8))}],
    }

    def test_a_text_gives_what_llmsegs_own_converter_gives(self) -> None:
        text = str(self.ENTRY)
        assert "b'" in text
        assert literal(text) == literal(text.encode()) == eval(text)
        found = entry_of(text, 0)
        assert (found.name, found.frame, found.trouble) == ("a.jpg", (30, 40), None)

    @pytest.mark.parametrize(
        "text",
        [
            "__import__('os').system('true')", "[" * 100_000, "-" * 100_000 + "1", "(" * 90 + "1", "1" * 10_000, "{'a': f()}",
            "a" * 10, "", "\0", "'\\N{x}'", "[1 for x in y]", "{**{}}", "lambda: 1", "{[]: 1}", "1+" * 50_000 + "1", "b'\xe9'",
            "{" * 1000, '"' * 3 + "a" * 1000,
        ],
        ids=range(18),
    )  # fmt: skip
    def test_a_hostile_text_is_evaluated_by_nobody(self, text: str) -> None:
        with pytest.raises(ImageFailure, match="not a Python literal"):
            literal(text)
        assert entry_of(text, 7).trouble == entry_of(text.encode(), 7).trouble
        assert str(entry_of(text, 7).trouble).startswith("entry 7: not a Python literal")

    @pytest.mark.parametrize("text", ["'" + "a" * MAX_TEXT_BYTES + "'", "[" + "1," * 10**6 + "]"])
    def test_a_long_text_is_not_even_parsed(self, text: str) -> None:
        with pytest.raises(ImageFailure, match="expected at most"):
            literal(text)

    def test_what_is_no_dict_of_a_picture(self) -> None:
        for text in ("1", "[1, 2]", "{}", "{'image': 1, 'target_size': [1, 1], 'masks': []}", "None"):
            found = entry_of(text, 0)
            assert found.trouble
            assert found.name == ""
        assert "found int, expected a text" in str(entry_of(3, 0).trouble)

    def test_a_real_file(self, tmp_path: Path) -> None:
        path = tmp_path / "coco_split0.h5"
        with h5py.File(path, "w") as file:
            file.create_dataset("masks", data=[str(self.ENTRY), "{'image'"])
        first, second = read(path)
        assert (first.name, first.masks) == ("a.jpg", self.ENTRY["masks"])
        assert second.trouble == "entry 1: not a Python literal: SyntaxError"

    def test_real_files_that_lead_elsewhere(self, tmp_path: Path) -> None:
        secret = tmp_path / "secret.h5"
        with h5py.File(secret, "w") as file:
            file.create_dataset("masks", data=[str(self.ENTRY)])
        links: dict[str, Callable[[Any], Any]] = {
            "external": lambda file: file.__setitem__("masks", h5py.ExternalLink(str(secret), "/masks")),
            "soft": lambda file: file.__setitem__("masks", h5py.SoftLink("/other")),
            "numbers": lambda file: file.create_dataset("masks", data=[1, 2]),
            "group": lambda file: file.create_group("masks"),
            "nothing": lambda file: None,
            "raw": lambda file: file.create_dataset("masks", (1,), "S10", external=[(str(secret), 0, 10)]),
        }
        for name, make in links.items():
            with h5py.File(tmp_path / f"{name}.h5", "w") as file:
                make(file)
            with pytest.raises(ImportFailure, match=r"found no list of texts|kept in other files"):
                read(tmp_path / f"{name}.h5")
        (tmp_path / "bad.h5").write_bytes(secret.read_bytes()[:100])
        with pytest.raises(ImportFailure, match="not an HDF5 file"):
            read(tmp_path / "bad.h5")


class TestElisa:
    """Contours as its ``preprocess.py`` makes them."""

    @staticmethod
    def shape(mask: np.ndarray) -> list[Any]:
        contours = cv2.findContours(mask.astype(np.uint8) * 255, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]
        return [[[int(x), int(y)] for ((x, y),) in contour] for contour in contours]

    def masks(self) -> list[np.ndarray]:
        """A ring in a ring, one pixel, thin lines, noise with many holes, nothing, all."""
        rows, columns = np.mgrid[:SIDE_PX, :SIDE_PX]
        distance = np.hypot(rows - 400, columns - 500)
        noise = cv2.resize(np.random.default_rng(0).random((32, 32)), (SIDE_PX, SIDE_PX)) > 0.5
        dots = np.pad(np.random.default_rng(1).random((90, 90)) > 0.5, ((0, SIDE_PX - 90), (SIDE_PX - 90, 0)))
        found = [
            distance // 60 % 2 == 0,
            (rows == 3) & (columns == 4),
            rows == columns,
            noise,
            dots,
            rows < 0,
            rows >= 0,
        ]
        return [np.asarray(mask, bool) for mask in found]

    def test_contours_give_every_mask_back_exactly(self, tmp_path: Path) -> None:
        masks = self.masks()
        embs = np.random.default_rng(2).standard_normal((len(masks), 8)).astype(np.float16)
        line = {"img": "a.jpg", "sam_shapes": [self.shape(mask) for mask in masks], "sam_embs": embs.tolist()}
        line |= {"gt_shapes": line["sam_shapes"][:1], "gt_embs": embs[:1].tolist()}
        path = written(tmp_path / "train_TEST.jsonl", json.dumps(line) + "\n\n" + json.dumps({**line, "img": "b.jpg"}))
        first, second = read(path)
        assert (first.name, second.name, first.frame, first.squashed) == ("a.jpg", "b.jpg", (1024, 1024), True)
        assert first.masks is not None
        for mask, found in zip(masks, first.masks, strict=True):
            np.testing.assert_array_equal(rle.decode(found["segmentation"]["counts"], SIDE_PX, SIDE_PX), mask)
        np.testing.assert_array_equal(first.vectors, embs.astype(np.float32))  # as float16, nothing is lost
        assert list(first.regions) == [first.masks[0]["segmentation"]]
        np.testing.assert_array_equal(first.region_vectors, embs[:1].astype(np.float32))

    @pytest.mark.parametrize(
        ("change", "trouble"),
        [
            ({"sam_embs": []}, "0 sam_embs and 1 sam_shapes"),
            ({"sam_embs": [["1"]]}, "sam_embs: found"),
            ({"sam_shapes": [[[[1.5, 2]]]]}, "whole px"),
            ({"sam_shapes": [[[[1, 1024]]]]}, "leaves the 1024 x 1024 px"),
            ({"sam_shapes": [[[[1, -5]]]]}, "leaves the 1024 x 1024 px"),
            ({"sam_shapes": [7]}, "no list of contours"),
            ({"sam_shapes": [[[]]]}, "whole px"),
            ({"sam_shapes": [[[[1, 2], [3]]]]}, "whole px"),
            ({"img": None}, "img is null"),
            ({"gt_shapes": 5}, "int"),
            ({"gt_shapes": [[[[1, 2]]]], "gt_embs": []}, "0 gt_embs and 1 gt_shapes"),
        ],
    )
    def test_a_wrong_line_is_a_trouble_of_its_own(self, tmp_path: Path, change: dict[str, Any], trouble: str) -> None:
        line = {"img": "a.jpg", "sam_shapes": [[[[1, 2]]]], "sam_embs": [[1.0, 2.0]]}
        wrong, right = read(written(tmp_path / "x.jsonl", json.dumps(line | change) + "\n" + json.dumps(line)))
        assert str(wrong.trouble).startswith("line 1: ")
        assert trouble in str(wrong.trouble)
        assert right.trouble is None

    def test_lines_that_are_no_json_or_have_no_shapes(self, tmp_path: Path) -> None:
        lines = ["{", "[" * 100_000, "\xff", '{"img": "a.jpg", "sam_embs": []}', "7"]
        path = tmp_path / "x.jsonl"
        path.write_bytes("\n".join(lines).encode("latin-1"))
        found = read(path)
        assert [str(each.trouble)[:16] for each in found] == [
            *(f"line {number}: not JSON" for number in (1, 2, 3)),
            "line 4: no sam_s",
            "line 5: img is n",
        ]


class TestNpz:
    """Archives of NumPy."""

    def test_masks_and_vectors_of_one_picture(self, tmp_path: Path) -> None:
        masks, vectors = np.stack([MASK, ~MASK]), np.arange(6, dtype=np.float64).reshape(2, 3)
        np.savez_compressed(tmp_path / "a.npz", masks=masks, vectors=vectors, predicted_iou=np.float32([0.5, 0.25]))
        (found,) = read(tmp_path / "a.npz")
        assert found.name == "a"
        assert found.masks is not None
        for mask, each in zip(masks, found.masks, strict=True):
            assert each["segmentation"] == {"size": [30, 40], "counts": rle.encode(mask)}
        assert [each["predicted_iou"] for each in found.masks] == [0.5, 0.25]
        np.testing.assert_array_equal(found.vectors, vectors)

    def test_vectors_of_many_pictures(self, tmp_path: Path) -> None:
        arrays = {"train/a.jpg": np.ones((2, 3), np.float16), "b": np.asfortranarray(np.arange(6.0).reshape(3, 2))}
        np.savez(tmp_path / "v.npz", **arrays)
        found = read(tmp_path / "v.npz")
        assert [each.name for each in found] == ["train/a.jpg", "b"]
        np.testing.assert_array_equal(found[1].vectors, arrays["b"])

    def test_pickles_and_headers_that_lie_are_refused(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "p.npz", a=np.array([{}, print], object), b=np.zeros((1, 2)))
        pickled, plain = read(tmp_path / "p.npz")
        assert "found object, expected numbers" in str(pickled.trouble)
        assert plain.trouble is None
        header = io.BytesIO()
        fields = {"descr": "<f8", "fortran_order": False, "shape": (MAX_ARRAY_BYTES // 16, 1)}
        np.lib.format.write_array_header_1_0(header, fields)
        with zipfile.ZipFile(tmp_path / "h.npz", "w") as zipped:
            zipped.writestr("a.npy", header.getvalue() + b"\0" * 64)
            zipped.writestr("b.npy", b"no array")
            zipped.writestr("c.npy", b"")
        tracemalloc.start()
        troubles = [str(each.trouble) for each in read(tmp_path / "h.npz")]
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert "does not fit its size" in troubles[0]
        assert all("not an array" in trouble for trouble in troubles[1:])
        assert peak < 2**22

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"masks": MASK}, "expected bool or uint8"),
            ({"masks": MASK[None].astype(float)}, "expected bool or uint8"),
            ({"masks": MASK[None], "vectors": np.zeros((2, 3))}, "2 vectors and 1 masks"),
            ({"masks": MASK[None], "predicted_iou": np.zeros(2)}, "expected a number per mask"),
            ({"masks": MASK[None], "scores": np.zeros(1)}, "array 'scores' is not one of"),
            ({"vectors": np.zeros(3)}, "expected numbers"),
        ],
    )
    def test_arrays_that_do_not_fit(self, tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
        np.savez(tmp_path / "a.npz", **arrays)
        with pytest.raises(ImportFailure, match=message):
            read(tmp_path / "a.npz")

    def test_what_is_no_archive(self, tmp_path: Path) -> None:
        (tmp_path / "a.npz").write_bytes(b"PK no archive")
        with pytest.raises(ImportFailure, match=r"not a \.npz"):
            read(tmp_path / "a.npz")


def test_what_cannot_be_read_is_said_with_what_can(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").touch()
    with pytest.raises(ImportFailure, match=r"found a file \.pkl, expected one of \.json, \.jsonl, \.h5"):
        files_at(tmp_path / "a.pkl")
    with pytest.raises(ImportFailure, match="found no such file or folder"):
        files_at(tmp_path / "none.json")
    with pytest.raises(ImportFailure, match="found no file that can be read"):
        files_at(tmp_path)
    (tmp_path / "a.json").touch()
    (tmp_path / "a.npz").touch()
    with pytest.raises(ImportFailure, match=r"found files of \.json and \.npz"):
        files_at(tmp_path)


def test_the_digest_of_a_folder_is_of_names_and_content(tmp_path: Path) -> None:
    written(tmp_path / "a.json", [])
    one = files_at(tmp_path).sha256()
    (tmp_path / "a.json").rename(tmp_path / "b.json")
    two = files_at(tmp_path).sha256()
    written(tmp_path / "b.json", [RECORD])
    assert len({one, two, files_at(tmp_path).sha256()}) == 3
