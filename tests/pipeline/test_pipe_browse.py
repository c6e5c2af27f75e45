"""``browse``: who may ask, what is answered, and that filters, orders and figures are those of the store."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import re
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import CAPTION, NAME, Server, served
from PIL import Image

from pipeline.browse.api import ANSWERS
from pipeline.browse.guard import HEADERS
from pipeline.params_file import load_settings
from stages.encoders import ENCODERS, build_text
from stages.evaluate.score import score
from stages.predictions import read
from store import open_split

MODELS = Path(__file__).resolve().parents[2] / "demo/models"
SPLIT = "tiny/val"
IMAGES = ["fox", "gnu", "hen", NAME, "empty", "unasked", "wrong"]
TOKEN = "a token that nobody guesses"


@pytest.fixture(scope="module")
def server(browsed: Any) -> Iterator[Server]:
    with served(browsed.params) as running:
        yield running


def names(found: Any) -> list[str]:
    return [item["id"] for item in found["items"]]


# who may ask


@pytest.mark.parametrize(
    "path", ["/", "/image", "/search", "/static/grid.js", "/api/splits", "/nothing", "/picture?side=1"]
)
def test_every_answer_has_the_headers_that_forbid_everything_else(server: Server, path: str) -> None:
    got = server.get(path)
    assert all(got.headers[name.lower()] == value for name, value in HEADERS.items())
    assert got.headers["content-security-policy"].startswith("default-src 'self';")
    assert "server" not in got.headers


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:9000", "LOCALHOST", "[::1]:80"])
def test_this_machine_is_answered_also_through_a_tunnel(server: Server, host: str) -> None:
    assert server.get("/api/splits", host=host).status == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8321", "127.0.0.1.evil.example", "192.168.0.7", "", "127.0.0.1@evil"]
)
def test_a_name_that_was_made_to_lead_here_is_refused(server: Server, host: str) -> None:
    """DNS rebinding."""
    got = server.get("/api/splits", host=host)
    assert got.status == 421
    assert b"tiny" not in got.body


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_another_site_may_link_to_a_page_and_ask_nothing(server: Server, site: str) -> None:
    """``Sec-Fetch-Site`` is set by the browser: a page cannot."""
    headers = {"Sec-Fetch-Site": site}
    assert server.get("/image?split=tiny/val&index=1", **headers).status == 200
    for path in (
        "/api/splits",
        "/api/ask?split=tiny/val&index=1&run=elisa&question=a",
        "/picture?side=320",
        "/static/grid.js",
    ):
        got = server.get(path, **headers)
        assert got.status == 403
        assert b"tiny" not in got.body
    assert server.get("/api/splits", **{"Sec-Fetch-Site": "same-origin"}).status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_nothing_but_get(server: Server, method: str) -> None:
    assert server.get("/api/splits", method=method).status == 405


def test_a_token_is_asked_for_once(browsed: Any) -> None:
    with served(browsed.params, "0.0.0.0", TOKEN) as running:
        assert [running.get(path).status for path in ("/", "/api/splits", "/picture", "/?token=wrong", "/?token=")] == [
            401
        ] * 5
        assert running.get("/", Cookie="elisa_browse=wrong").status == 401
        got = running.get(f"/?token={TOKEN.replace(' ', '%20')}&split={SPLIT}")
        assert (got.status, got.headers["location"]) == (303, "/?split=tiny%2Fval")
        cookie = got.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert TOKEN not in cookie
        assert running.get("/api/splits", Cookie=cookie.partition(";")[0]).status == 200
        assert running.get("/api/splits", host="192.168.0.7:8321", Cookie=cookie.partition(";")[0]).status == 200
        assert running.get("/api/splits", host="evil.example", Cookie=cookie.partition(";")[0]).status == 421


REFUSED = {
    "other machines without a token": (
        ["--host", "0.0.0.0"],
        "browse --host 0.0.0.0 --token",
    ),
    "a short token": (["--host", "0.0.0.0", "--token", "secret"], "--token: found 6 characters"),
    "no such split": (["--split", "vall"], "did you mean 'val'?"),
    "no such data set": (["--data", "tinny"], "did you mean 'tiny'?"),
    "not indexed": (["--set", "store=nowhere"], "nothing to show"),
    "a strange address": (["--host", "256.1.1.1", "--token", TOKEN], "cannot listen on 256.1.1.1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_served_is_said_before_anything_listens(browsed: Any, case: str) -> None:
    arguments, message = REFUSED[case]
    done = browsed.run("browse", "--port", "0", *arguments)
    assert done.code == 2, done.out
    assert message in done.err


def test_a_port_that_is_taken(browsed: Any, server: Server) -> None:
    done = browsed.run("browse", "--port", str(server.port))
    assert done.code == 2
    assert "--port 0 finds one" in done.err


def test_the_verb_says_its_address_ends_with_ctrl_c_and_loads_no_torch(browsed: Any) -> None:
    child = browsed.child("browse", "--port", "0", "--split", "val", env={**os.environ, "PYTHONPROFILEIMPORTTIME": "1"})
    assert child.stdout is not None
    lines = list(itertools.islice(child.stdout, 2))
    port = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/\n", lines[1])
    assert port, lines
    found = Server(int(port[1])).ask("splits")
    assert found["splits"] == [SPLIT]
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 0, err[-2000:]
    imported = set(re.findall(r"\| +(\w+)$", err, re.MULTILINE))
    assert "uvicorn" in imported
    assert not imported & {"torch", "zarr", "dask", "distributed", "matplotlib"}


# what is answered


def test_the_grid_has_every_image_in_order(server: Server) -> None:
    found = server.ask("page", split=SPLIT)
    assert names(found) == IMAGES
    assert found["items"][3]["text"] == CAPTION
    assert found["items"][6]["status"] == "failed"
    assert server.ask("splits")["splits"] == ["tiny/train", SPLIT]


def test_an_error_of_the_program_ends_one_request_alone(
    browsed: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: Any) -> None:
        raise ZeroDivisionError("of the program")

    monkeypatch.setitem(ANSWERS, "provenance", fails)
    with served(browsed.params) as running:
        got = running.get(f"/api/provenance?split={SPLIT}&index=1")
        assert got.status == 500
        assert got.json() == {"error": "internal error (ZeroDivisionError): the terminal shows more"}
        assert got.headers["content-security-policy"] == HEADERS["Content-Security-Policy"]
        assert running.get("/api/splits").status == 200
    assert "ZeroDivisionError: of the program" in capfd.readouterr().err


FILTERS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "part of a question": ({"text": "THE GNU"}, ["gnu"]),
    "another text of a question": ({"text": "in other words"}, [NAME]),
    "part of a name": ({"text": "nask"}, ["unasked"]),
    "markup is text": ({"text": "<B>bold"}, [NAME]),
    "no pattern": ({"text": "g.u"}, []),
    "failed": ({"failed": "yes"}, ["wrong"]),
    "not failed": ({"failed": "no"}, IMAGES[:-1]),
    "nothing to be found": ({"empty": "yes"}, ["empty"]),
    "IoU of a run": ({"range": "run:elisa:0.5:"}, ["fox", "gnu", "hen", NAME, "empty"]),
    "no annotation has no IoU": (
        {"range": ["run:lisa:0:1", "questions:1:"], "failed": "no"},
        ["fox", "gnu", "hen", NAME, "empty"],
    ),
}


@pytest.mark.parametrize("case", FILTERS)
def test_filters(server: Server, case: str) -> None:
    asked, expected = FILTERS[case]
    found = server.ask("page", split=SPLIT, **asked)
    assert names(found) == expected
    assert found["total"] == len(expected)


def measures_of(project: Any, name: str) -> dict[str, float]:
    """The same figures, from the store's records and from the scorer of ``evaluate``."""
    split = open_split(project.store, "tiny", "val", allow_incomplete=True, proposer="sam")
    kind, _, of = name.partition(":")
    if kind == "run":
        answers = read(Path(load_settings(project.params).run.train_dir) / of / "predictions/tiny/val.parquet")[1]
        scores = score(split, answers, system="answers", missing="empty")
        iou = scores.systems["answers"]
        return {split.image_ids[image]: value for image, value in zip(iou.image_index, iou.iou, strict=True)}
    found = {}
    for record in split:
        if record.status != "ok":
            continue
        percent = [100 * mask["area"] / (record.height_px * record.width_px) for mask in record.masks]
        if kind == "best":
            best = (
                [max(target["iou_valid"]) for target in record.rows("match/targets")]
                if record.image_id != "unasked"
                else []
            )
            found |= {record.image_id: best[0]} if best and record.image_id != "empty" else {}
        else:
            found[record.image_id] = {"masks": len(percent), "largest": max(percent), "smallest": min(percent)}[kind]
    return found


