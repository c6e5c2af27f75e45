"""Official checkpoints: where each comes from, and which bytes it must have.

A file is used only after its sha256 was checked: against this registry or, where no publisher gives a digest,
against ``weights.lock`` at the repository root, which ``--from FILE`` wrote (for the demo models, their training). So everyone
who clones the repository gets the same bytes, or an error that says what to type.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import requests

from stages.checkpoints import WeightsError, kind_of
from stages.download import download
from stages.names import did_you_mean
from store.storage.files import cached_sha256, file_sha256


@dataclass(frozen=True)
class Weights:
    """One checkpoint file."""

    name: str
    """Name in this registry; encoders and SAM models refer to it."""
    url: str | None
    """Where it is fetched from. None: the user gets it by hand, or training makes it."""
    sha256: str | None
    """Hex digest. None: it is in ``weights.lock``."""
    size_bytes: int | None
    """Size, if known beforehand."""
    licence: str
    """Licence of the weights."""
    source: str
    """Who publishes the file, and who states the digest."""
    path: str
    """File name in the folder of fetched weights; if ``committed``, relative to the repository."""
    committed: bool = False
    """Whether the file is part of the repository."""


# name -> size in bytes, sha256. OpenAI's digests are in its URLs, LAION's is on the hub's page of the file.
# Meta lists no digests: its digests, and the sizes, are second-hand; several independent projects pin the same ones.
_PINNED: dict[str, tuple[int | None, str]] = {
    "sam_vit_b": (375_042_383, "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912"),
    "sam_vit_l": (1_249_524_607, "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622"),
    "sam_vit_h": (2_564_550_879, "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e"),
    "dinov2_vits14": (88_283_115, "b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9"),
    "dinov2_vitb14": (346_378_731, "0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73"),
    "dinov2_vitl14": (1_217_586_395, "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428"),
    "dinov2_vitg14": (4_546_108_579, "baf8467e50af277596bbbafa06887c177ee899ab46033649c383577d7e9309d3"),
    "dinov2_vits14_reg": (None, "f433177089a681826f849f194ece3bb48f4d63fb38d32fc837e3dc7a4e5641fb"),
    "dinov2_vitb14_reg": (346_393_545, "73182a088cf94833c94b1666d1c99e02fe87e2007bff57b564fb6206e25dba71"),
    "dinov2_vitl14_reg": (1_217_607_321, "36e4deffbaef061a2576705b0c36f93621e2ae20bf6274694821b0b492551b51"),
    "dinov2_vitg14_reg": (4_546_140_349, "746ecb8c6301c645c5c855be91687d274587d6e48fdaec4a729753160b34a283"),
    "clip_vit_b16": (350_837_078, "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f"),
    "clip_vit_l14": (932_768_134, "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836"),
    "clip_vit_l14_336": (934_088_680, "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02"),
    "openclip_convnext_l": (None, "1a8e47bdefd6d36202ec66a8975edda9e3c89560bcd1ecefe6f676311637a671"),
}


def _pinned(name: str, url: str, licence: str, source: str, path: str = "") -> Weights:
    size_bytes, sha256 = _PINNED[name]
    url = url.format(sha256=sha256)
    return Weights(name, url, sha256, size_bytes, licence, source, path or url.rpartition("/")[2])


def _sam(name: str, suffix: str) -> Weights:
    source = "facebookresearch/segment-anything; second-hand digest: computational-cell-analytics/micro-sam"
    url = f"https://dl.fbaipublicfiles.com/segment_anything/{name}_{suffix}.pth"
    return _pinned(name, url, "Apache-2.0", source)


def _dinov2(name: str) -> Weights:
    source = "facebookresearch/dinov2; second-hand digest: finegrain-ai/refiners"
    folder, file = name.removesuffix("_reg"), name.replace("_reg", "_reg4")
    url = f"https://dl.fbaipublicfiles.com/dinov2/{folder}/{file}_pretrain.pth"
    return _pinned(name, url, "Apache-2.0", source)


def _clip(name: str, file: str) -> Weights:
    url = f"https://openaipublic.azureedge.net/clip/models/{{sha256}}/{file}"
    return _pinned(name, url, "MIT", "openai/CLIP (a TorchScript archive); the digest is in the URL")


def _alphaclip(kind: str, drive_id: str) -> Weights:
    source = f"SunzeY/AlphaCLIP, model-zoo.md: https://drive.google.com/file/d/{drive_id}/view (no digest)"
    licence = "research use only (its training data is CC BY-NC 4.0)"
    path = f"clip_{kind}_grit1m_fultune_8xe.pth"
    return Weights(f"alphaclip_vit_{kind}", None, None, None, licence, source, path)


def _demo(name: str) -> Weights:
    source, path = "this repository: python cli.py demo --train-models", f"demo/models/{name}.safetensors"
    return Weights(name, None, None, None, "Apache-2.0", source, path, committed=True)


_CONVNEXT = "CLIP-convnext_large_d_320.laion2B-s29B-b131K-ft-soup"

WEIGHTS: dict[str, Weights] = {
    weights.name: weights
    for weights in (
        _sam("sam_vit_b", "01ec64"),
        _sam("sam_vit_l", "0b3195"),
        _sam("sam_vit_h", "4b8939"),
        *(_dinov2(f"dinov2_vit{size}14{registers}") for registers in ("", "_reg") for size in "sblg"),
        _clip("clip_vit_b16", "ViT-B-16.pt"),
        _clip("clip_vit_l14", "ViT-L-14.pt"),
        _clip("clip_vit_l14_336", "ViT-L-14-336px.pt"),
        _alphaclip("b16", "16fHEXZ-7bgzcSBHzEz1wXRIZTjQIXm_2"),
        _alphaclip("l14", "1PIhplBnsmSWiJN--TXCCSsiaV6bY9koq"),
        _alphaclip("l14_336", "1DeNbUv0lraDxJZItb7shTlvGW6z_Z9Si"),
        _pinned(
            "openclip_convnext_l",
            f"https://huggingface.co/laion/{_CONVNEXT}/resolve/39918dfbdf69ccd2172e6510a430e92337ee23e1/"
            "open_clip_pytorch_model.safetensors",
            "MIT",
            f"laion/{_CONVNEXT} on the Hugging Face hub, with its digest",
            f"{_CONVNEXT}.safetensors",
        ),
        *map(_demo, ("demo_sam", "demo_alphaclip", "demo_alphaclip_text", "demo_dinov2", "demo_clip")),
    )
}


IMPORTED = "imported/"
"""Prefix of the names of archives that the verb ``import`` wrote; the digest of the archive's bytes follows."""


