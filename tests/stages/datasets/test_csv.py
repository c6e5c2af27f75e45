"""One's own questions in a CSV file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from stages.datasets.base import Annotation, DatasetError
from stages.datasets.csvfile import annotate, list_sources
from stages.datasets.params import CsvOptions
from stages.images import ImageFailure
from store import rle

HEIGHT, WIDTH = 20, 30


def read(root: Path, text: str, image_id: str = "a", **options: str) -> Annotation:
    (root / "val.csv").write_text(text, encoding="utf-8")
    own = CsvOptions(**options)  # type: ignore[arg-type]
    (source,) = [each for each in list_sources(root, "val", own) if each.image_id == image_id]
    return annotate(root, source, HEIGHT, WIDTH, own)


def mask_of(annotation: Annotation, number: int = 0) -> np.ndarray:
    return rle.decode(annotation.targets[number].segmentation, HEIGHT, WIDTH)


def test_rows_become_targets(tmp_path: Path) -> None:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[2:5, 3:7] = 9
    Image.fromarray(mask).save(tmp_path / "a-mask.png")
    found = read(
        tmp_path,
        "image,question,mask,box,absent,answer,target,is_sentence\n"
        "a.jpg,Which one?,a-mask.png,,,This.,,\n"
        'b/c.jpg,other,,"1,1,2,2",,,,\n'
        'a.jpg,the box,,"1,2,3,4",no,,t,no\n'
        "a.jpg,a box,,,,,t,no\n"
        "a.jpg,Which elephant?,,,yes,There is none.,,yes\n",
    )
    which, box, absent = found.targets
    assert (mask_of(found) == (mask > 0)).all()
    assert (which.texts, which.answer, which.is_sentence, which.kind) == (("Which one?",), "This.", True, "csv")
    assert (box.texts, box.is_sentence, box.target_id) == (("the box", "a box"), False, "a/1")
    assert mask_of(found, 1).sum() == 12
    assert mask_of(found, 1)[2:6, 1:4].all()
    assert (absent.absent, absent.answer, absent.instances) == (True, "There is none.", ())
    assert not mask_of(found, 2).any()
    assert [target.instances for target in found.targets] == [(0,), (1,), ()]
    assert list_sources(tmp_path, "val")[0].annotations == ("val.csv", "a-mask.png")
    assert [source.image_id for source in list_sources(tmp_path, "val")] == ["a", "b/c"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_spreadsheet_may_separate_cells_as_it_likes(tmp_path: Path, delimiter: str) -> None:
    rows = [
        ["Image", " Question ", "polygon"],
        ["a.jpg", "Häß\nlich?", '"1,1 9,1 9,9; 20,10 25,10 25,15"'],
        ["", "", ""],
    ]
    quoted = [[cell.replace("Häß\nlich?", '"Häß\nlich?"') for cell in row] for row in rows]
    text = "\ufeff" + "\r\n".join(delimiter.join(row) for row in quoted)
    found = read(tmp_path, text)
    assert found.targets[0].texts == ("Häß\nlich?",)
    assert mask_of(found)[2, 7]
    assert mask_of(found)[11, 24]


HEADER = "image,question,mask,polygon,box,absent,is_sentence,target\n"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("a.jpg,q,,,,,,", r"line 2: expected one answer in the columns mask, polygon, box, absent, found none"),
        ('a.jpg,q,,,"1,1,2,2",yes,,', r"found absent 'yes', box '1,1,2,2'"),
        ('a.jpg,q,,,"1,1,2,2",,,t\na.jpg,p,,,"1,1,2,3",,,t', r"found box '1,1,2,2', box '1,1,2,3'"),
        ('a.jpg,q,,,"1,1,2",,,', r"box '1,1,2': expected x,y,width,height"),
        ('a.jpg,q,,,"1,1,-2,2",,,', r"expected x,y,width,height"),
        ('a.jpg,q,,"1,1 2,2",,,,', r"polygon '1,1 2,2': expected three points or more"),
        ('a.jpg,q,,"1,1 2,x 3,3",,,,', r"could not convert"),
        ('a.jpg,q,,"1,1 1e9,1 3,3",,,,', r"numbers beyond"),
        ('a.jpg,q,,"1,1 nan,1 3,3",,,,', r"not finite"),
        ("a.jpg,q,gone.png,,,,,", r"mask gone.png: no such file"),
        ("a.jpg,q,../x.png,,,,,", r"leads outside the data set's folder"),
        ("a.jpg,q,small.png,,,,,", r"mask small.png has 3 x 2 px, the upright picture 30 x 20"),
        ("a.jpg,q,empty.png,,,,,", r"mask empty.png marks nothing; expected absent yes"),
        ('a.jpg,q,,,"1,1,2,2",,maybe,', r"'is_sentence' is 'maybe', expected yes or no"),
        ("a.jpg,q,,,,perhaps,,", r"'absent' is 'perhaps', expected yes or no"),
        ('a.jpg,,,,"1,1,2,2",,,', r"'question' of line 2 is empty"),
    ],
)
def test_a_row_that_cannot_be_read_is_named(tmp_path: Path, row: str, said: str) -> None:
    Image.new("L", (3, 2), 1).save(tmp_path / "small.png")
    Image.new("L", (WIDTH, HEIGHT)).save(tmp_path / "empty.png")
    with pytest.raises(ImageFailure, match=said):
        read(tmp_path, HEADER + row + "\n")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("image,text\na.jpg,q\n", r"found the columns 'image', 'text'; expected image, question, and of mask, polygon"),
        ("image,question,question\na.jpg,q,q\n", r"each once"),
        ("image,question\na.jpg,q,r\n", r"line 2 has 3 cells, the header 2"),
        ("image,question\n,q\n", r"line 2: 'image' is '', expected the file of a picture"),
        ("image,question\n", r"has no rows"),
        ('image,question\na.jpg,"q\n', r"line 2"),
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        read(tmp_path, text)


def test_files(tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("image,question\n")
    with pytest.raises(DatasetError, match=r"no file .*val.csv \(CSV files there: other.csv\)"):
        list_sources(tmp_path, "val")
    (tmp_path / "val.csv").write_bytes("image,question\nä.jpg,q\n".encode("cp1252"))
    with pytest.raises(DatasetError, match=r"not in UTF-8 \(byte 15\); save the table as CSV in UTF-8"):
        list_sources(tmp_path, "val")
    (tmp_path / "q.csv").write_text("image,question\nCOCO_val2014_000000000042.jpg,q\n")
    own = CsvOptions(file="q.csv", ids="coco")
    assert [source.image_id for source in list_sources(tmp_path, "val", own)] == ["000000000042"]
    (tmp_path / "q.csv").write_text("image,question\nx.jpg,q\n\n")
    with pytest.raises(DatasetError, match=r"'image' is 'x.jpg', expected a file with COCO's name"):
        list_sources(tmp_path, "val", own)


boxes = st.tuples(st.integers(0, 20), st.integers(0, 10), st.integers(1, 9), st.integers(1, 9))


@given(st.lists(boxes, min_size=1, max_size=5))
@settings(max_examples=25, deadline=None)
def test_boxes_are_read_as_written(tmp_path_factory: pytest.TempPathFactory, drawn: list[tuple[int, ...]]) -> None:
    rows = "".join(f'a.jpg,q{n},"{",".join(map(str, box))}"\n' for n, box in enumerate(drawn))
    found = read(tmp_path_factory.mktemp("csv"), f"image,question,box\n{rows}")
    for number, (x, y, width, height) in enumerate(drawn):
        want = np.zeros((HEIGHT, WIDTH), bool)
        want[y : y + height, x : x + width] = True
        assert (mask_of(found, number) == want).all()
