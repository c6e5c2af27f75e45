"""``extract --plan``: hours, bytes, requests and money without data, without weights and without a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from pipeline.config import ROOT
from pipeline.graph import EXTRACTED, specs
from pipeline.params_file import load_settings
from pipeline.scale import profiles as file
from pipeline.scale.amounts import Workload, bytes_per_image, made
from pipeline.scale.evidence import workload
from pipeline.scale.predict import duration, predict
from pipeline.scale.profiles import profiles
from pipeline.scale.seconds import parts, vit_tflop
from stages.names import SplitRef
from store.format.column import read_column
from store.format.layout import column_dir
from store.format.shard import committed_shards, read_commit

REAL = ROOT / "params/reasonseg.yaml"
ASKED = ("extract", "--plan", "--gpu", "rtx-3090", "--json")


def coco(images: int = 118_287, **changes: Any) -> Workload:
    values = {"masks": 75.0, "instances": 0.0, "questions": 0.0, "shards": -(-images // 32)} | changes
    return Workload("reasonseg", images, 480, 640, **values)


@pytest.mark.parametrize(
    ("width", "layers", "tokens", "gflop"),
    [
        (768, 12, 197, 35.2),
        (1024, 24, 257, 162),
        (1024, 24, 577, 382),
        (1024, 24, 37**2 + 1, 1014),
        (1024, 24, 4097, 4130),
    ],
)
def test_operations_of_vision_transformers(width: int, layers: int, tokens: int, gflop: float) -> None:
    """ViT-B/16 and ViT-L/14 of CLIP, DINOv2 at 518 and 896 px: counted by hand, from their published shapes."""
    assert vit_tflop(width, layers, tokens) * 1000 == pytest.approx(gflop, rel=0.01)


def test_sam_and_the_encoders_on_a_3090_are_worked_out_from_its_rates() -> None:
    found = {part.name: part for part in parts(load_settings(REAL), profiles(), "rtx-3090", coco())}
    assert found["sam_vit_h, images"].seconds == pytest.approx(5.961 / 35.6 / 0.7)
    per_point = max(1.708e-3 / 35.6 / 0.7, 2 * 65.4e-3 / 936 / 0.7) + 0.047e-3 * 0.3072 / 35.6 / 0.7
    assert found["sam_vit_h, points"].seconds == pytest.approx(1024 * per_point)
    assert found["alphaclip_vit_b16, masks"].seconds == pytest.approx(64 * 35.2e-3 / 35.6 / 0.7, rel=0.01)
    assert "dinov2_vitl14, images" in found
    assert not any(name.startswith("sam_vit_h") and part.stage == "embed" for name, part in found.items())
    assert {part.kind for part in found.values()} == {"derived", "estimate"}


@pytest.mark.parametrize(
    ("changes", "times"),
    [
        (["proposers.sam_vit_h.points_per_side=64"], {"points": 4, "images": 1}),
        (["proposers.sam_vit_h.precision=float16", "embed.precision=float16"], {"images": (35.6 * 0.7) / (71 * 0.44)}),
        (["proposers.sam_vit_h.crop_n_layers=1"], {"images": 5, "points": 5}),
        (["proposers.other={model: sam_vit_h, points_per_side: 16}"], {"images": 1, "points": 1.25}),
        (["proposers.other={model: sam_vit_h, precision: bfloat16}"], {"images": 1 + (35.6 * 0.7) / (71 * 0.44)}),
    ],
)
def test_what_proposers_share_is_counted_once(changes: list[str], times: dict[str, float]) -> None:
    def seconds(overrides: list[str]) -> dict[str, float]:
        found: dict[str, float] = {}
        for part in parts(load_settings(REAL, overrides), profiles(), "rtx-3090", coco()):
            if part.stage == "masks":
                found[part.name.split(", ")[-1]] = found.get(part.name.split(", ")[-1], 0) + part.seconds
        return found

    before, after = seconds([]), seconds(changes)
    for what, factor in times.items():
        assert after[what] == pytest.approx(factor * before[what]), what


def test_what_was_timed_goes_before_what_is_derived(tmp_path: Path) -> None:
    values = yaml.safe_load(file.FILE.read_text())
    one = {"card": "rtx-3090", "network": "sam_vit_h", "precision": "float32", "per": "image", "ms": 123}
    values["timed"] = [one | {"source": "a stopwatch of this test"}]
    path = tmp_path / "profiles.yaml"
    path.write_text(yaml.safe_dump(values))
    settings = load_settings(REAL)
    found = {part.name: part for part in parts(settings, file.read(path), "rtx-3090", coco())}
    timed = found["sam_vit_h, images"]
    assert (timed.seconds, timed.kind, timed.source) == (0.123, "measured", "a stopwatch of this test")
    assert found["sam_vit_h, points"].kind == "derived"
    assert "measured" not in {part.kind for part in parts(settings, file.read(path), "h200", coco())}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cards": {"x": {"title": "x"}}}, "cards.x.memory_gb"),
        (
            {"masks": {"per_image": {"value": 75, "kind": "guess", "source": "somebody said so"}}},
            "masks.per_image.kind",
        ),
        ({"host": {}}, "host.launch_ms"),
        ({"more": 1}, "more"),
    ],
)
def test_a_profile_without_its_source_or_unit_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    path = tmp_path / "profiles.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(file.FILE.read_text()) | change))
    with pytest.raises(ValidationError) as caught:
        file.read(path)
    assert said in [".".join(map(str, item["loc"])) for item in caught.value.errors()]


def test_bytes_of_arrays_are_those_on_disk(finished_once: Any) -> None:
    settings, split = load_settings(finished_once.params), SplitRef("tiny", "train")
    work = workload(settings, split, masks=1, size_px=(1, 1))
    assert (work.images, work.shards, work.width_px, work.height_px) == (5, 3, 64, 48)
    seen = 0
    for spec in made(settings, work):
        folder = column_dir(settings.store_path, f"tiny/{spec.name}/train")
        meta = read_column(folder)
        sizes = [commit.size for n in committed_shards(folder) if (commit := read_commit(folder, n))]
        assert meta is not None
        assert sizes, spec.name
        if spec.layout is not None:
            record = 900 * len(sizes)  # which is long next to two small images
            assert bytes_per_image(settings, profiles(), spec, work) * work.images == pytest.approx(
                sum(sizes), abs=record
            )
            seen += 1
    assert seen == len([spec for spec in specs(settings, "tiny").values() if spec.layout and spec.over is None]) > 5


def test_the_shards_of_the_store_are_evidence(finished_once: Any) -> None:
    found = finished_once.run("extract", "--plan", "--gpu", "cpu", "--json").json()
    assert (found["images"], [each["images"] for each in found["data"]]) == (8, [5, 3])
    assert all(each["instances"] > 0 and each["questions"] > 0 for each in found["data"])
    measured = [part for part in found["parts"] if part["part"] == "the stage"]
    assert [(part["stage"], part["kind"]) for part in measured] == [(stage, "measured") for stage in EXTRACTED]
    assert all("images in this store's shards" in part["source"] for part in measured)
    others = {part["part"] for part in found["parts"]} - {"the stage"}
    assert others <= {"waiting until shards are published"}  # two small images are computed faster than that
    other = finished_once.run("extract", "--plan", "--gpu", "h200", "--json").json()
    assert "measured" not in {part["kind"] for part in other["parts"] if part["stage"] != "match"}


def test_logs_of_a_card_are_evidence_for_it(finished: Any) -> None:
    for path in (finished.store / "tiny").rglob("log/*.json"):
        log = json.loads(path.read_text())
        log["run"]["card"] = "NVIDIA H200 NVL"
        log["run"]["image_seconds"] = [9.0, 0.25][: len(log["run"]["image_seconds"])]
        path.write_text(json.dumps(log))
    found = finished.run("extract", "--plan", "--gpu", "h200", "--json").json()
    masks = next(part for part in found["parts"] if part["stage"] == "masks")
    assert (masks["kind"], masks["hours"]) == ("measured", pytest.approx(8 * 0.25 / 3600))
    assert "3 images" in masks["source"]  # of shards of 2, 2, 1, 2 and 1 the first image is slow
    other = finished.run("extract", "--plan", "--gpu", "cpu", "--json").json()
    assert {part["kind"] for part in other["parts"] if part["stage"] == "masks"} == {"derived", "estimate"}


def test_a_fast_card_waits_for_a_bucket(cli: Any) -> None:
    def waiting(*words: str) -> dict[str, float]:
        done = cli("--params", str(REAL), "extract", "--plan", "--images", "118287", "--gpu", "h200", "--json", *words)
        parts = done.json()["parts"]
        return {part["stage"]: part["hours"] for part in parts if part["part"].startswith("waiting until")}

    bucket = ("--set", "store=s3://bucket/store", "--set", "embed.precision=float16")
    assert waiting() == {}
    assert waiting(*bucket)["embed"] > 0
    assert "embed" not in waiting(*bucket, "--set", "shard_images=256")


def test_more_workers_and_prices(cli: Any) -> None:
    def plan(*words: str) -> dict[str, Any]:
        done = cli("--params", str(REAL), *ASKED, "--images", "118287", *words)
        assert done.code == 0, done.err
        return dict(json.loads(done.out))

    one, four = plan("--workers", "1"), plan("--workers", "4")
    assert 3.9 < one["hours"] / four["hours"] <= 4
    assert one["bytes"] == four["bytes"] == sum(each["bytes"] for each in one["columns"])
    assert one["usd"] == {"work": None, "storage_per_month": None, "requests": None}
    prices = ("usd_per_gpu_hour=2", "usd_per_gb_month=0.5", "usd_per_1000_writes=3", "usd_per_1000_reads=4")
    paid = plan("--workers", "4", *(word for price in prices for word in ("--set", f"prices.{price}")))
    assert paid["usd"]["work"] == pytest.approx(2 * 4 * four["hours"])
    assert paid["usd"]["storage_per_month"] == pytest.approx(0.5 * four["bytes"] / 1e9)
    requests = four["requests"]
    assert paid["usd"]["requests"] == pytest.approx((3 * requests["writes"] + 4 * requests["reads"]) / 1000)
    assert not {"instances", "targets", "match/sam_vit_h/targets"} & {each["column"] for each in one["columns"]}
    asked = plan("--regions", "7", "--questions", "2")
    assert {"instances", "targets", "match/sam_vit_h/targets"} <= {each["column"] for each in asked["columns"]}


def test_images_of_several_sizes_add_up(cli: Any) -> None:
    def plan(*words: str) -> dict[str, Any]:
        return dict(cli("--params", str(REAL), *ASKED, *words).json())

    small, large = plan("--images", "320", "--size", "64x48"), plan("--images", "640", "--size", "2000x1000")
    both = plan("--images", "320", "--size", "64x48", "--images", "640", "--size", "2000x1000")
    assert both["images"] == 960
    assert both["bytes"] == pytest.approx(small["bytes"] + large["bytes"], abs=9)
    hours = {part["part"]: part["hours"] for part in both["parts"]}
    for part, one, other in zip(both["parts"], small["parts"], large["parts"], strict=True):
        assert hours[part["part"]] == pytest.approx(one["hours"] + other["hours"])
    assert plan("--images", "5", "--images", "6")["data"][1]["width_px"] == 640


def test_int8_is_half_the_bytes_in_the_same_time(cli: Any) -> None:
    alone = ("--params", str(ROOT / "params/lisa.yaml"), "--set", "proposers={}", "--set", "embed.mask_encoders=[]")
    found = [cli(*alone, *more, *ASKED, "--images", "1000").json() for more in ((), ("--set", "embed.dense=[int8]"))]
    assert [part["hours"] for part in found[0]["parts"]] == [part["hours"] for part in found[1]["parts"]] != []
    assert found[1]["bytes"] == pytest.approx(found[0]["bytes"] / 2, rel=0.02)


def test_annotations_need_a_data_set_that_has_them(cli: Any) -> None:
    words = ("--params", str(ROOT / "params/lisa_mixture.yaml"), *ASKED, "--images", "1000")
    assert "instances" not in {each["column"] for each in cli(*words).json()["columns"]}
    found = cli(*words, "--regions", "3").json()
    assert {"instances", "instance_embeddings/sam_vit_h"} <= {each["column"] for each in found["columns"]}
    done = cli(*words, "--regions", "3", "--data", "coco")
    assert (done.code, "none of these data sets holds its images and their annotations" in done.err) == (2, True)


@pytest.mark.parametrize(("shards", "workers", "rounds"), [(64, 8, 8), (65, 8, 9), (3, 8, 1), (0, 8, 0)])
def test_the_last_round_is_not_full(shards: int, workers: int, rounds: int) -> None:
    assert duration(10.0 * shards, shards, workers, 7.0) == pytest.approx(7.0 + 10 * rounds)


def test_what_breaks_grows_with_the_images(cli: Any) -> None:
    def breaks(images: int, *words: str) -> list[str]:
        done = cli("--params", str(REAL), *ASKED, "--images", str(images), *words)
        found = json.loads(done.out)["breaks"]
        assert [each["times"] for each in found] == sorted((each["times"] for each in found), reverse=True)
        assert all(each["times"] >= 1 and each["advice"] for each in found)
        return [each["what"] for each in found]

    assert breaks(118_287) == []
    assert any("a command needs 16 GB of memory" in line for line in breaks(11_000_000))
    assert any("64 workers share 8 shards" in line for line in breaks(239, "--workers", "64"))
    said, told = breaks(11_000_000), breaks(11_000_000, "--set", "store=s3://bucket/store")
    assert any(line.startswith("the columns take") for line in said)
    assert not any(line.startswith(("the columns take", "DVC")) for line in told)  # a bucket has no end
    fast = (
        "--gpu",
        "h200",
        "--workers",
        "64",
        "--size",
        "2250x1500",
        "--masks",
        "100",
        "--set",
        "store=s3://bucket/store",
    )
    assert any(line.startswith("looking at") for line in breaks(11_000_000, *fast))
    shards = "shard_images=4096"
    assert any("which a worker holds in memory" in line for line in breaks(118_287, "--set", shards))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--plan", "--gpu", "rtx3090", "--images", "5"), "did you mean 'rtx-3090'"),
        (("--plan", "--images", "5"), "expected --gpu with one of rtx-3090, a100, h200, cpu"),
        (
            ("--plan", "--gpu", "cpu", "--images", "5", "--size", "640"),
            "--size: found '640', expected width and height in px",
        ),
        (("--plan", "--gpu", "cpu"), "or say how many images there are: --images N"),
        (("--plan", "--gpu", "cpu", "--regions", "3"), "--regions: found no --images"),
        (("--plan", "--gpu", "cpu", "--limit", "3"), "found --limit, which does not go with it"),
        (("--gpu", "cpu"), "--gpu is about --plan; found no --plan"),
        (("--json",), "--json is about --plan; found no --plan"),
        (("--plan", "--gpu", "cpu", "--size", "9x9"), "--size: found no --images"),
        (
            ("--plan", "--gpu", "cpu", "--images", "5", "--size", "9x9", "--size", "8x8"),
            "found 2, expected one for each of 1",
        ),
    ],
)
def test_wrong_options_are_named(
    cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: Any, said: str
) -> None:
    monkeypatch.setattr("pipeline.commands.plan._DRIVER", tmp_path / "none")
    done = cli("--params", str(REAL), "--set", f"store={tmp_path / 'store'}", "extract", *words)
    assert done.code == 2
    assert said in done.err


def test_the_card_of_this_machine_is_the_default(cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.commands.plan._DRIVER", tmp_path)
    (tmp_path / "0000:01:00.0").mkdir()
    information = tmp_path / "0000:01:00.0" / "information"
    information.write_text("Model: \t\t NVIDIA A100-SXM4-40GB\nIRQ:   \t\t 51\n")
    done = cli("--params", str(REAL), "extract", "--plan", "--images", "1000", "--json")
    assert done.json()["gpu"] == "a100"
    information.write_text("Model: \t\t NVIDIA X1\n")
    done = cli("--params", str(REAL), "extract", "--plan", "--images", "1000")
    assert "this machine has NVIDIA X1, about which nothing is known" in done.err


def test_every_network_of_the_shipped_params_is_known() -> None:
    for path in (ROOT / "params.yaml", *sorted((ROOT / "params").glob("*.yaml"))):
        settings = load_settings(path)
        dataset = settings.splits[0].dataset
        work = Workload(dataset, 1000, 480, 640, 75, 1, 1, 32)
        assert predict(settings, profiles(), "h200", 1, [work]).seconds > 0, path.name


def test_it_loads_no_torch() -> None:
    words = ["extract", "--plan", "--gpu", "cpu", "--images", "9"]
    code = f"import sys, cli; sys.argv[1:] = {words}; cli.main(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False", done.stdout