@pytest.mark.parametrize("measure", ["masks:sam", "largest:sam", "smallest:sam", "best:sam", "run:elisa", "run:lisa"])
@pytest.mark.parametrize("order", ["up", "down"])
def test_orders_and_figures_are_those_of_the_store(browsed: Any, server: Server, measure: str, order: str) -> None:
    expected = measures_of(browsed, measure)
    found = server.ask("page", split=SPLIT, sort=measure, order=order)
    values = {item["id"]: item["value"] for item in found["items"]}
    assert values == {name: pytest.approx(expected[name], abs=1e-6) if name in expected else None for name in IMAGES}
    ordered = sorted(expected, key=lambda name: (values[name] * (-1 if order == "down" else 1), IMAGES.index(name)))
    assert names(found) == [*ordered, *(name for name in IMAGES if name not in expected)]


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"sort": "masks:sam"},
        {"sort": "run:lisa", "order": "down"},
        {"sort": "difference", "a": "run:elisa", "b": "run:lisa"},
    ],
)
def test_pages_follow_each_other_both_ways(server: Server, asked: dict[str, str]) -> None:
    everything = server.ask("page", split=SPLIT, **asked)["items"]

    def cursor(item: Any) -> str:
        return f"{'' if item['value'] is None else item['value']},{item['index']}"

    for size in (1, 2, 3, 7):
        forward, after = [], {}
        while page := server.ask("page", split=SPLIT, limit=size, **asked, **after):
            if not page["items"]:
                break
            assert page["first"] == len(forward)
            forward += page["items"]
            after = {"after": cursor(page["items"][-1])}
        assert forward == everything
        back = server.ask("page", split=SPLIT, limit=size, before=cursor(everything[4]), **asked)
        assert back["items"] == everything[max(0, 4 - size) : 4]
    middle = server.ask("place", split=SPLIT, index=everything[3]["index"], **asked)
    assert middle == {"before": everything[2]["index"], "after": everything[4]["index"], "place": 3, "total": 7}