def imported_name(sha256: str) -> str:
    """Name of an archive of imported masks or vectors in this registry."""
    return f"{IMPORTED}{sha256}"


def expected_sha256(name: str, lock: Path) -> str:
    """Return the digest that the file must have, from the registry or from the lock file.

    Raises :class:`WeightsError` if there is no such checkpoint, or neither file has its digest.
    """
    weights = find(name)
    digest = weights.sha256 or read_lock(lock).get(name)
    if digest is None:
        raise WeightsError(f"{name}: no digest in {lock}; {how_to_get(weights)}")
    return digest


def locate(name: str, folder: Path, lock: Path) -> Path:
    """Return the path of a checkpoint after its bytes were checked; ``folder`` is the folder of fetched weights.

    Raises :class:`WeightsError`, with the command that gets the file, if it is missing or has another digest.
    """
    weights = find(name)
    expected = expected_sha256(name, lock)
    path = _place(weights, folder)
    if not path.is_file():
        raise WeightsError(f"{name}: found no file {path}; {how_to_get(weights)}")
    found = cached_sha256(path)
    if found != expected:
        raise WeightsError(
            f"{path}: found sha256 {found} ({kind_of(path)}), expected {expected}; {how_to_get(weights)}"
        )
    return path


def why_missing(name: str, folder: Path, lock: Path) -> str | None:
    """Why a checkpoint cannot be used yet, with the command that gets it; None if its file exists (its digest is not checked)."""
    weights = find(name)
    if weights.sha256 is None and name not in read_lock(lock):
        return f"{name}: not adopted yet; {how_to_get(weights)}"
    path = _place(weights, folder)
    return None if path.is_file() else f"{name}: found no file {path}; {how_to_get(weights)}"


