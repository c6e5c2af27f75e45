"""Decoding against ``cv2.imread``, which LISA and LLM-Seg read with, and every way a file can be unusable."""

from __future__ import annotations

import errno
import io
import os
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from stages.images import ImageFailure, inside, read_file, read_image, read_picture

LIMIT = 100_000
HEIGHT, WIDTH = 31, 45


def _smooth(channels: int = 3, dtype: type = np.uint8) -> NDArray[Any]:
    """A picture without symmetry that uses the whole range of its type."""
    rng = np.random.default_rng(5)
    top = np.iinfo(dtype).max
    coarse = rng.uniform(0, top, (5, 7, channels))
    return np.clip(cv2.resize(coarse, (WIDTH, HEIGHT)), 0, top).astype(dtype).reshape(HEIGHT, WIDTH, channels)


RGB = Image.fromarray(_smooth())
GRAY = RGB.convert("L")
ALPHA = Image.fromarray(_smooth(1)[:, :, 0])


def _with_alpha(image: Image.Image) -> Image.Image:
    image = image.copy()
    image.putalpha(ALPHA)
    return image


def _palette() -> Image.Image:
    return RGB.convert("P", palette=Image.Palette.ADAPTIVE, colors=13)


def _reference(path: Path) -> NDArray[np.uint8]:
    """What cv2.imread shows, RGB."""
    picture = cv2.imread(str(path))
    assert picture is not None
    return np.asarray(picture[:, :, ::-1], np.uint8)


