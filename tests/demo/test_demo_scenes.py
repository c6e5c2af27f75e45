"""The demo's scenes and its ReasonSeg-format data set: what design.md promises of them, over seeded samples."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from demo.data.dataset import FURTHER, MARKER, DemoError, DemoSizes, make_demo, make_scenes, scene_seeds
from demo.data.polygons import polygons
from demo.data.questions import questions
from demo.data.scenes import CLASSES, COLOURS, OBJECTS, SIDE_PX, USES, VISIBLE_FLOOR, Scene, SceneObject, scene
from demo.data.textures import TEXTURES
from stages.datasets import reasonseg
from store import rle

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = range(700_000, 700_150)
SIZES = DemoSizes(train=48, val=16, test=16)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    """A seeded sample of scenes."""
    return [scene(seed) for seed in SAMPLE]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A smaller demo data set."""
    root = tmp_path_factory.mktemp("demo") / "demo"
    make_demo(root, SIZES, seed=3)
    return root


def annotations(root: Path, split: str) -> dict[str, dict]:
    """Name of every picture of a split, and its annotation."""
    return {
        path.stem: json.loads(path.with_suffix(".json").read_text("utf-8"))
        for path in sorted((root / split).glob("*.jpg"))
    }


def digest(root: Path) -> str:
    """One digest over names and bytes of all files under a folder."""
    total = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        if path.is_file():
            total.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return total.hexdigest()


def test_pictures_have_the_promised_sizes_and_numbers_of_objects(scenes: list[Scene]) -> None:
    for drawn in scenes:
        assert drawn.image.dtype == np.uint8
        assert drawn.image.shape[2] == 3
        assert all(SIDE_PX[0] <= side <= SIDE_PX[1] for side in drawn.image.shape[:2])
        assert OBJECTS[0] <= len(drawn.objects) <= OBJECTS[1]
    assert len({drawn.image.shape for drawn in scenes}) > len(scenes) * 0.9
    assert {len(drawn.objects) for drawn in scenes} >= {3, 4, 5, 6, 7, 8}


def test_a_third_is_occluded_a_fifth_is_small_and_all_classes_and_colours_occur(scenes: list[Scene]) -> None:
    things = [thing for drawn in scenes for thing in drawn.objects]
    assert np.mean([thing.visible.sum() <= 0.8 * thing.amodal_area_px for thing in things]) >= 1 / 3
    assert np.mean([thing.amodal_area_px < 0.02 * thing.visible.size for thing in things]) >= 1 / 5
    assert len(CLASSES) >= 12
    assert {thing.label for thing in things} == set(CLASSES)
    assert {thing.colour for thing in things} == set(COLOURS)
    assert len({thing.texture for thing in things}) >= 4


def test_masks_are_disjoint_above_the_floor_and_inside_their_outlines(scenes: list[Scene]) -> None:
    for drawn in scenes:
        assert np.sum([thing.visible for thing in drawn.objects], axis=0).max() == 1
        for thing in drawn.objects:
            assert thing.visible.mean() >= VISIBLE_FLOOR
            whole = np.zeros(thing.visible.shape, np.uint8)
            for polygon in thing.polygons:
                cv2.fillPoly(whole, [np.round(polygon).astype(np.int32)], 1)
            assert abs(int(whole.sum()) - thing.amodal_area_px) < 0.2 * thing.amodal_area_px + 60
            grown = cv2.dilate(whole, np.ones((5, 5), np.uint8)) > 0
            assert not (thing.visible & ~grown).any()


def test_a_seed_decides_a_scene() -> None:
    first, again, other = scene(5), scene(5), scene(6)
    assert np.array_equal(first.image, again.image)
    assert [thing.label for thing in first.objects] == [thing.label for thing in again.objects]
    assert first.image.shape != other.image.shape or not np.array_equal(first.image, other.image)


