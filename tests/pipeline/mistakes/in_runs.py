"""Mistakes about trainings and their answers: train, evaluate, ask, browse, compare, figure, export, import and questions."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest
from mistakes.mistake import MEANT, ROOT, Made, Mistake, adds, by_hand, instead, meant, types


def predictions(entries: Any, encoding: str = "utf-8", keep: int | None = None) -> Made:
    """A file of predictions, cut off after ``keep`` bytes."""

    def made(project: Any, patch: pytest.MonkeyPatch) -> None:
        (project.folder / "theirs.json").write_bytes(json.dumps(entries).encode(encoding)[:keep])

    return made


def llava(**changes: Any) -> Made:
    """The demo's LLaVA with another config.json; without anything, an empty folder."""

    def made(project: Any, patch: pytest.MonkeyPatch) -> None:
        folder = project.folder / "llava"
        folder.mkdir()
        for path in (ROOT / "demo/models/demo_llava").iterdir() if changes else ():
            (folder / path.name).write_bytes(path.read_bytes())
        if changes:
            config = json.loads((folder / "config.json").read_text())
            for key, value in changes.items():
                config[key] = {**config[key], **value}
            (folder / "config.json").write_text(json.dumps(config))

    return made


def taken(project: Any, patch: pytest.MonkeyPatch) -> None:
    """Port 8321 is taken, whether by us or by somebody else."""
    real = socket.create_server

    def create(address: tuple[str, int], **how: Any) -> socket.socket:
        if address[1] == 8321:
            import errno
            import os

            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        return real(address, **how)

    patch.setattr(socket, "create_server", create)


def somebodys(project: Any, patch: pytest.MonkeyPatch) -> None:
    (project.folder / "out").mkdir()
    (project.folder / "out/thesis.tex").write_text("of somebody")


MIXTURE = "{system: lisa, max_steps: 1, mixture: {refer_seg: {weight: 3"
NONE = {"target_id": "fox/0", "segmentation": None}
TRAIN = "train --system elisa --set train.batch_size=3"
OTHER_LLAVA = f"{TRAIN} --set train.llava="
NAMED = r"such as (\S+\w)"

