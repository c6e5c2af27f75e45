"""A mask out of any PNG that shows one, and a refusal of every PNG that shows more."""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factory import Known
from numpy.typing import NDArray
from PIL import Image

from stages.evaluate import PredictionError, read_external
from store import Split, rle

MASK = np.arange(24).reshape(4, 6) % 5 < 2
SCORES = (np.arange(24).reshape(4, 6) * 11).astype(np.uint8)  # 0 to 253, as a sigmoid times 255


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def raw_png(depth: int, kind: int, rows: list[bytes], *before: tuple[bytes, bytes]) -> bytes:
    """A PNG of 6 x 4 px as its standard says, with chunks that Pillow would not write."""
    header = struct.pack(">IIBBBBB", 6, 4, depth, kind, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = [(b"IHDR", header), *before, (b"IDAT", body), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


def indexed(numbers: NDArray[Any], palette: list[int], **how: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        image = Image.fromarray(numbers.astype(np.uint8), "P")
        image.putpalette(palette)
        image.save(path, **how)

    return write


def picture(pixels: NDArray[Any], **how: Any) -> Callable[[Path], None]:
    return lambda path: Image.fromarray(pixels).save(path, **how)


def read(split: Split, folder: Path, write: Callable[[Path], None], threshold: int | None = None) -> NDArray[np.bool_]:
    path = folder / "image0" / "0.png"
    path.parent.mkdir(exist_ok=True)
    write(path)
    (found,) = read_external(folder, split, threshold=threshold)
    if found.segmentation is None:
        return np.zeros((4, 6), bool)
    return rle.decode(found.segmentation, 4, 6)


ONES = np.ones((4, 6), np.uint8)
BLACK_WHITE, WHITE_BLACK = [0, 0, 0, 255, 255, 255], [255, 255, 255, 0, 0, 0]


@pytest.mark.parametrize(
    "write",
    [
        picture(MASK),
        picture(MASK.astype(np.uint8)),
        picture(MASK.astype(np.uint8) * 255),
        picture(MASK.astype(np.uint8) * 17),
        picture(MASK.astype(np.uint16)),
        picture(MASK.astype(np.uint16) * 65535),
        picture(MASK[..., None] * np.array([128, 0, 0], np.uint8)),
        picture(MASK[..., None] * np.array([255, 255, 255], np.uint8)),
        indexed(MASK, BLACK_WHITE),
        indexed(~MASK, WHITE_BLACK),  # what a palette is, not how it is numbered
        indexed(MASK * 15, [0] * 45 + [192, 128, 128]),  # VOC's colours
        lambda path: path.write_bytes(raw_png(2, 0, [b"\x10\x00"] * 4)) and None,
        lambda path: path.write_bytes(raw_png(16, 0, [struct.pack(">6H", *(row * 256)) for row in MASK])) and None,
    ],
)
def test_two_values_are_a_mask(split: Split, tmp_path: Path, write: Callable[[Path], None]) -> None:
    found = read(split, tmp_path, write)
    expected = np.zeros((4, 6), bool)
    if (tmp_path / "image0/0.png").read_bytes()[24] == 2:
        expected[:, 1] = True  # 00 01 00 00 and 00 00 in two bits each
    else:
        expected = MASK
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("value", [1, 255])
def test_all_of_it_and_nothing(split: Split, tmp_path: Path, value: int) -> None:
    assert read(split, tmp_path, picture(ONES * value)).all()
    assert not read(split, tmp_path, picture(ONES * 0)).any()
    assert not read(split, tmp_path, picture(np.zeros((4, 6, 3), np.uint8))).any()
    assert read(split, tmp_path, picture(np.full((4, 6), 65535, np.uint16))).all()


def test_one_grey_value_alone_is_a_mask_where_another_file_says_so(split: Split, known: Known, tmp_path: Path) -> None:
    with pytest.raises(PredictionError, match=r"every pixel is 12, and no other file.*--threshold N"):
        read(split, tmp_path, picture(ONES * 12))
    other = next(f"image{k}" for k, targets in enumerate(known.targets) if k and len(targets) == 1)
    picture(MASK.astype(np.uint8) * 12)(tmp_path / f"{other}.png")
    assert len(read_external(tmp_path, split)) == 2


@pytest.mark.parametrize(
    ("write", "why"),
    [
        (picture(SCORES), r"24 grey values, expected two.*0-30: 3, 31-62: 3.*--threshold N takes pixels of at least N"),
        (picture(SCORES.astype(np.uint16) * 257), r"24 grey values, expected two"),
        (
            picture(MASK * np.uint8(200) + (~MASK & (SCORES > 200)) * np.uint8(9)),
            r"by value: 0: \d+, 9: \d+, 200: \d+\.",
        ),
        (picture(np.dstack([SCORES, SCORES, SCORES])), "24 grey values"),
        (picture(np.dstack([SCORES, SCORES // 2, SCORES * 0])), "24 colours, expected two.*#000000: 1, .* and 16 more"),
        (picture(MASK.astype(np.uint8) * 100 + 100), "two values, and neither is black: 100: .*, 200: "),
        (picture(MASK[..., None] * np.array([9, 9, 0], np.uint8) + np.uint8(9)), "and neither is black: #090909"),
        (picture(np.full((4, 6, 3), (9, 0, 0), np.uint8)), "every pixel is #090000, and no other file"),
        (indexed(MASK, [255, 255, 255, 255, 0, 0]), "and neither is black: #ff0000: .*, #ffffff"),
        (indexed(MASK, [0] * 6), "palette gives several of the values 0, 1 one colour"),
        (indexed(MASK, BLACK_WHITE, transparency=0), "transparent pixels, expected a picture without alpha"),
        (picture(MASK.astype(np.uint8), transparency=0), "transparent pixels"),
        (picture(np.dstack([SCORES, SCORES])), "mode LA, expected one without alpha"),
        (picture(np.zeros((4, 6, 4), np.uint8)), "mode RGBA, expected one without alpha"),
        (
            lambda path: path.write_bytes(raw_png(16, 2, [struct.pack(">18H", *[1] * 18)] * 4)) and None,
            "colours of 16 bits",
        ),
        (
            lambda path: Image.fromarray(ONES * 0).save(path, save_all=True, append_images=[Image.fromarray(ONES)]),
            "an animation of 2 pictures, expected one",
        ),
        (picture(np.zeros((8, 12), np.uint8)), r"12 x 8 px .* it has the image's shape at 2 times its size"),
        (picture(np.zeros((6, 4), np.uint8)), r"4 x 6 px .* it is turned, as if made before the image's EXIF"),
    ],
)
def test_whatever_shows_more_is_refused(split: Split, tmp_path: Path, write: Callable[[Path], None], why: str) -> None:
    with pytest.raises(PredictionError, match=why) as caught:
        read(split, tmp_path, write)
    assert str(caught.value).startswith(str(tmp_path / "image0" / "0.png"))


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_mask_that_exif_turns_is_refused(split: Split, tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    write = picture(MASK.astype(np.uint8), exif=exif)
    if orientation == 1:
        np.testing.assert_array_equal(read(split, tmp_path, write), MASK)
        return
    with pytest.raises(PredictionError, match=f"EXIF orientation {orientation}, expected an upright picture"):
        read(split, tmp_path, write)


def test_what_jpeg_leaves_of_a_mask_is_refused_and_thresholded(split: Split, tmp_path: Path) -> None:
    memory = io.BytesIO()
    Image.fromarray(MASK.astype(np.uint8) * 255).save(memory, "JPEG", quality=95)
    pixels = np.asarray(Image.open(memory))
    with pytest.raises(PredictionError, match=r"grey values, expected two"):
        read(split, tmp_path, picture(pixels))
    np.testing.assert_array_equal(read(split, tmp_path, picture(pixels), threshold=128), pixels >= 128)


@pytest.mark.parametrize("threshold", [1, 128, 253, 255])
@pytest.mark.parametrize(
    "form",
    [
        lambda pixels: picture(pixels),
        lambda pixels: picture(np.dstack([pixels] * 3)),
        lambda pixels: indexed(pixels, [value for value in range(256) for _ in range(3)]),
        lambda pixels: picture(pixels.astype(np.uint16)),
    ],
)
def test_a_threshold_takes_pixels_of_at_least_it(
    split: Split, tmp_path: Path, threshold: int, form: Callable[[NDArray[np.uint8]], Callable[[Path], None]]
) -> None:
    np.testing.assert_array_equal(read(split, tmp_path, form(SCORES), threshold), threshold <= SCORES)


def test_a_threshold_on_one_bit_and_on_one_value(split: Split, tmp_path: Path) -> None:
    np.testing.assert_array_equal(read(split, tmp_path, picture(MASK), 200), MASK)
    assert not read(split, tmp_path, picture(ONES * 12), 13).any()
    assert read(split, tmp_path, picture(ONES * 12), 12).all()


def test_a_threshold_that_cannot_be_meant(split: Split, tmp_path: Path) -> None:
    with pytest.raises(PredictionError, match="--threshold 256: expected at most 255"):
        read(split, tmp_path, picture(SCORES), 256)
    with pytest.raises(PredictionError, match="--threshold 9: found a picture in colours, expected a grey one"):
        read(split, tmp_path, picture(np.dstack([SCORES, SCORES * 0, SCORES])), 9)
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(PredictionError, match="--threshold is for a folder of PNGs, found a file"):
        read_external(tmp_path / "a.json", split, threshold=9)


def test_a_folder_without_pngs_or_that_cannot_be_listed(split: Split, tmp_path: Path) -> None:
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / ".ipynb_checkpoints" / "0.png").write_bytes(b"hidden")
    (tmp_path / "image0").mkdir()
    with pytest.raises(PredictionError, match=f"^{re.escape(str(tmp_path))}: found no prediction in it"):
        read_external(tmp_path, split)


def test_a_folder_that_cannot_be_listed(split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(MASK)(tmp_path / "image1.png")

    def walk(folder: Path, onerror: Callable[[OSError], None]) -> Any:
        onerror(PermissionError(13, "Permission denied", str(folder / "image0")))
        return iter(())

    monkeypatch.setattr("stages.evaluate.external.os.walk", walk)
    with pytest.raises(PredictionError, match="image0: cannot be listed: Permission denied"):
        read_external(tmp_path, split)