def test_polygons_painted_as_lisa_paints_them_give_the_mask_back(scenes: list[Scene]) -> None:
    for drawn in scenes[:40]:
        for thing in drawn.objects:
            painted = np.zeros(thing.visible.shape, np.uint8)
            for polygon in polygons(thing.visible):
                points = np.array([polygon], dtype=np.int32)
                cv2.polylines(painted, points, True, 1, 1)
                cv2.fillPoly(painted, points, 1)
            union = np.count_nonzero(painted.astype(bool) | thing.visible)
            assert np.count_nonzero(painted.astype(bool) & thing.visible) >= 0.98 * union


def test_polygons_keep_holes_open() -> None:
    ring = np.zeros((80, 90), bool)
    ring[10:70, 10:80] = True
    ring[20:40, 20:40] = False
    ring[45:60, 50:70] = False
    (polygon,) = polygons(ring)
    painted = np.zeros(ring.shape, np.uint8)
    cv2.fillPoly(painted, [np.array(polygon, np.int32)], 1)
    assert np.array_equal(painted.astype(bool), ring)


def test_every_use_is_free_of_class_and_colour_words() -> None:
    words = re.compile(rf"\b({'|'.join([*CLASSES, *COLOURS])})(s|es)?\b", re.IGNORECASE)
    assert set(USES) == set(CLASSES)
    assert not [use for uses in USES.values() for use in uses if words.search(use)]


def test_no_long_question_names_its_class_or_colour(scenes: list[Scene]) -> None:
    words = re.compile(rf"\b({'|'.join([*CLASSES, 'leave', *COLOURS])})(s|es)?\b", re.IGNORECASE)
    asked = [question for drawn in scenes for question in questions(drawn, np.random.default_rng(drawn.seed))]
    long = [question for question in asked if question.is_sentence]
    assert len(long) > 3 * len(scenes)
    for question in long:
        assert not [text for text in question.texts if words.search(text)]
    assert {len(question.objects) for question in asked} >= {0, 1, 2, 3}
    assert all(len(question.objects) == len(set(question.objects)) for question in asked)


def test_questions_by_use_mean_all_objects_of_the_class(scenes: list[Scene]) -> None:
    checked = 0
    for drawn in scenes:
        for question in questions(drawn, np.random.default_rng(0)):
            match = re.match(r"There may be more than one here: mark everything that (.*)\.$", question.texts[0])
            if match:
                (label,) = [name for name, uses in USES.items() if match[1] in uses]
                assert [i for i, thing in enumerate(drawn.objects) if thing.label == label] == list(question.objects)
                checked += 1
    assert checked > 20


def questions_of(split: str, count: int) -> list[int]:
    """How many questions each image of a split of the demo has: of a train image :data:`FURTHER` more, if there are that many."""
    if split != "train":
        return [1] * count
    every = [questions(scene(seed), np.random.default_rng(0)) for seed in scene_seeds(split, count, 3)]
    return [min(1 + FURTHER, 2 + sum(bool(question.objects) for question in asked)) for asked in every]


def test_a_train_image_is_asked_a_short_and_a_long_question_about_absent_things(demo: Path) -> None:
    split, count = "train", SIZES.train
    for source, found in zip(reasonseg.list_sources(demo, split), annotations(demo, split).values(), strict=True):
        height, width = cv2.imread(str(demo / source.path)).shape[:2]
        every = reasonseg.annotate(demo, source, height, width).targets
        assert sorted(target.is_sentence for target in every if not target.instances) == [False, True], found["text"]
    assert max(questions_of(split, count)) == 1 + FURTHER


def test_the_form_of_a_question_does_not_tell_that_a_thing_is_absent(scenes: list[Scene]) -> None:
    """Each question has one of the same form about something absent, if something can be."""
    for drawn in scenes:
        asked = questions(drawn, np.random.default_rng(0))
        shown = {thing.texture for thing in drawn.objects} | {"plain"}
        never = {"of all"} | ({"texture"} if len(shown) == len(TEXTURES) else set())
        there = sorted(question.forms for question in asked if question.objects and question.family not in never)
        assert there == sorted(question.forms for question in asked if not question.objects)