def test_one_image_has_its_masks_questions_and_answers(browsed: Any, server: Server) -> None:
    found = server.ask("image", split=SPLIT, index=3)
    record = open_split(browsed.store, "tiny", "val", allow_incomplete=True, proposer="sam")[3]
    masks = found["proposers"]["sam"]["masks"]
    assert [mask["area"] for mask in masks] == [mask["area"] for mask in record.masks]
    (target,) = record.targets
    assert found["targets"][0]["texts"] == [CAPTION, "asked in other words"]
    assert found["proposers"]["sam"]["iou"][target["target_id"]] == pytest.approx(target["iou_valid"], abs=1e-4)
    (answer,) = found["runs"]["elisa"]["answers"][target["target_id"]]
    assert (answer["iou"], answer["d"]) == (1.0, found["targets"][0]["d"])
    assert server.ask("image", split=SPLIT, index=6)["proposers"]["sam"]["error"].startswith(
        "image: no readable header"
    )
    assert "no annotation" in str(server.ask("image", split=SPLIT, index=5)["targets"])


@pytest.mark.parametrize("apart", ["yes", "no"])
@pytest.mark.parametrize("column", ["mask_embeddings/sam/demo_sam", "centered/tiny/mask_embeddings/sam/demo_alphaclip"])
def test_nearest_masks_are_those_of_all_cosines(browsed: Any, server: Server, column: str, apart: str) -> None:
    split = open_split(browsed.store, "tiny", "val", columns=["images", column], allow_incomplete=True)
    vectors = {
        (image, mask): vector.astype(np.float64)
        for image in range(6)
        for mask, vector in enumerate(split[image][column])
    }
    query = vectors[3, 1]
    cosine = {
        key: value @ query / np.linalg.norm(value) / np.linalg.norm(query)
        for key, value in vectors.items()
        if key != (3, 1)
    }
    expected = sorted(cosine, key=lambda key: -cosine[key])
    if apart == "yes":
        expected = [
            next(key for key in expected if key[0] == image) for image in dict.fromkeys(key[0] for key in expected)
        ]
    found = server.ask("nearest", split=SPLIT, index=3, mask=1, column=column, apart=apart)["masks"]
    assert [each["cosine"] for each in found] == pytest.approx([cosine[key] for key in expected[:24]], abs=1e-3)
    assert {(each["index"], each["mask"]) for each in found[:5]} == set(expected[:5])