def _why(error: requests.RequestException) -> str:
    """What is wrong with a request, in words."""
    if isinstance(error, requests.exceptions.SSLError):
        return f"there is no secure connection to the server: {error}"
    if isinstance(error, requests.Timeout) or "timed out" in str(error):  # ConnectionError within a block
        return "the server did not answer in time"
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy of this machine (https_proxy) cannot be reached"
    if isinstance(error, requests.ConnectionError):
        return "the server cannot be reached from this machine"
    return str(error)


def fetch(name: str, folder: Path, lock: Path, progress: bool) -> Path:
    """Fetch a checkpoint into ``folder``, going on where an earlier call stopped, and check its digest.

    Only a file with the right digest ever gets the final name; if it exists, nothing is fetched.
    ``progress`` shows a bar on stderr, if that is a terminal.
    Raises :class:`WeightsError` if the file cannot be fetched or has another digest.
    """
    weights = find(name)
    path = _place(weights, folder)
    expected = expected_sha256(name, lock)
    if path.is_file() and cached_sha256(path) == expected:
        return path
    if weights.url is None:
        raise WeightsError(f"{name}: there is no address to fetch it from; {how_to_get(weights)}")
    folder.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        download(weights.url, part, name, weights.size_bytes, progress)
    except requests.RequestException as error:
        raise WeightsError(
            f"{weights.url}: {_why(error)}; what was fetched is kept, so try again: python cli.py weights {name}, "
            f"or get the file by hand and type: python cli.py weights {name} --from FILE"
        ) from error
    found = file_sha256(part)
    if found != expected:
        kind = kind_of(part)
        part.unlink()
        raise WeightsError(
            f"{weights.url}: found sha256 {found} ({kind}), expected {expected}; nothing was kept, so try again: "
            f"python cli.py weights {name}"
        )
    part.replace(path)
    return path


def record(name: str, file: Path, lock: Path) -> None:
    """Write the digest of ``file`` into the lock file, replacing the one recorded for that checkpoint.

    Raises :class:`WeightsError` for a checkpoint whose digest is in the registry.
    """
    if find(name).sha256 is not None:
        raise WeightsError(f"{name}: its digest is in the registry, not in {lock}")
    digests = {**read_lock(lock), name: file_sha256(file)}
    temporary = lock.with_name(f"{lock.name}.{os.getpid()}.part")
    temporary.write_text(json.dumps(digests, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    temporary.replace(lock)


def find(name: str) -> Weights:
    """The checkpoint of that name; raises :class:`WeightsError` if it is unknown."""
    if name.startswith(IMPORTED):
        sha256, source = name.removeprefix(IMPORTED), "imported here: python cli.py import FILE --name NAME"
        return Weights(name, None, sha256, None, "that of the program that made it", source, f"{name}.zip")
    if name not in WEIGHTS:
        raise WeightsError(
            f"unknown weights {name!r}; choose one of: {', '.join(sorted(WEIGHTS))}{did_you_mean(name, WEIGHTS)}"
        )
    return WEIGHTS[name]


def place(name: str, folder: Path) -> Path:
    """Where the file of a checkpoint is, or would be; ``folder`` is the folder of fetched weights."""
    return _place(find(name), folder)


def _place(weights: Weights, folder: Path) -> Path:
    return (Path(__file__).parents[1] if weights.committed else folder) / weights.path


def how_to_get(weights: Weights) -> str:
    """What to type or to do for the file of a checkpoint."""
    if weights.committed:
        return "check it out again, or train it: python cli.py demo --train-models"
    if weights.name.startswith(IMPORTED):
        return (
            "import the same files again (python cli.py import FILE --name NAME), or copy it from where that was done"
        )
    if weights.url is None:
        return f"get it from {weights.source}, then type: python cli.py weights {weights.name} --from FILE"
    return f"type: python cli.py weights {weights.name}"


def read_lock(lock: Path) -> dict[str, str]:
    """Name -> digest, from the lock file; raises :class:`WeightsError` if it is not a valid lock file."""
    try:
        digests = json.loads(lock.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        digests = None
    if not isinstance(digests, dict) or not all(isinstance(digest, str) for digest in digests.values()):
        raise WeightsError(f"{lock}: expected a JSON object of digests; restore it: git checkout {lock.name}")
    return digests