def test_what_a_question_about_something_absent_names_is_nowhere(scenes: list[Scene]) -> None:
    """Its words, whatever form they stand in, are true of no object; those of the others are of each that is meant."""

    def is_true(words: tuple[str, ...], thing: SceneObject) -> bool:
        plural = {"leaf": "leaves", "fish": "fish"}.get(thing.label, f"{thing.label}s")
        return set(words) <= {thing.label, plural, thing.colour, thing.texture, *thing.uses}

    families = set()
    for drawn in scenes:
        for question in questions(drawn, np.random.default_rng(drawn.seed)):
            if not question.objects:
                assert not any(is_true(question.named, thing) for thing in drawn.objects), question.texts
                families.add(question.family)
            elif question.family != "relation":  # this names the neighbour of what is meant
                assert all(is_true(question.named, drawn.objects[number]) for number in question.objects)
    assert families == {"class", "coloured class", "colour", "texture", "use", "of a kind", "relation"}


def test_the_data_set_is_in_reasonsegs_format(demo: Path) -> None:
    kinds: dict[str, int] = {}
    for split, count in vars(SIZES).items():
        found = annotations(demo, split)
        files = len(list((demo / split).glob("*.json")))
        assert len(found) == count
        assert files == sum(questions_of(split, count))
        for annotation in found.values():
            assert set(annotation) == {"shapes", "text", "is_sentence"}
            assert isinstance(annotation["is_sentence"], bool)
            assert all(isinstance(text, str) and text for text in annotation["text"])
            assert 1 <= len(annotation["text"]) <= (5 if split == "train" else 1)
            for shape in annotation["shapes"]:
                assert shape["label"] in {"target", "ignore", "flag"}
                assert len(shape["points"]) >= 1
            things = {shape["group_id"] for shape in annotation["shapes"] if shape["label"] == "target"}
            length = "long" if annotation["is_sentence"] else "short"
            kinds[f"{length} {min(len(things), 2)}"] = kinds.get(f"{length} {min(len(things), 2)}", 0) + 1
            for label in ("ignore", "flag"):
                kinds[label] = kinds.get(label, 0) + any(shape["label"] == label for shape in annotation["shapes"])
    assert set(kinds) == {f"{a} {b}" for a in ("long", "short") for b in (0, 1, 2)} | {"ignore", "flag"}
    assert all(kinds.values())
    explanatory = json.loads((demo / "explanatory" / "train.json").read_text("utf-8"))
    train = annotations(demo, "train")
    assert explanatory
    for entry in explanatory:
        assert set(entry) == {"image", "json", "query", "outputs"}
        assert entry["query"] in train[Path(entry["image"]).stem]["text"]
        assert Path(entry["json"]).stem == Path(entry["image"]).stem


def test_the_data_set_is_read_by_the_reasonseg_loader(demo: Path) -> None:
    for split, count in vars(SIZES).items():
        sources = reasonseg.list_sources(demo, split)
        assert len(sources) == count
        for number, source in enumerate(sources):
            height, width = scene(scene_seeds(split, count, 3)[number]).image.shape[:2]
            target = reasonseg.annotate(demo, source, height, width).targets[0]
            raw = annotations(demo, split)[Path(source.path).stem]
            wanted = [shape for shape in raw["shapes"] if shape["label"] == "target"]
            assert (rle.area(target.segmentation) > 0) == bool(wanted)


def test_train_images_have_further_questions_and_the_others_one(demo: Path) -> None:
    for split, count in vars(SIZES).items():
        asked = []
        for number, source in enumerate(reasonseg.list_sources(demo, split)):
            height, width = scene(scene_seeds(split, count, 3)[number]).image.shape[:2]
            found = reasonseg.annotate(demo, source, height, width)
            asked.append(len(found.targets))
            assert len({target.texts for target in found.targets}) == len(found.targets)
            assert {number for target in found.targets for number in target.instances} == set(
                range(len(found.instances))
            )
        assert asked == questions_of(split, count)


