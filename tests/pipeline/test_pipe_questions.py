"""``questions``: a folder in COCO's form and an endpoint become a data set, whatever happens in between."""

from __future__ import annotations

import html
import json
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from lending import rows
from PIL import Image
from written_coco import HEIGHT, WIDTH, annotation, category, image, square, write

from store import open_split, rle
from tests.stages.questions import pretended, server

KEY = "sk-secret-of-the-test"
NAMES = ("cat_(animal)", "cup", "dog", "kite")


@pytest.fixture
def served() -> Iterator[server.Served]:
    with server.serve(pretended.answer) as found:
        yield found


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT), (20 * seed, 90, 200)).save(path)


@pytest.fixture
def project(empty: Any, served: server.Served, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Twelve pictures with two to four categories each, and a set of questions about them."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    images, annotations = [], []
    for number in range(1, 13):
        picture(empty.folder / f"coco/train/{number:012d}.jpg", number)
        images.append(image(number, neg_category_ids=[4] if number % 3 else []))
        for place in range(2 + number % 2):
            annotations.append(annotation(100 * number + place, number, place + 1, square(2 + 12 * place, 3 + number)))
        annotations.append(annotation(100 * number + 9, number, 1, square(30, 3, 4)))
    categories = [category(number, name) for number, name in enumerate(NAMES, start=1)]
    categories[0] |= {"synonyms": ["cat", "kitty"], "def": "a domestic animal"}
    write(empty.folder / "coco", images, annotations, categories, "train.json")
    configure(empty, served.base_url)
    return empty


def configure(project: Any, endpoint: str, **changes: Any) -> None:
    model = {
        "endpoint": endpoint,
        "model": "m",
        "concurrency": 3,
        "usd_per_million_input": 1.0,
        "usd_per_million_output": 2.0,
    }
    made = {
        "of": ["coco/train"],
        "models": {"one": model},
        "choose": {
            "groups": [
                {"name": "few", "categories": [2, 2], "images": 4},
                {"name": "more", "categories": [3, None], "images": 100},
            ]
        },
        "describe": {"model": "one"},
        "ask": {"model": "one"},
        "verify": {"model": "one"},
        "rephrase": {"model": "one", "texts": 4, "answers": True, "absent": 1, "several": 1},
        "splits": {"train": 1, "val": 1},
        "budget_usd": 5.0,
        **changes,
    }
    values = project.values
    values["data"] = {
        "coco": {
            "format": "coco",
            "images": "coco",
            "root": str(project.folder / "coco"),
            "splits": ["train"],
            "absent": True,
        },
        "asked": {
            "format": "generated",
            "images": "coco",
            "root": str(project.folder / "asked"),
            "splits": ["train", "val"],
        },
    }
    values["means"] = {"m": {"train": ["coco/train"]}}
    values["train"]["train"] = ["coco/train"]
    values["questions"] = {"asked": made}
    project.params.write_text(yaml.safe_dump(values, sort_keys=False))


def files(project: Any) -> dict[str, bytes]:
    folder = project.folder / "asked"
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_and_an_endpoint_become_a_data_set(project: Any, served: server.Served) -> None:
    project.build("index --data coco")
    done = project.run("questions")
    assert done.code == 0, done.out + done.err
    assert "group more: 6 images, not the 100 that were asked for" in done.out
    known = {record.image_id: record for record in open_split(project.store, "coco", "train")}
    counts = {"generated": 0, "absent": 0, "several": 0}
    for split in ("train", "val"):
        opened = open_split(project.store, "asked", split)
        for record in opened:
            source = known[record.image_id]
            for target in record.targets:
                counts[target["kind"]] += 1
                labels = {record.instances[each]["label"] for each in target["instances"]}
                of = [each.segmentation for each in source.instances if each["label"] in labels]
                assert target["segmentation"] == rle.union(of, record.height_px, record.width_px)
                assert target["absent"] == (target["kind"] == "absent")
                assert (target["correction"] is not None) == target["absent"]
                made = target["made"]
                assert json.loads(made["prompt"])[0][0] == "system"
                assert made["model"] == "m"
                assert made["usd"] > 0
                assert target["texts"][0] in made["response"] or not target["is_sentence"]
                if target["kind"] != "absent":
                    assert [each["said"] for each in made["verdicts"]] == ["yes", "unknown"]
    assert all(counts.values()), counts
    rejected = [json.loads(line) for line in files(project)["rejected.jsonl"].splitlines()]
    assert {"names_answer", "unknown_answer", "verifier"} <= {each["reason"] for each in rejected}
    prompts = b"".join(path.read_bytes() for path in (project.folder / "asked.journal").iterdir())
    assert b"car_(" not in prompts
    assert b"cat_(animal)" not in prompts  # LVIS's label is never shown
    whole = b"".join([*files(project).values(), prompts, done.out.encode(), done.err.encode()])
    assert KEY.encode() not in whole
    assert {call.authorization for call in served.chats()} == {f"Bearer {KEY}"}

    asked, before = len(served.calls), files(project)
    again = project.run("questions", "asked")
    assert again.code == 0, again.err
    assert (len(served.calls), files(project)) == (asked, before), "nothing is asked or written twice"
    assert project.run("verify", "--deep", "--data", "asked").code == 0


def test_a_dry_run_sends_nothing_and_says_what_would_be_asked(project: Any, served: server.Served) -> None:
    project.build("index --data coco")
    done = project.run("questions", "--dry-run", "--show", "2")
    assert done.code == 0, done.err
    assert not served.calls
    assert not (project.folder / "asked").exists()
    assert done.out.startswith("describe of ")
    assert "not counted" not in done.out
    assert re.search(r"^in all .* \?$", done.out, re.MULTILINE), "no model says how long an answer takes"
    embedded = project.run("questions", "--dry-run", before=("--set", "questions.asked.check.embeddings=one"))
    assert "The texts that one embeds are not counted" in embedded.out
    assert "run that first, or set root" in project.run("index", "--data", "asked").err
    planned = dict(re.findall(r"^(\w+) +m +(\d+) +0 ", done.out, re.MULTILINE))
    assert planned["describe"] == planned["ask"] == planned["several"] == "10"
    assert set(planned) == {"describe", "ask", "several", "verify", "control", "rephrase", "answer", "absent"}
    longer = project.run("questions", "--dry-run", before=("--set", "questions.asked.check.words=[12, 45]")).out
    assert longer.count("\nverify ") == 1, "what is pretended keeps whatever rules there are"
    assert project.run("questions").code == 0
    after = project.run("questions", "--dry-run").out
    assert re.search(r"^in all +(\d+) +\1 +0 +0 +0\.00", after, re.MULTILINE), after


def test_a_limit_and_a_budget_stop_and_the_next_call_goes_on(project: Any, served: server.Served) -> None:
    project.build("index --data coco")
    done = project.run("questions", "--limit", "7")
    assert (done.code, len(served.chats())) == (0, 7), done.err
    assert "asked 7 new requests" in done.out
    assert not (project.folder / "asked").exists()
    configure(project, served.base_url, budget_usd=0.004)
    done = project.run("questions")
    assert done.code == 2
    assert "the budget is spent" in done.err
    paid = len(served.chats())
    assert 7 < paid < 60
    configure(project, served.base_url)
    assert project.run("questions").code == 0
    assert max(served.counts.values()) == 1, "no request was sent twice"


@pytest.mark.parametrize("times", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_killed_it_ends_with_the_same_bytes(project: Any, served: server.Served, times: int) -> None:
    project.build("index --data coco")
    assert project.run("questions").code == 0
    want, once = files(project), len(served.chats())
    for name in ("asked", "asked.journal", "store/asked"):
        shutil.rmtree(project.folder / name)
    served.calls.clear()
    served.counts.clear()
    served.answer = lambda body: time.sleep(0.02) or pretended.answer(body)  # so that some are under way
    kills = 0
    for number in range(times):
        child = project.child("questions")
        deadline, goal = time.monotonic() + 60, (number + 1) * once // (times + 1)
        while child.poll() is None and len(served.chats()) < goal and time.monotonic() < deadline:
            time.sleep(0.002)
        if child.poll() is None:
            child.send_signal(signal.SIGKILL)
            kills += 1
        child.communicate()
    assert kills >= 0.8 * times
    done = project.run("questions")
    assert done.code == 0, done.err
    assert files(project) == want
    again = sum(count - 1 for count in served.counts.values())
    assert again <= 3 * kills, "at most `concurrency` requests per kill"
    assert len(served.counts) == once


def test_a_sheet_and_what_a_person_decided(project: Any, served: server.Served) -> None:
    project.build("index --data coco")
    done = project.run("questions", "--sheet", str(project.folder / "sheet"))
    assert done.code == 0, done.err
    assert (project.folder / "sheet/sheet-001.html").is_file()
    asked = len(served.calls)
    page = (project.folder / "sheet/sheet-001.html").read_text()
    ids = re.findall(r'data-id="([^"]+)"', page) or re.findall(r'id="([0-9]{12}/\d+)"', page)
    assert ids, "a page names its questions"
    question = html.unescape(re.findall(r"<textarea[^>]*>(.*?)</textarea>", page, re.DOTALL)[0])
    decided = {ids[0]: {"decision": "reject", "asked": question}}
    (project.folder / "decided.json").write_text(json.dumps({"form": "questions-sheet-1", "decisions": decided}))
    configure(project, served.base_url, verify={"model": "one", "person": str(project.folder / "decided.json")})
    done = project.run("questions")
    assert done.code == 0, done.err
    assert len(served.calls) == asked
    rejected = [json.loads(line) for line in files(project)["rejected.jsonl"].splitlines()]
    assert [f"{each['image_id']}/{each['number']}" for each in rejected if each["reason"] == "person"] == [ids[0]]


Change = Callable[[dict[str, Any]], Any]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("questions", "askd"), "found 'askd', expected one of section questions of the params: asked.*did you mean"),
        (("--set", "questions.asked.of=[coco/val]", "questions"), "found 'coco/val', expected splits of section data"),
        (
            ("--set", "questions.asked.ask.model=two", "questions"),
            "ask.model: found 'two', expected one of models: one",
        ),
        (("--set", "questions.asked.splits={train: 1}", "questions"), "data.asked.splits: found .*'train', 'val'"),
        (("--set", "data.asked.format=questions", "questions"), "data.asked: found format questions"),
        (("questions",), "coco/train is not indexed"),
        (("--set", "questions.asked.ask.prompt=ask-9", "questions"), "ask-9.*did you mean|expected .*ask-1"),
        (("questions", "--show", "2"), "found no --dry-run; without it they are sent"),
        (("questions", "--dry-run", "--limit", "2"), "expected no other option than --show"),
        (("--set", "questions.asked.check.words=[9, 4]", "questions"), r"words: found \[9, 4\].*smaller number first"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_asked(
    project: Any, served: server.Served, words: tuple[str, ...], says: str
) -> None:
    done = project.run(*words)
    assert done.code == 2
    assert re.search(says, done.err), done.err
    assert not served.calls


def test_without_a_key_nothing_is_sent(project: Any, served: server.Served, monkeypatch: pytest.MonkeyPatch) -> None:
    project.build("index --data coco")
    monkeypatch.delenv("OPENAI_API_KEY")
    done = project.run("questions")
    assert done.code == 2
    assert "OPENAI_API_KEY" in done.err
    assert not served.calls


def test_a_picture_that_changed_since_it_was_indexed_is_named(project: Any, served: server.Served) -> None:
    project.build("index --data coco")
    picture(project.folder / "coco/train" / f"{3:012d}.jpg", 12)
    done = project.run("questions")
    assert done.code == 2
    assert "the file has changed; run index again" in done.err


def test_boxes_are_refused_with_the_command_that_makes_masks_of_them(project: Any, served: server.Served) -> None:
    file = project.folder / "coco/train.json"
    document = json.loads(file.read_text())
    for each in document["annotations"]:
        each |= {"bbox": [1, 1, 5, 5]}
        del each["segmentation"]
    file.write_text(json.dumps(document))
    project.build("index --data coco")
    done = project.run("questions")
    assert done.code == 2
    assert "has boxes, expected masks" in done.err
    assert "boxes --data coco --split train --out FILE" in done.err


def test_pictures_of_protected_splits_are_not_asked_about(project: Any, served: server.Served) -> None:
    values = yaml.safe_load(project.params.read_text())
    picture(project.folder / "seen/val/0.jpg", 3)  # a copy of picture 3 under another name
    (project.folder / "seen/val/0.json").write_text(json.dumps({"shapes": [], "text": ["what?"], "is_sentence": True}))
    values["data"]["seen"] = {
        "format": "reasonseg",
        "images": "seen",
        "root": str(project.folder / "seen"),
        "splits": ["val"],
    }
    values["questions"]["asked"]["check"] = {"protected": ["seen/val"]}
    project.params.write_text(yaml.safe_dump(values))
    project.build("index --data coco,seen")
    done = project.run("questions")
    assert done.code == 0
    assert "left out: 1 pictures of protected splits" in done.out
    assert "left out: 1 pictures of protected splits" in project.run("questions", "--dry-run").out
    assert [row["image_id"] for row in rows(project, "asked/images/train")]
    found = {
        json.loads(line)["image_id"]
        for name in ("train", "val")
        for line in files(project)[f"{name}.jsonl"].splitlines()
    }
    assert f"{3:012d}" not in found
    assert found


def test_absent_categories_are_named_as_things_are_and_parts_are_not_absent(
    project: Any, served: server.Served
) -> None:
    file = project.folder / "coco/train.json"
    document = json.loads(file.read_text())
    document["categories"][3]["name"] = "kite_(toy)"
    document["categories"].append(category(5, "horse:ear"))
    document["annotations"] += [annotation(9001, 2, 4, square(20, 20, 4)), annotation(9002, 2, 5, square(1, 30, 3))]
    file.write_text(json.dumps(document))
    project.build("index --data coco")
    configure(project, served.base_url, exhaustive=True, rephrase={"model": "one", "texts": 1, "absent": 5})
    done = project.run("questions")
    assert done.code == 0, done.err
    asked = {
        found[1] for call in served.chats() if (found := re.search(r"\[Missing\]: (.*)", server.text_of(call.body)))
    }
    assert asked == {"dog", "kite"}
    assert "There is no kite in the picture." in files(project)["train.jsonl"].decode()


@pytest.mark.parametrize("name", ["train.jsonl", "summary.json"])
def test_files_of_others_are_not_written_over(project: Any, served: server.Served, name: str) -> None:
    project.build("index --data coco")
    path = project.folder / "asked" / name
    path.parent.mkdir()
    path.write_text('{"mine": 1}\n')
    done = project.run("questions")
    assert done.code == 2
    assert f"{path}: exists, and `python cli.py questions` did not write it" in done.err
    assert not served.calls
    assert path.read_text() == '{"mine": 1}\n'


@pytest.mark.parametrize("option", ["--sheet", "--set=questions.asked.journal="])
def test_a_file_in_place_of_a_folder_is_refused_at_once(project: Any, served: server.Served, option: str) -> None:
    project.build("index --data coco")
    words = (option, str(project.params)) if option == "--sheet" else ()
    before = () if words else (f"{option}{project.params}",)
    done = project.run("questions", *words, before=before)
    assert done.code == 2
    assert "is a file, expected a folder" in done.err
    assert not served.calls


def test_decisions_without_effect_are_counted(project: Any, served: server.Served) -> None:
    project.build("index --data coco")
    assert project.run("questions").code == 0
    line = json.loads(files(project)["train.jsonl"].splitlines()[0])
    kept, text = line["image_id"], line["targets"][0]["texts"][0]
    number = next(
        number
        for number in range(20)
        if text in line["requests"][0]["response"].partition(f"{number + 1}. [Q]: ")[2].partition("[A]")[0]
    )
    decided = {
        f"{kept}/{number}": {"decision": "reject", "asked": text},
        f"{kept}/{number + 1}": {"decision": "reject", "asked": "a question that was made again since"},
        f"{kept}/998": {"decision": "keep", "asked": text},
        f"{kept}/999": {"decision": "reject", "asked": text},
    }
    (project.folder / "decided.json").write_text(json.dumps({"form": "questions-sheet-1", "decisions": decided}))
    configure(project, served.base_url, verify={"model": "one", "person": str(project.folder / "decided.json")})
    done = project.run("questions")
    assert done.code == 0, done.err
    assert "3 of 4 decisions of a person have no effect, such as that for " in done.out


def test_a_split_without_an_image_is_said_before_anything_is_asked(project: Any, served: server.Served) -> None:
    project.build("index --data coco")
    done = project.run("questions", before=("--set", "questions.asked.splits={train: 1000000000, val: 1}"))
    assert done.code == 2
    assert "none of 10 chosen images falls to split val, nothing was asked; choose more images" in done.err
    assert not served.calls


def test_what_was_written_of_a_split_that_is_none_any_more_goes(project: Any, served: server.Served) -> None:
    project.build("index --data coco")
    assert project.run("questions").code == 0
    mine = project.folder / "asked/notes.jsonl"
    mine.write_text("{}\n")
    configure(project, served.base_url, splits={"train": 1})
    project.values["data"]["asked"]["splits"] = ["train"]
    project.params.write_text(yaml.safe_dump(project.values))
    done = project.run("questions")
    assert done.code == 0, done.err
    assert set(files(project)) == {
        "train.jsonl",
        "rejected.jsonl",
        "summary.json",
        "llmseg40k/train.json",
        "notes.jsonl",
    }


def test_a_rephrasing_that_is_a_protected_question_is_left_out(project: Any, served: server.Served) -> None:
    """Rephrasings, false premises and a person's words come after the other checks."""
    project.build("index --data coco")
    assert project.run("questions").code == 0
    lines = [json.loads(line) for name in ("train", "val") for line in files(project)[f"{name}.jsonl"].splitlines()]
    texts = {text for line in lines for target in line["targets"] for text in target["texts"]}
    taken = sorted(text for text in texts if text.startswith("Would you please tell me"))[0]
    premise = sorted(text for text in texts if text.startswith("Where is the"))[0]
    values = yaml.safe_load(project.params.read_text())
    picture(project.folder / "seen/val/0.jpg", 30)
    note = {"shapes": [], "text": [taken, premise], "is_sentence": True}
    (project.folder / "seen/val/0.json").write_text(json.dumps(note))
    root = str(project.folder / "seen")
    values["data"]["seen"] = {"format": "reasonseg", "images": "seen", "root": root, "splits": ["val"]}
    values["questions"]["asked"]["check"] = {"protected": ["seen/val"], "near": 0.97}
    project.params.write_text(yaml.safe_dump(values))
    project.build("index --data seen")
    assert project.run("questions").code == 0
    after = b"".join(files(project)[f"{name}.jsonl"] for name in ("train", "val")).decode()
    assert json.dumps(taken)[1:-1] not in re.sub(r'"requests".*?"targets"', "", after)
    rejected = [json.loads(line) for line in files(project)["rejected.jsonl"].splitlines()]
    assert {taken, premise} <= {each["what"] for each in rejected if each["reason"] == "leaked"}
