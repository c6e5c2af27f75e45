"""One's own questions in CSV, JSON and JSON Lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from stages.datasets.base import Annotation, DatasetError
from stages.datasets.params import QuestionsOptions
from stages.datasets.question_rows import COLUMNS
from stages.datasets.questions import annotate, contents, list_sources
from stages.images import ImageFailure
from store import rle

HEIGHT, WIDTH = 20, 30


def read(root: Path, text: str, name: str = "val.csv", image_id: str = "a", **options: Any) -> Annotation:
    (root / name).write_text(text, encoding="utf-8")
    own = QuestionsOptions(**options)
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
        "a.jpg,Which elephant?,,,yes,There is none.,,yes\n"
        "a.jpg,And which camel?,,,,,,\n",
    )
    which, box, absent, nothing = found.targets
    assert (mask_of(found) == (mask > 0)).all()
    assert (which.texts, which.answer, which.is_sentence, which.kind) == (("Which one?",), "This.", True, "questions")
    assert (box.texts, box.is_sentence, box.target_id) == (("the box", "a box"), False, "a/1")
    assert mask_of(found, 1).sum() == 12
    assert mask_of(found, 1)[2:6, 1:4].all()
    assert (absent.absent, absent.answer, absent.instances) == (True, "There is none.", ())
    assert nothing.absent
    assert not mask_of(found, 2).any()
    assert [target.instances for target in found.targets] == [(0,), (1,), (), ()]
    assert list_sources(tmp_path, "val")[0].annotations == ("val.csv", "a-mask.png")
    assert [source.image_id for source in list_sources(tmp_path, "val")] == ["a", "b/c"]


def test_records_say_the_same(tmp_path: Path) -> None:
    box = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    box[2:6, 1:4] = 1
    encoded = pycocotools.mask.encode(box)["counts"].decode()
    flat = [1, 2, 4, 2, 4, 6, 1, 6]
    answers: list[dict[str, Any]] = [
        {"box": [1, 2, 3, 4]}, {"polygon": [flat]}, {"polygons": [[[1, 2], [4, 2], [4, 6], [1, 6]]]}, {"polygon": flat},
        {"polygon": [[1, 2], [4, 2], [4, 6], [1, 6]]}, {"polygons": "1,2 4,2 4,6 1,6"},
        {"rle": {"size": [HEIGHT, WIDTH], "counts": encoded}}, {"rle": encoded},
    ]  # fmt: skip
    records = [{"image": "a.jpg", "questions": ["q", "r"], "is_sentence": False, **answer} for answer in answers]
    lines = "\n".join(map(json.dumps, records))
    for name, text in (("val.jsonl", f"{lines}\n\n"), ("val.json", json.dumps(records))):
        found = read(tmp_path, text, name)
        (tmp_path / name).unlink()
        assert len(found.targets) == len(answers)
        for number, target in enumerate(found.targets):
            assert (mask_of(found, number) == (box > 0)).all(), answers[number]
            assert (target.texts, target.is_sentence) == (("q", "r"), False)


def test_pixels_that_do_not_count_are_outside_the_answer(tmp_path: Path) -> None:
    found = read(tmp_path, 'image,question,box,ignore\na.jpg,q,"0,0,4,4","2,2 9,2 9,9 2,9"\n')
    ignored = rle.decode(found.targets[0].ignore, HEIGHT, WIDTH)
    assert ignored[8, 8]
    assert not (ignored & mask_of(found)).any()


@pytest.mark.parametrize(
    "ignore",
    [
        [[2, 2], [9, 2], [9, 9], [2, 9]], [[[2, 2], [9, 2], [9, 9], [2, 9]]], [2, 2, 9, 2, 9, 9, 2, 9],
        [[2, 2, 9, 2, 9, 9, 2, 9]], "2,2 9,2 9,9 2,9", {"counts": [42, *[7, 13] * 6, 7, 431]},
        '{"counts": [42, 7, 13, 7, 13, 7, 13, 7, 13, 7, 13, 7, 13, 7, 431]}',
    ],
)  # fmt: skip
def test_pixels_that_do_not_count_are_given_as_an_answer_is(tmp_path: Path, ignore: Any) -> None:
    row = {"image": "a.jpg", "question": "q", "absent": True, "ignore": ignore}
    want = np.zeros((HEIGHT, WIDTH), bool)
    want[2:9, 2:9] = True
    found = read(tmp_path, json.dumps(row), "val.jsonl")
    assert (rle.decode(found.targets[0].ignore, HEIGHT, WIDTH) == want).all()


def test_a_number_may_name_a_target(tmp_path: Path) -> None:
    rows = [{"image": "a.jpg", "question": str(n), "target": 0, "box": [1, 1, 2, 2]} for n in range(2)]
    found = read(tmp_path, json.dumps(rows), "val.json")
    assert [target.texts for target in found.targets] == [("0", "1")]


def test_a_region_may_be_drawn_on_the_picture_as_it_is_stored(tmp_path: Path) -> None:
    stored = Image.new("RGB", (HEIGHT, WIDTH))  # a camera held upright: 20 wide, 30 high as stored
    exif = stored.getexif()
    exif[0x0112] = 6
    stored.save(tmp_path / "a.jpg", exif=exif)
    text = 'image,question,box,frame\na.jpg,q,"0,0,20,3",{}\n'
    upright, turned = (read(tmp_path, text.format(frame)) for frame in ("upright", "stored"))
    assert mask_of(upright)[:3, :20].all()
    assert mask_of(turned)[:, WIDTH - 3 :].all()
    assert mask_of(turned).sum() == 60


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_spreadsheet_may_separate_cells_as_it_likes(tmp_path: Path, delimiter: str) -> None:
    rows = [
        ["Image", " Question ", "polygon"],
        ["a.jpg", '"Häß\nlich?"', '"1,1 9,1 9,9; 20,10 25,10 25,15"'],
        ["", "", ""],
    ]
    found = read(tmp_path, "\ufeff" + "\r\n".join(delimiter.join(row) for row in rows))
    assert found.targets[0].texts == ("Häß\nlich?",)
    assert mask_of(found)[2, 7]
    assert mask_of(found)[11, 24]


HEADER = "image,question,mask,polygon,box,absent,is_sentence,target,frame,rle\n"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ('a.jpg,q,,,"1,1,2,2",yes,,,,', r"several answers \(box, absent\).*the line is: a.jpg,q,,,1,1,2,2,yes"),
        ('a.jpg,q,m.png,,"1,1,2,2",,,,,', r"several answers \(mask, box\)"),
        (
            'a.jpg,q,,,"1,1,2,2",,,t,,\na.jpg,p,,,"1,1,2,3",,,t,,',
            r"line 2: the rows of target 't' have 2 different answers",
        ),
        ('a.jpg,q,,,"1,1,2,2",,,t,,\na.jpg,p,,,,yes,,t,,', r"have an answer and absent: yes"),
        ("a.jpg,q,,,,no,,,,", r"absent is no, and nothing says where the answer is"),
        ('a.jpg,q,,,"1,1,2",,,,,', r"'box' is '1,1,2', expected x,y,width,height"),
        ('a.jpg,q,,,"1,1,-2,2",,,,,', r"expected a width and a height above 0"),
        ('a.jpg,q,,"1,1 2,2",,,,,,', r"'polygon' is .*, expected three points or more"),
        ('a.jpg,q,,"1,1 2,x 3,3",,,,,,', r"'polygon' is '1,1 2,x 3,3': could not convert"),
        ('a.jpg,q,,"1,1 1e9,1 3,3",,,,,,', r"polygon: polygon has numbers beyond"),
        ('a.jpg,q,,"1,1 nan,1 3,3",,,,,,', r"not finite"),
        ("a.jpg,q,gone.png,,,,,,,", r"mask: gone.png: no such file"),
        ("a.jpg,q,../x.png,,,,,,,", r"leads outside the data set's folder"),
        ("a.jpg,q,small.png,,,,,,,", r"mask: small.png has 3 x 2 px, the picture 30 x 20"),
        ("a.jpg,q,empty.png,,,,,,,", r"mask marks nothing; expected absent: yes"),
        ("a.jpg,q,,,,,,,,zzz", r"rle: run lengths"),
        ('a.jpg,q,,,"1,1,2,2",,maybe,,,', r"'is_sentence' is 'maybe', expected yes or no"),
        ("a.jpg,q,,,,perhaps,,,,", r"'absent' is 'perhaps', expected yes or no"),
        ('a.jpg,q,,,"1,1,2,2",,,,sideways,', r"'frame' is 'sideways', expected upright"),
        ('a.jpg,,,,"1,1,2,2",,,,,', r"line 2: 'question' is None, expected text"),
        (',q,,,"1,1,2,2",,,,,', r"line 2: 'image' is None, expected text"),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, row: str, said: str) -> None:
    Image.new("L", (3, 2), 1).save(tmp_path / "small.png")
    Image.new("L", (WIDTH, HEIGHT)).save(tmp_path / "empty.png")
    with pytest.raises((ImageFailure, DatasetError), match=said):
        read(tmp_path, HEADER + row + "\n")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (
            "val.csv",
            "image,text\na.jpg,q\n",
            r"found the columns 'image', 'text'; expected image and question, and of mask",
        ),
        ("val.csv", "image,question,question\na.jpg,q,q\n", r"each once"),
        ("val.csv", "image,question,box\na.jpg,q,,s\n", r"line 2 has 4 cells, the header 3; the line is: a.jpg,q,,s"),
        ("val.csv", "image,question,box\n", r"has no rows"),
        (
            "val.csv",
            "image,question\na.jpg,q\n",
            r"says nowhere what the answers are; expected mask or rle or polygon or box",
        ),
        ("val.csv", 'image,question\na.jpg,"q\n', r"line 2"),
        ("val.csv", "", r"file is empty"),
        ("val.jsonl", '{"image": "a.jpg"}\n', r"line 1: found the keys 'image'; expected image and question"),
        ("val.jsonl", '{"image": "a.jpg", "question": "q", "absent": true}\n{"imag', r"line 2: not JSON"),
        ("val.jsonl", "[1]\n", r"line 1: found list, expected a record"),
        ("val.json", "{}", r"found dict, expected a list of records"),
        ("val.json", "[" * 100_000, r"not JSON"),
        ("val.json", '[{"image": "a.jpg", "question": [], "box": [1, 2, 3, 4]}]', r"'question' is \[\], expected text"),
        ("val.json", '[{"image": 7, "question": "q", "box": [1, 2, 3, 4]}]', r"'image' is 7, expected text"),
        (
            "val.json",
            '[{"image": "a.jpg", "question": "q", "box": [1, 2, 3, "4"]}]',
            r"'box' is .*, expected x,y,width,height",
        ),
        ("val.json", '[{"image": "a.jpg", "question": "q", "polygon": []}]', r"expected three points or more"),
        ("val.json", '[{"image": "a.jpg", "question": "q", "polygon": 5}]', r"'polygon' is 5, expected three points"),
        (
            "val.json",
            '[{"image": "a.jpg", "question": "q", "polygon": [[1, 1, 9, 1, 9, 9], 5]}]',
            r"'polygon' is .*three",
        ),
        (
            "val.json",
            '[{"image": "a.jpg", "question": "q", "polygon": [1, 1, 9, 1, 9, true]}]',
            r"'polygon' is .*three",
        ),
        ("val.json", '[{"image": "a.jpg", "question": "q", "polygon": [[[1, 1], [9]]]}]', r"expected points \[x, y\]"),
        ("val.json", '[{"image": "a.jpg", "question": "q", "polygon": {"counts": "a"}}]', r"'polygon' is .*three"),
        ("val.json", '[{"image": "a.jpg", "question": "q", "ignore": [1, 2], "absent": true}]', r"'ignore' is .*three"),
        (
            "val.json",
            '[{"image": "a.jpg", "question": "q", "rle": [[1, 1, 9, 1, 9, 9]]}]',
            r"'rle' is .*, expected the counts",
        ),
        (
            "val.json",
            '[{"image": "a.jpg", "question": "q", "box": [1, 1, NaN, 1]}]',
            r"'box' is .*, expected x,y,width",
        ),
        (
            "val.json",
            '[{"image": "a.jpg", "question": "q", "box": [1.5, 1, 1' + "0" * 400 + ", 1]}]",
            r"'box' is .*, expected x,y",
        ),
        (
            "val.json",
            '[{"image": "a.jpg", "question": "q", "frame": [], "absent": true}]',
            r"'frame' is \[\], expected",
        ),
        (
            "val.json",
            '[{"image": "a.jpg", "question": "q", "target": [], "absent": true}]',
            r"'target' is \[\], expected",
        ),
        ("val.json", '[{"image": "a.jpg", "question": "\\ud800", "absent": true}]', r"half of a surrogate pair"),
        (
            "val.jsonl",
            '{"image": "a.jpg", "question": "q", "questions": ["r"], "absent": true}',
            r"line 1: found the keys 'question' and 'questions', expected one of them; the line is: {\"image\": \"a.jpg\"",
        ),
        (
            "val.json",
            '[{"image": "a.jpg", "question": "q", "polygons": [], "polygon": [1, 1, 9, 1, 9, 9]}]',
            r"line 1: found the keys 'polygon' and 'polygons', expected one of them; the line is: {\"image\": \"a.jpg\"",
        ),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, name: str, text: str, said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        read(tmp_path, text, name)


def test_files(tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("image,question\n")
    with pytest.raises(DatasetError, match=r"no file val.csv or val.jsonl or val.json \(there: other.csv\)"):
        list_sources(tmp_path, "val")
    (tmp_path / "val.csv").write_bytes("image,question\nä.jpg,q\n".encode("cp1252"))
    with pytest.raises(DatasetError, match=r"not in UTF-8 \(byte 15\); save it in UTF-8"):
        list_sources(tmp_path, "val")
    (tmp_path / "val.json").write_text("[]")
    with pytest.raises(DatasetError, match=r"found val.csv and val.json in"):
        list_sources(tmp_path, "val")
    (tmp_path / "q.csv").write_text("image,question,absent\nCOCO_val2014_000000000042.jpg,q,yes\n")
    own = QuestionsOptions(file="q.csv", ids="coco")
    assert [source.image_id for source in list_sources(tmp_path, "val", own)] == ["000000000042"]
    (tmp_path / "q.csv").write_text("image,question,absent\nx.jpg,q,yes\n\n")
    with pytest.raises(DatasetError, match=r"'image' is 'x.jpg', expected a file with COCO's name"):
        list_sources(tmp_path, "val", own)
    (tmp_path / "q.txt").write_text("x")
    with pytest.raises(DatasetError, match=r"the name ends in '.txt', expected one of .csv, .jsonl, .json"):
        list_sources(tmp_path, "val", QuestionsOptions(file="q.txt"))


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


numbers = st.one_of(st.integers(-9, 40), st.floats(), st.sampled_from([10**400, -(2**63), True]))
odd = st.recursive(
    st.one_of(
        st.none(), numbers, st.text(max_size=4).filter(lambda text: "/" not in text),
        st.sampled_from(["yes", "no", "\ud800", "1,1 9,1 9,9", "1,1,5,5", "a.png", "{}", '{"counts": [3, 3]}', "stored", "", " "]),
        st.just(json.loads("[" * 900 + "]" * 900)),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=8),
        st.lists(numbers, min_size=4, max_size=8),
        st.lists(st.lists(numbers, min_size=2, max_size=2), max_size=4),
        st.dictionaries(st.sampled_from(["size", "counts", "points", "x"]), inner, max_size=3),
    ),
    max_leaves=12,
)  # fmt: skip
keys = st.sampled_from([*COLUMNS, "questions", "polygons", "x"])
good = st.fixed_dictionaries({"image": st.just("a.jpg"), "question": st.just("q")})
rows = st.builds(lambda row, more: {**row, **more}, good, st.dictionaries(keys, odd, max_size=3))


@given(st.lists(st.one_of(rows, odd), min_size=1, max_size=3), st.sampled_from([".json", ".jsonl"]))
@settings(max_examples=300, deadline=None)
def test_odd_values_are_read_or_refused_in_words(
    tmp_path_factory: pytest.TempPathFactory, records: list[Any], suffix: str
) -> None:
    root = tmp_path_factory.getbasetemp()
    text = json.dumps(records) if suffix == ".json" else "\n".join(map(json.dumps, records))
    (root / f"odd{suffix}").write_text(text)
    own = QuestionsOptions(file=f"odd{suffix}")
    try:
        sources = list_sources(root, "val", own)
    except DatasetError as error:
        str(error).encode()
        return
    for source, content in zip(sources, contents(root, sources, own), strict=True):
        assert content == source.content
        try:
            found = annotate(root, source, HEIGHT, WIDTH, own)
        except ImageFailure as error:
            str(error).encode()
        else:
            for target in found.targets:
                assert rle.decode(target.segmentation, HEIGHT, WIDTH).any() != target.absent