@pytest.mark.parametrize("apart", ["yes", "no"])
def test_masks_found_by_words_are_those_of_all_cosines(browsed: Any, server: Server, apart: str) -> None:
    column = "mask_embeddings/sam/demo_alphaclip"
    split = open_split(browsed.store, "tiny", "val", columns=["images", column], allow_incomplete=True)
    tower = build_text("demo_alphaclip", MODELS / "demo_alphaclip_text.safetensors", "cpu")
    words = tower.embed("a red <b>mug</b>")
    found = {}
    for image in range(6):
        vectors = split[image][column].astype(np.float64)
        cosines = vectors @ words / np.linalg.norm(vectors, axis=1)
        found |= {(image, mask): cosine for mask, cosine in enumerate(cosines)}
    expected = sorted(found.items(), key=lambda each: -each[1])
    if apart == "yes":
        best: dict[int, tuple[Any, float]] = {}
        for key, cosine in expected:
            best.setdefault(key[0], (key, cosine))
        expected = list(best.values())
    got = server.ask("described", split=SPLIT, column=column, text="a red <b>mug</b>", apart=apart)
    assert got["proposer"] == "sam"
    assert [each["cosine"] for each in got["masks"]] == pytest.approx([cosine for _, cosine in expected[:24]], abs=1e-3)
    assert (got["masks"][0]["index"], got["masks"][0]["mask"]) == expected[0][0]


def test_vectors_that_no_words_belong_to_are_named_with_the_reason(server: Server) -> None:
    texts = server.ask("split", split=SPLIT)["texts"]
    assert texts["mask_embeddings/sam/demo_alphaclip"] == ""
    assert "demo_sam has no text tower" in texts["mask_embeddings/sam/demo_sam"]
    assert "demo_alphaclip" in texts["mask_embeddings/sam/demo_sam"]
    assert "minus a mean" in texts["centered/tiny/mask_embeddings/sam/demo_alphaclip"]


def test_words_are_not_compared_with_vectors_of_other_weights(browsed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    line = replace(ENCODERS["demo_alphaclip"], text="demo_alphaclip")
    monkeypatch.setitem(ENCODERS, "demo_alphaclip", line)
    monkeypatch.setattr("pipeline.browse.towers.expected_sha256", lambda *_: "f" * 64)
    with served(browsed.params) as running:
        got = running.ask("described", split=SPLIT, column="mask_embeddings/sam/demo_alphaclip", text="mug")
        assert got.status == 404
        assert "was made with another demo_alphaclip" in got.json()["error"]


def test_pictures_are_small_and_those_that_were_indexed(browsed: Any, server: Server, tmp_path: Path) -> None:
    got = server.get("/picture?split=tiny/val&index=3&side=320")
    assert got.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(got.body)).size == (64, 48)
    part = server.get("/picture?split=tiny/val&index=3&side=320&box=60,40,4,8")
    assert Image.open(io.BytesIO(part.body)).size == (4, 8)
    other = browsed.copy(tmp_path)
    Image.new("RGB", (64, 48)).save(other.data / "val/gnu.png")
    with served(other.params) as running:
        got = running.get("/picture?split=tiny/val&index=1&side=320")
        assert got.status == 404
        assert "not the file that was indexed" in got.json()["error"]