# fmt: off
ROWS = (
    # train
    Mistake("training of nothing", "train", ("expected --system (elisa, llmseg, lisa) or --name",),
        adds(r"such as (--system elisa)"), on="trained"),
    Mistake("another training of the same name", "train --system elisa --set train.seed=1", ("holds a finished run",
        "train.seed: 0 -> 1"), types("--name elisa-2", then_again=False), on="trained"),
    Mistake("run that no section names", "train --name mine", ("--name: found 'mine'", "expected one of elisa, llmseg, lisa"),
        by_hand("a choice among systems")),
    Mistake("LLaVA that is not there", f"{OTHER_LLAVA}/nowhere", ("/nowhere: found no such folder", "OWNER/NAME"),
        by_hand("the network")),
    Mistake("LLaVA of the hub without a network", f"{OTHER_LLAVA}some/model",
        ("some/model: neither a folder here nor a model of the Hugging Face hub",), by_hand("the network")),
    Mistake("LLaVA of an empty folder", f"{OTHER_LLAVA}$folder/llava", ("llava", "config.json: found no such file"),
        by_hand("the network"), made=llava(), on="finished"),
    Mistake("LLaVA of another width", f"{OTHER_LLAVA}$folder/llava", ("width: the model expects 1024, the column has 128",),
        by_hand("weights of a real CLIP"), made=llava(vision_config={"hidden_size": 1024}), on="finished"),
    Mistake("features that were not computed", f"{TRAIN} --set train.image_encoder=clip_vit_l14",
        ("tiny/train: no column image_features/clip_vit_l14", "add clip_vit_l14 to embed.image_encoders"),
        by_hand("weights of a real CLIP")),
    Mistake("centered vectors that were not computed", f"{TRAIN} --set train.elisa.mask_encoder=dinov2_vitl14",
        ("tiny/train: no column centered/tiny/", "mask_embeddings/sam/dinov2_vitl14",
        "add dinov2_vitl14 to embed.mask_encoders, extract it, and normalize"), by_hand("weights of a real DINOv2")),
    Mistake("report to what is not installed", f"{TRAIN} --set train.report_to=[wandb]",
        ("train.report_to: wandb is not installed",), instead("train.report_to=[wandb]", r"--set (train\.report_to=\[\])"),
        on="finished"),
    Mistake("misspelt split of a mixture", f"train --name mix --set 'runs={{mix: {MIXTURE}, of: [tiny/trian]}}}}}}}}'",
        ("mixture: found 'tiny/trian'", "expected splits of section data: tiny/train"), meant("tiny/trian"), on="trained"),
    Mistake("one split for a list in a mixture", f"info --set 'runs={{mix: {MIXTURE}, of: tiny/train}}}}}}}}'",
        ("runs.mix.mixture.refer_seg.of: found \"tiny/train\"", "expected a list"),
        instead("tiny/train", r"a list: (\[tiny/train\])")),
    Mistake("weight of nothing in a mixture", f"info --set 'runs={{mix: {MIXTURE.replace('3', '0')}, of: [tiny/train]}}}}}}}}'",
        ("runs.mix.mixture.refer_seg.weight: found 0", "expected more than 0"), by_hand("a choice of weights")),
    Mistake("mixture without groups", "info --set 'runs={mix: {system: lisa, max_steps: 1, mixture: [tiny/train]}}'",
        ("runs.mix.mixture: found [\"tiny/train\"]", "expected a section, NAME: {weight: ..., of: ..."),
        by_hand("a choice of weights")),
    Mistake("mixture without a length",
        "info --set 'runs={mix: {system: lisa, mixture: {one: {weight: 3, of: [tiny/train]}}}}'",
        ("epoch_samples: found 0 with a mixture",),
        lambda case: case.replace("system: lisa", f"system: lisa, {case.found('such as (epoch_samples: [0-9]+)')}")),
    # evaluate
    Mistake("evaluation of nothing", "evaluate --split val", ("expected --system or --name, or else --predictions FILE",),
        adds(r"such as (--system elisa)"), on="answered"),
    Mistake("evaluation before training", "evaluate --system llmseg --split val", ("llmseg is not trained",),
        by_hand("a training"), on="answered_once"),
    Mistake("evaluation by other parameters", "evaluate --system elisa --split val --set train.seed=4", ("holds a finished run",
        "not trained with what is asked for", "train.seed: 0 -> 4"), types("evaluate --system elisa", then_again=False),
        on="answered"),
    Mistake("predictions that are not there", "evaluate --predictions $folder/thiers.json --split val",
        ("--predictions: no such file or folder", "thiers.json"),
        lambda case: case.replace(f"{case.project.folder}/thiers.json", case.found(MEANT)),
        made=predictions([{**NONE, "target_id": f"{name}/0"} for name in ("fox", "gnu", "hen")]), on="finished"),
    Mistake("predictions with another key", "evaluate --predictions $folder/theirs.json --split val",
        ("theirs.json[0]: unknown key 'image'", "expected target_id, image_id"), by_hand("the program that made them"),
        made=predictions([{"image": "fox"}]), on="finished"),
    Mistake("predictions that lack some", "evaluate --predictions $folder/theirs.json --split val",
        ("2 of 3 predictions are missing", "first gnu/0"), adds(r"on the command line (--missing empty)"),
        made=predictions([NONE]), on="finished"),
    Mistake("predictions of another size", "evaluate --predictions $folder/theirs.json --split val",
        ("theirs.json[0]: size is [1, 2]", "expected [height, width] = [48, 64] of 'fox'"),
        by_hand("the program that made them"), made=predictions([{**NONE, "segmentation": {"size": [1, 2], "counts": "02"}}]),
        on="finished"),
    Mistake("predictions that were cut off", "evaluate --predictions $folder/theirs.json --split val", ("theirs.json: not JSON",
        "line 1"), by_hand("the program that made them"), made=predictions([NONE], keep=20), on="finished"),
    # ask
    Mistake("asked nothing", "ask --system elisa --image tiny/val/fox", ("ask: expected --question TEXT or --questions FILE",),
        adds(r"such as (--question '[^']+')"), on="answered"),
    Mistake("asked about an image that is not there", "ask --system elisa --image tiny/val/fxo --question what",
        ("tiny/val has no image 'fxo'",), meant("fxo"), on="answered"),
    Mistake("asked about a file that is not there", "ask --system elisa --image nothing.jpg --question what",
        ("found no file 'nothing.jpg'", "expected a picture, or an image of the store as DATASET/SPLIT/IMAGE_ID"),
        instead("nothing.jpg", r"such as (\S+/\S+/\w+)"), on="answered"),
    Mistake("asked when nothing is trained", "ask --image tiny/val/fox --question what --set run.train_dir=$folder/empty",
        ("no run in", "is trained"), by_hand("a training"), on="answered_once"),
    # browse
    Mistake("port that is taken", "browse", ("--port: found 8321, which is taken",), adds(r"(--port 0)"), made=taken),
    Mistake("pages for others without a token", "browse --host 0.0.0.0 --port 0", ("--host: found 0.0.0.0",
        "a token is needed"), types("browse --host 0.0.0.0", then_again=False)),
    Mistake("address that is not of this machine", "browse --host 192.0.2.1 --token 0123456789abcdef --port 0",
        ("--host: cannot listen on 192.0.2.1",), instead("192.0.2.1", r"--host (127\.0\.0\.1)")),
    # compare and figure
    Mistake("compared with nothing", "compare elisa", ("compare: found 1 run", "expected two or more", "there are elisa, lisa"),
        adds(r"there are elisa, (lisa)"), on="answered_once"),
    Mistake("misspelt run", "compare elisa lsia", ("RUN: found 'lsia'", "neither a run nor a file"), meant("lsia"),
        on="answered_once"),
    Mistake("run that answered nothing", "compare elisa lisa --split train", ("train", "evaluate --system elisa --split train"),
        by_hand("a model of lisa"), on="answered_once"),
    Mistake("figure of another kind", "figure --split val --out $folder/figure.gif", ("--out: found", "figure.gif",
        "expected the name of a file that ends in .png or .pdf"), instead(".gif", r"ends in (\.png)"), on="answered"),
    Mistake("figure of an image that is not there", "figure --split val --images foxx --out $folder/figure.png",
        ("--images: found 'foxx'", "expected an image or a question of tiny/val"), meant("foxx"), on="answered"),
    # export
    Mistake("export to a misspelt format", "export --split val --out $folder/export --to coc", ("--to: found 'coc'",
        "expected one of coco, labelme"), meant("coc"), on="finished"),
    Mistake("export into somebody else's folder", "export --to coco --split val --out $folder/out", ("--out:", "holds thesis.tex",
        "expected a folder that is empty or not there yet"),
        lambda case: case.replace(f"{case.project.folder}/out", case.found(NAMED)), made=somebodys, on="finished"),
    Mistake("export into a file", "export --to coco --split val --out $folder/params.yaml", ("params.yaml is a file",
        "expected a folder"), lambda case: case.replace(f"{case.project.folder}/params.yaml", case.found(NAMED)),
        on="finished"),
    Mistake("export of vectors to COCO", "export --to coco --split val --encoder demo_sam --out $folder/export",
        ("--encoder: found --to coco, which holds no vectors",),
        instead("coco", r"expected one of hf, webdataset, fiftyone, (\w+)"), on="finished"),
    Mistake("export of several splits", "export --to coco --out $folder/export",
        ("expected one split, found tiny/train, tiny/val",), adds(r"such as (--\S+ .*)"), on="finished"),
    Mistake("export of predictions without a run", "export --to coco --split val --what predictions --out $folder/export",
        ("--what predictions", "no --system or --name"), adds(r"such as (--system elisa)"), on="answered"),
    # import
    Mistake("import of what is not there", "import $folder/masks.josn --name mine --split val",
        ("masks.josn: found no such file or folder", "expected one of .json"), by_hand("a file of another program")),
    Mistake("import of a file of another kind", "import $folder/params.yaml --name mine --split val",
        ("params.yaml: found a file .yaml", "expected one of .json"), by_hand("a file of another program")),
    Mistake("import of another JSON", "import $data/val/fox.json --name mine --split val", ("fox.json: key 'image' is missing",
        "found: 'is_sentence', 'shapes', 'text'", "docs/import.md"), by_hand("a file of another program")),
    # questions
    Mistake("questions without a section", "questions", ("questions: found no name",
        "section questions of the params: none yet", "params/questions.yaml"), by_hand("models behind an endpoint")),
    Mistake("leaks of a misspelt run", "leaks --run elsia", ("--run: found 'elsia'", "expected one of elisa, llmseg, lisa"),
        meant("elsia"), on="answered_once"),
)
# fmt: on