@pytest.mark.parametrize(
    ("name", "image", "options"),
    [
        ("colour.jpg", RGB, {"quality": 90}),
        ("progressive.jpg", RGB, {"progressive": True}),
        ("gray.jpg", GRAY, {}),
        ("two_pictures.jpg", RGB, {"format": "MPO", "save_all": True, "append_images": [GRAY]}),
        ("colour.png", RGB, {}),
        ("gray.png", GRAY, {}),
        ("one_bit.png", GRAY.convert("1"), {}),
        ("palette.png", _palette(), {}),
        ("palette_one_transparent.png", _palette(), {"transparency": 3}),
        ("palette_many_transparent.png", _palette(), {"transparency": bytes([0, 90, 200])}),
        ("colour_key.png", RGB, {"transparency": (1, 2, 3)}),
        ("gray_key.png", GRAY, {"transparency": 7}),
        ("rgba.png", _with_alpha(RGB), {}),
        ("gray_alpha.png", _with_alpha(GRAY), {}),
        ("wrong_suffix.jpg", RGB, {"format": "PNG"}),
    ],
)
def test_pixels_are_those_of_cv2(tmp_path: Path, name: str, image: Image.Image, options: dict[str, Any]) -> None:
    path = tmp_path / name
    image.save(path, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = read_image(path, LIMIT)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    np.testing.assert_array_equal(pixels, _reference(path))


def test_cmyk_differs_from_cv2_by_rounding_only(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    RGB.convert("CMYK").save(path, quality=95)
    difference = read_image(path, LIMIT).astype(int) - _reference(path)
    assert np.abs(difference).max() <= 1
    assert np.abs(read_image(path, LIMIT).astype(int) - _smooth()).mean() < 5  # and it is not inverted


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_of_16_bits_the_high_8_are_kept(tmp_path: Path, channels: int) -> None:
    path = tmp_path / "a.png"
    values = _smooth(channels, np.uint16)
    assert cv2.imwrite(str(path), values)
    pixels = read_image(path, LIMIT)
    np.testing.assert_array_equal(pixels, _reference(path))
    np.testing.assert_array_equal(pixels[:, :, ::-1], np.broadcast_to(values[:, :, :3] >> 8, pixels.shape))
    assert (pixels == 255).mean() < 0.1  # not clipped


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("suffix", ["jpg", "png", "16.png"])
def test_exif_orientation_is_applied_once(tmp_path: Path, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    image = Image.fromarray(_smooth(1, np.uint16)[:, :, 0]) if suffix == "16.png" else RGB
    image.save(path, exif=exif)
    pixels = read_image(path, LIMIT)
    assert pixels.shape == ((WIDTH, HEIGHT, 3) if orientation in (5, 6, 7, 8) else (HEIGHT, WIDTH, 3))
    np.testing.assert_array_equal(pixels, _reference(path))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("exif", [b"Exif\0\0MM\0*\0\0\0\xff", b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01", b"Exif\0\0"])
def test_an_unreadable_exif_segment_turns_nothing(tmp_path: Path, exif: bytes) -> None:
    path = tmp_path / "a.jpg"
    RGB.save(path, exif=exif)
    np.testing.assert_array_equal(read_image(path, LIMIT), _reference(path))


def test_orientation_in_xmp_turns_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    RGB.save(path, xmp=b'<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="6"/>')
    with Image.open(path) as image:
        assert image.getexif()[0x0112] == 6  # Pillow would turn it
    np.testing.assert_array_equal(read_image(path, LIMIT), _reference(path))


def _png(width: int, height: int) -> bytes:
    """A PNG whose header promises a size that its data does not have."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def _encoded(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


JPEG_BYTES, PNG_BYTES = _encoded(RGB, "JPEG"), _encoded(RGB, "PNG")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", r"^file is empty \(0 bytes\)$"),
        (
            b"<html>not found</html>",
            r"^no readable header of a JPEG, PNG, WebP, BMP or TIFF \(the file starts with b'<html>no'\)$",
        ),
        (_encoded(RGB, "GIF"), r"^no readable header of a JPEG, PNG, WebP, BMP or TIFF .*GIF8"),
        (JPEG_BYTES[:20], "^no readable header of a JPEG, PNG, WebP, BMP or TIFF"),
        (JPEG_BYTES[:-100], "^cannot be decoded: image file is truncated"),
        (PNG_BYTES[: len(PNG_BYTES) // 2], "^cannot be decoded: "),
        (PNG_BYTES[:-30], "^cannot be decoded: "),
        (_png(WIDTH, HEIGHT), "^cannot be decoded: "),
        (_png(400, 300), r"^400 x 300 px are more than the 100000 px allowed$"),
        (_png(9500, 9500), r"^9500 x 9500 px are more than|^cannot be decoded: .*decompression bomb"),
        (_png(60_000, 60_000), "^cannot be decoded: .*decompression bomb"),
        (_png(0, 10), "^(no readable|cannot be decoded)"),
    ],
)
def test_what_the_input_determines_is_a_reason_in_one_line(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    with pytest.raises(ImageFailure, match=reason) as caught:
        read_image(path, LIMIT)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_pillows_own_limit_holds_where_max_pixels_is_larger(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(_png(12_000, 10_000))
    with pytest.raises(ImageFailure, match=r"decompression bomb|more than the 89478485 px allowed"):
        read_image(path, 10**12)


def test_the_size_is_checked_before_anything_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(JPEG_BYTES)
    assert read_image(path, HEIGHT * WIDTH).shape == (HEIGHT, WIDTH, 3)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    with pytest.raises(ImageFailure, match=r"^45 x 31 px are more than the 1394 px allowed$"):
        read_image(path, HEIGHT * WIDTH - 1)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), png=st.booleans())
def test_damaged_bytes_are_pixels_or_a_reason(
    data: st.DataObject, png: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    good = bytearray(PNG_BYTES if png else JPEG_BYTES)
    for _ in range(data.draw(st.integers(1, 6))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    bad = bytes(good[: data.draw(st.integers(1, len(good)))])
    path = tmp_path_factory.getbasetemp() / "damaged.jpg"
    path.write_bytes(bad)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            pixels = read_image(path, LIMIT)
        except ImageFailure as failure:
            assert " at 0x" not in str(failure)  # noqa: PT017
        else:
            assert pixels.ndim == 3


def test_a_missing_file_is_a_reason_but_a_missing_folder_is_not(tmp_path: Path) -> None:
    with pytest.raises(ImageFailure, match=r"^no such file$"):
        read_image(tmp_path / "a.jpg", LIMIT)
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "lost.jpg").symlink_to("nowhere.jpg")
    for name in ("loop.jpg", "lost.jpg"):
        with pytest.raises(ImageFailure, match=r"^a link that leads to no file, or to itself$"):
            read_image(tmp_path / name, LIMIT)
    with pytest.raises(FileNotFoundError):
        read_image(tmp_path / "unmounted" / "a.jpg", LIMIT)


def test_special_files_are_reasons_and_never_waited_for(tmp_path: Path) -> None:
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    for name in ("folder.jpg", "pipe.jpg"):
        with pytest.raises(ImageFailure, match=r"^not a regular file$"):
            read_image(tmp_path / name, LIMIT)


def test_errors_of_the_machine_stay_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(JPEG_BYTES)
    for number, kind in [(errno.EACCES, PermissionError), (errno.EIO, OSError)]:

        def fail(*_: object, code: int = number, **__: object) -> None:
            raise OSError(code, os.strerror(code))

        with monkeypatch.context() as patch:
            patch.setattr(Path, "open", fail)
            with pytest.raises(kind) as caught:
                read_image(path, LIMIT)
            assert not isinstance(caught.value, ImageFailure)
        with monkeypatch.context() as patch:
            patch.setattr(Path, "stat", fail)
            with pytest.raises(kind):
                read_image(path, LIMIT)


def test_a_file_is_never_read_beyond_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(bytes(100))
    assert read_file(path, 100) == bytes(100)
    with pytest.raises(ImageFailure, match=r"^file has 100 bytes, expected at most 99$"):
        read_file(path, 99)
    with path.open("wb") as file:
        file.truncate(2**33)  # sparse
    with pytest.raises(ImageFailure, match=r"^file has 8589934592 bytes, expected at most 67116864$"):
        read_image(path, 1000)


def test_words_stay_inside_the_root_and_links_are_followed(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "val").mkdir(parents=True)
    (tmp_path / "outside.jpg").write_bytes(JPEG_BYTES)
    (root / "val" / "link.jpg").symlink_to(tmp_path / "outside.jpg")
    assert inside(root, "val/a.jpg") == root / "val" / "a.jpg"
    assert read_image(inside(root, "val/link.jpg"), LIMIT).shape == (HEIGHT, WIDTH, 3)
    for relative in ("../outside.jpg", str(tmp_path / "outside.jpg"), "../root2", "val/../val/a.jpg", ".."):
        with pytest.raises(ImageFailure, match=r"leads outside the data set's folder"):
            inside(root, relative)
    for relative in ("val/a\0.jpg", ""):
        with pytest.raises(ImageFailure, match=r"is not a path"):
            inside(root, relative)
    for relative in ("a" * 256, "val/" + "\u00e4" * 128, "a/" * 2001, "\ud800" * 100):
        with pytest.raises(
            ImageFailure, match=r"is too long for a path: expected at most 4000 bytes, and 255 in a name"
        ):
            inside(root, relative)
    assert inside(root, "\u00e4" * 127) == root / ("\u00e4" * 127)


def test_a_root_may_itself_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.jpg").write_bytes(JPEG_BYTES)
    (tmp_path / "link").symlink_to("real")
    assert read_image(inside(tmp_path / "link", "a.jpg"), LIMIT).shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize(
    ("name", "image", "options"),
    [
        ("lossy.webp", RGB, {"quality": 80}),
        ("lossless.webp", RGB, {"lossless": True}),
        ("alpha.webp", _with_alpha(RGB), {"lossless": True, "exact": True}),
        ("moving.webp", RGB, {"save_all": True, "append_images": [GRAY.convert("RGB")], "lossless": True}),
        ("colour.bmp", RGB, {}),
        ("palette.bmp", _palette(), {}),
        ("one_bit.bmp", GRAY.convert("1"), {}),
        ("colour.tif", RGB, {}),
        ("packed.tiff", RGB, {"compression": "tiff_lzw"}),
        ("gray.tif", GRAY, {}),
        ("palette.tif", _palette(), {}),
        ("pages.tif", RGB, {"save_all": True, "append_images": [GRAY]}),
        ("named_otherwise.jpg", RGB, {"format": "WEBP", "lossless": True}),
    ],
)
def test_other_formats_are_those_of_cv2(tmp_path: Path, name: str, image: Image.Image, options: dict[str, Any]) -> None:
    path = tmp_path / name
    image.save(path, **options)
    np.testing.assert_array_equal(read_image(path, LIMIT), _reference(path))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["webp", "tif"])
def test_orientation_of_other_formats_is_applied_once(tmp_path: Path, orientation: int, suffix: str) -> None:
    """Against a PNG of the same pixels, since OpenCV turns no TIFF whose sides are swapped."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name in (f"a.{suffix}", "b.png"):
        RGB.save(tmp_path / name, exif=exif, lossless=True)
    picture = read_picture(tmp_path / f"a.{suffix}", LIMIT)
    np.testing.assert_array_equal(picture.pixels, read_image(tmp_path / "b.png", LIMIT))
    assert picture.orientation == orientation


def test_of_16_bits_in_a_tiff_the_high_8_are_kept(tmp_path: Path) -> None:
    values = _smooth(3, np.uint16)
    assert cv2.imwrite(str(tmp_path / "a.tif"), values)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif", LIMIT)[:, :, ::-1], values >> 8)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_a_tiff_of_32_bits_a_value_is_no_picture(tmp_path: Path, mode: str) -> None:
    GRAY.convert(mode).save(tmp_path / "a.tif")
    with pytest.raises(ImageFailure, match=rf"values of 32 bits \(Pillow's mode {mode}\), expected 8 or 16"):
        read_image(tmp_path / "a.tif", LIMIT)