def test_provenance_says_what_made_it_and_what_is_stale(browsed: Any, server: Server) -> None:
    found = {each["column"]: each for each in server.ask("provenance", split=SPLIT, index=1)["columns"]}
    assert found.pop("image_features/demo_clip")["state"] == "not in the params"
    assert {each["state"] for each in found.values()} == {"current"}
    masks = found["masks/sam"]["facts"]
    assert masks["params"]["model"] == "demo_sam"
    assert list(masks["weights (sha256)"]) == ["demo_sam"]
    assert masks["how it was made"]["seconds"] > 0
    changed = {"--set": "proposers.sam.points_per_side=3"}
    settings = load_settings(browsed.params, list(changed.values()))
    from pipeline.browse.provenance import provenance
    from pipeline.browse.shelf import Shelf, splits_of

    shown = Shelf(settings, splits_of(settings, None, [])).get(SPLIT)
    found = {each["column"]: each for each in provenance(shown, 1)}
    assert found["masks/sam"]["state"] == "other parameters"
    assert "points_per_side: 2 -> 3" in found["masks/sam"]["why"]
    assert found["instances"]["state"] == "current"


WRONG = {
    "no split": ("/api/page?split=..%2F..%2Fetc", 404),
    "no image": ("/api/image?split=tiny/val&index=7", 404),
    "no number": ("/api/image?split=tiny/val&index=-1", 400),
    "no measure": ("/api/page?split=tiny/val&sort=run:../../x", 404),
    "no flag": ("/api/page?split=tiny/val&failed=maybe", 400),
    "no order": ("/api/page?split=tiny/val&order=sideways", 400),
    "no range": ("/api/page?split=tiny/val&range=questions:a:b", 400),
    "no cursor": ("/api/page?split=tiny/val&after=x", 400),
    "no vectors": ("/api/nearest?split=tiny/val&index=1&mask=0&column=../images", 404),
    "no words for these vectors": (
        "/api/described?split=tiny/val&text=mug&column=mask_embeddings/sam/demo_sam",
        404,
    ),
    "no words for centred vectors": (
        "/api/described?split=tiny/val&text=mug&column=centered/tiny/mask_embeddings/sam/demo_alphaclip",
        404,
    ),
    "no text": ("/api/described?split=tiny/val&text=%20&column=mask_embeddings/sam/demo_alphaclip", 400),
    "neither yes nor no": (
        "/api/described?split=tiny/val&text=a&apart=x&column=mask_embeddings/sam/demo_alphaclip",
        400,
    ),
    "no run": ("/api/ask?split=tiny/val&index=1&run=../x&question=a", 400),
    "no question": ("/api/ask?split=tiny/val&index=1&run=elisa&question=%20", 400),
    "control token": ("/api/ask?split=tiny/val&index=1&run=elisa&question=the+%5BSEG%5D", 400),
    "long question": (f"/api/ask?split=tiny/val&index=1&run=elisa&question={'a' * 2001}", 400),
    "no such mask": ("/api/nearest?split=tiny/val&index=1&mask=999&column=mask_embeddings/sam/demo_sam", 404),
    "any size": ("/picture?split=tiny/val&index=1&side=99999", 400),
    "box outside": ("/picture?split=tiny/val&index=1&side=320&box=60,40,40,80", 400),
    "box of nothing": ("/picture?split=tiny/val&index=1&side=320&box=0,0,0,0", 400),
    "failed picture": ("/picture?split=tiny/val&index=6&side=320", 404),
    "file outside": ("/static/..%2Fapp.py", 404),
    "no page": ("/etc/passwd", 404),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_addresses_are_answered_with_the_reason(server: Server, case: str) -> None:
    path, status = WRONG[case]
    got = server.get(path)
    while got.status == 202:
        got = server.get(path)
    assert got.status == status, got.body
    assert b"Traceback" not in got.body


# any store


def test_a_store_that_is_computed_in_part(tiny: Any) -> None:
    tiny.build("index")
    tiny.build("extract --split train --stage masks --limit 1")
    with served(tiny.params) as running:
        about = running.ask("split", split="tiny/train")
        assert about["proposers"] == ["sam"]
        assert any("masks/sam lacks 3 of 5 images" in note for note in about["notes"])
        items = running.ask("page", split="tiny/train", sort="largest:sam")["items"]
        assert [item["value"] is None for item in items] == [False, False, True, True, True]
        assert running.ask("split", split=SPLIT)["proposers"] == []
        tiny.build("extract --split train --stage masks")
        again = running.ask("split", split="tiny/train", again="yes")
        assert again["notes"] == []


def test_borrowed_pictures_have_their_holders_masks(borrowed: Any) -> None:
    (name,) = [name for name in borrowed.values["data"] if name != "tiny"] if borrowed.values else ["lent"]
    with served(borrowed.params) as running:
        split = next(each for each in running.ask("splits")["splits"] if each.startswith(name))
        about = running.ask("split", split=split)
        assert about["proposers"] == ["sam"]
        page = running.ask("page", split=split, sort="masks:sam", order="down", show="largest:sam")
        first = page["items"][0]
        assert first["value"] > 0
        assert first["values"]["largest:sam"] > 0
        image = running.ask("image", split=split, index=first["index"])
        assert len(image["proposers"]["sam"]["masks"]) == first["value"]
        column = next(iter(about["encoders"]["sam"].values()))[0]
        assert running.ask("nearest", split=split, index=first["index"], mask=0, column=column)["masks"]
        states = {
            each["column"]: each for each in running.ask("provenance", split=split, index=first["index"])["columns"]
        }
        assert states["masks/sam"]["facts"]["place"].startswith("tiny/masks/sam/")
        assert running.get(f"/picture?split={split}&index={first['index']}&side=320").status == 200


def test_a_damaged_column_is_said_and_the_rest_shown(browsed: Any, tmp_path: Path) -> None:
    other = browsed.copy(tmp_path)
    (other.store / "tiny/masks/sam/val/column.json").write_text("{")
    with served(other.params) as running:
        about = running.ask("split", split=SPLIT)
        assert any(note.startswith("masks/sam is not shown") for note in about["notes"])
        assert names(running.ask("page", split=SPLIT)) == IMAGES


def test_what_is_kept_stays_below_its_bound() -> None:
    from pipeline.browse.kept import Kept

    kept: Kept[bytes] = Kept(100, len)
    made: list[int] = []

    def make(number: int) -> Callable[[], bytes]:
        return lambda: (made.append(number), bytes(40))[1]

    for number in (1, 2, 1, 3, 1, 2):
        kept.get(number, make(number))
        assert kept.nbytes <= 100
    assert made == [1, 2, 3, 2]
    kept.get(9, lambda: bytes(1000))
    assert kept.nbytes <= 100


def test_long_work_is_told_and_given_when_it_is_done(browsed: Any) -> None:
    import threading

    from pipeline.browse.jobs import Jobs, NotYetError

    jobs, go_on = Jobs(patience_s=0.01), threading.Event()

    def work(advance: Callable[[int, int], None]) -> str:
        advance(1, 2)
        assert go_on.wait(30)
        return "done"

    with pytest.raises(NotYetError):
        jobs.result("key", "work", work)
    go_on.set()
    found = None
    while found is None:
        with contextlib.suppress(NotYetError):
            found = jobs.result("key", "work", work)
    assert found == "done"

    def fails(advance: Callable[[int, int], None]) -> str:
        raise ValueError("no")

    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            jobs.result("other", "work", fails)
    jobs.close()