def test_the_same_seed_gives_the_same_bytes_and_splits_share_no_scene(tmp_path: Path) -> None:
    sizes = DemoSizes(train=4, val=2, test=2)
    make_demo(tmp_path / "a", sizes, seed=1)
    make_demo(tmp_path / "b", sizes, seed=1)
    make_demo(tmp_path / "c", sizes, seed=2)
    assert digest(tmp_path / "a") == digest(tmp_path / "b") != digest(tmp_path / "c")
    seeds = [set(scene_seeds(split, 240, seed)) for split in ("train", "val", "test") for seed in (0, 1, 2)]
    assert len(set().union(*seeds)) == sum(map(len, seeds))


def test_a_folder_that_is_no_demo_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.txt").write_text("precious")
    with pytest.raises(DemoError, match="photos exists and is no demo data set"):
        make_demo(tmp_path / "photos", DemoSizes(1, 1, 1))
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["mine.txt"]
    (tmp_path / "photos.part").mkdir()
    (tmp_path / "demo").mkdir()
    make_demo(tmp_path / "demo", DemoSizes(1, 1, 1))
    make_demo(tmp_path / "demo", DemoSizes(2, 1, 1))
    assert (tmp_path / "demo" / MARKER).is_file()
    assert len(list((tmp_path / "demo" / "train").glob("*.jpg"))) == 2
    assert not (tmp_path / "demo.part").exists()


def test_what_a_person_put_into_the_demo_or_changed_stays(tmp_path: Path) -> None:
    root, sizes = tmp_path / "demo", DemoSizes(train=2, val=1, test=1)
    assert make_demo(root, sizes) == []
    fresh = digest(root)
    (root / "ask").mkdir()
    (root / "ask/x.jpg").write_bytes(b"mine")
    (root / "train/notes.txt").write_text("mine")
    (root / "train/0000.json").write_text("{}")
    (root / "val/link.jpg").symlink_to(tmp_path / "elsewhere.jpg")
    (root / "test/0000.jpg").unlink()
    mine = ["ask/x.jpg", "train/0000.json", "train/notes.txt", "val/link.jpg"]
    assert make_demo(root, sizes) == mine
    assert (root / "ask/x.jpg").read_bytes() == b"mine"
    assert (root / "train/0000.json").read_text() == "{}"
    assert (root / "test/0000.jpg").is_file()
    assert not (tmp_path / "demo.part").exists()

    # Another generator replaces what the first one wrote, and takes away what it does not write; a person's files stay.
    assert make_demo(root, DemoSizes(train=1, val=1, test=1), seed=1) == mine
    assert not (root / "train/0001.jpg").exists()
    assert (root / "train/0000.json").read_text() == "{}"

    for path in mine:
        (root / path).unlink()
    (root / "ask").rmdir()
    assert make_demo(root, sizes) == []
    assert digest(root) == fresh

    (root / "train/notes.txt").write_text("mine")
    command = [sys.executable, "-m", "demo.data.files", str(root)]  # make clean
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.endswith("as the demo did not write it or it has changed since: train/notes.txt\n")
    assert [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()] == [
        "demo.json",
        "train/notes.txt",
    ]
    (root / "train/notes.txt").unlink()
    assert subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout == ""
    assert not (root / "demo.json").exists()


def test_further_scenes_are_a_split_that_the_reader_takes(tmp_path: Path) -> None:
    make_scenes(tmp_path, "scenes", range(900_000, 900_002))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scenes"]
    entries = list(reasonseg.list_sources(tmp_path, "scenes"))
    assert len(entries) == 2
    assert len(json.loads((tmp_path / "scenes/0000.json").read_text())["text"]) == 1
    drawn = scene(900_000).image
    read = cv2.imread(str(tmp_path / "scenes/0000.jpg"))[..., ::-1]
    assert read.shape == drawn.shape
    assert np.abs(read.astype(float) - drawn).mean() < 6  # a JPEG of that scene
    with pytest.raises(DemoError, match="exists already"):
        make_scenes(tmp_path, "scenes", range(2))
