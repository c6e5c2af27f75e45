from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from segment_anything import modeling, sam_model_registry
from segment_anything.modeling import Sam

from stages.checkpoints import WeightsError
from stages.proposers.sam import SAM_MODELS
from stages.proposers.sam.model import new_sam
from stages.train.lisa import decoder as lisa
from stages.train.lisa.decoder import MaskDecoder, build_mask_decoder, mask_losses
from stages.transforms import longest_side

HIDDEN = 20
SQUARE = SAM_MODELS["demo_sam"].image_size
ORIGINALS = [(90, 122), (300, 200), (256, 256)]
SIZES = [(longest_side(size, SQUARE), size) for size in ORIGINALS]


@pytest.fixture(scope="module")
def sam() -> Sam:
    torch.manual_seed(7)
    made = new_sam("demo_sam")
    with torch.no_grad():
        for parameter in made.parameters():  # biases and norms too have values of their own
            parameter.add_(0.02 * torch.randn_like(parameter))
    return made


@pytest.fixture(scope="module")
def checkpoint(sam: Sam, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file: Path = tmp_path_factory.mktemp("sam") / "demo_sam.safetensors"
    save_file(sam.state_dict(), file)
    return file


@pytest.fixture
def decoder(checkpoint: Path) -> MaskDecoder:
    torch.manual_seed(0)
    return build_mask_decoder("demo_sam", checkpoint, HIDDEN)


@pytest.fixture
def no_image_encoder(sam: Sam, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Any, *arguments: Any, **options: Any) -> None:
        raise AssertionError("SAM's image encoder is built")

    monkeypatch.setattr(modeling.ImageEncoderViT, "__init__", refuse)


def batch(owner: list[int], images: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(3)
    model = SAM_MODELS["demo_sam"]
    features = torch.randn(images, model.embed_dim, model.grid, model.grid, generator=random).half()
    return torch.randn(len(owner), HIDDEN, generator=random), torch.tensor(owner, dtype=torch.long), features


def released(
    sam: Sam | MaskDecoder, decoder: MaskDecoder, states: torch.Tensor, features: torch.Tensor
) -> torch.Tensor:
    """dvlab-research/LISA of one image [C, h, w] with segment_anything's own modules: low-resolution logits [n, 1, s, s]."""
    _, dense = sam.prompt_encoder(points=None, boxes=None, masks=None)
    logits, _ = sam.mask_decoder(
        image_embeddings=features[None].float(),
        image_pe=sam.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=decoder.text_hidden_fcs(states)[:, None],
        dense_prompt_embeddings=dense.expand(len(states), -1, -1, -1),
        multimask_output=False,
    )
    found: torch.Tensor = logits
    return found


def test_masks_equal_segment_anythings_image_by_image(sam: Sam, decoder: MaskDecoder) -> None:
    states, owner, features = batch([0, 0, 2, 2, 2])
    with torch.no_grad():
        found = decoder(states, owner, features, SIZES)
        assert [tuple(logits.shape) for logits in found] == [(2, 90, 122), (0, 300, 200), (3, 256, 256)]
        for image in (0, 2):
            low = released(sam, decoder, states[owner == image], features[image])
            torch.testing.assert_close(
                decoder.decode(states, owner, features)[owner == image], low[:, 0], atol=1e-5, rtol=0
            )
            expected = sam.postprocess_masks(low, *SIZES[image])[:, 0]
            torch.testing.assert_close(found[image], expected, atol=1e-5, rtol=0)
            assert not torch.allclose(expected[0], expected[1], atol=1e-3)  # another state, another mask


def test_gradients_equal_those_through_segment_anything(sam: Sam, decoder: MaskDecoder) -> None:
    states, owner, features = batch([0, 0, 2, 2, 2])
    found, expected = [], []
    for gradients, ours in ((found, True), (expected, False)):
        decoder.zero_grad()
        given = states.clone().requires_grad_()
        if ours:
            logits = decoder(given, owner, features, SIZES)
        else:
            low = [released(decoder, decoder, given[owner == image], features[image]) for image in (0, 2)]
            logits = [sam.postprocess_masks(one, *SIZES[image])[:, 0] for one, image in zip(low, (0, 2), strict=True)]
        torch.cat([values.flatten() for values in logits]).square().mean().backward()
        gradients += [("states", given.grad), *((name, part.grad) for name, part in decoder.named_parameters())]
    expected = dict(expected)
    for name, gradient in found:
        if gradient is not None:
            other = expected.pop(name)
            torch.testing.assert_close(
                gradient, other, rtol=1e-3, atol=2e-5 * float(other.abs().max()) + 1e-9, msg=name
            )
    assert not any(gradient is not None and gradient.any() for gradient in expected.values()), [*expected]


@pytest.mark.parametrize("name", [*SAM_MODELS])
def test_the_parts_are_those_of_the_model(name: str) -> None:
    with torch.device("meta"):
        whole = (new_sam(name) if SAM_MODELS[name].vit else sam_model_registry[name[4:]]()).state_dict()
        for prefix, part in (
            (lisa.PROMPT_ENCODER, lisa.new_prompt_encoder(name)),
            (lisa.MASK_DECODER, lisa.new_mask_decoder(name)),
        ):
            expected = {key.removeprefix(prefix): value.shape for key, value in whole.items() if key.startswith(prefix)}
            assert {key: value.shape for key, value in part.state_dict().items()} == expected
    prompts = lisa.new_prompt_encoder(name)
    assert prompts.image_embedding_size == (SAM_MODELS[name].grid,) * 2
    assert prompts.input_image_size == (SAM_MODELS[name].image_size,) * 2


@pytest.mark.parametrize("hidden", [4096, 5120])
def test_the_7b_and_13b_sizes(hidden: int) -> None:
    with torch.device("meta"):
        made = MaskDecoder(hidden, lisa.new_prompt_encoder("sam_vit_h"), lisa.new_mask_decoder("sam_vit_h"))
        unread = sum(part.numel() for part in lisa.without_effect(made.mask_decoder))
        whole = sam_model_registry["vit_b"]().mask_decoder  # the decoder of all three is one
    trained = sum(part.numel() for part in made.parameters() if part.requires_grad)
    projected = hidden * hidden + hidden + 256 * hidden + 256
    assert trained == projected + sum(part.numel() for part in whole.parameters()) - unread


def test_the_published_decoder_on_embeddings_of_its_size() -> None:
    torch.manual_seed(2)
    prompts, masks = lisa.new_prompt_encoder("sam_vit_h"), lisa.new_mask_decoder("sam_vit_h")
    decoder = MaskDecoder(HIDDEN, prompts, masks)
    states, features = torch.randn(2, HIDDEN), torch.randn(2, 256, 64, 64).half()
    with torch.no_grad():
        found = decoder.decode(states, torch.tensor([1, 0]), features)
        for row, image in enumerate((1, 0)):
            low = released(decoder, decoder, states[row : row + 1], features[image])
            torch.testing.assert_close(found[row], low[0, 0], atol=1e-5, rtol=0)
    assert found.shape == (2, 256, 256)


@pytest.mark.usefixtures("no_image_encoder")
@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".legacy.pth"])
def test_only_the_decoder_is_built_and_read(
    sam: Sam, checkpoint: Path, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = checkpoint
    if suffix != ".safetensors":
        path = tmp_path / f"sam{suffix}"
        torch.save(sam.state_dict(), path, _use_new_zipfile_serialization=suffix == ".pth")
    read: list[str] = []
    opened = lisa.safe_open

    @contextmanager
    def spy(*arguments: Any, **options: Any) -> Iterator[SimpleNamespace]:
        with opened(*arguments, **options) as file:
            yield SimpleNamespace(keys=file.keys, get_tensor=lambda key: read.append(key) or file.get_tensor(key))

    monkeypatch.setattr(lisa, "safe_open", spy)
    state = build_mask_decoder("demo_sam", path, HIDDEN).state_dict()
    wanted = {key: value for key, value in sam.state_dict().items() if key.startswith(("prompt_enc", "mask_dec"))}
    assert {key for key in state if not key.startswith("text_hidden_fcs.")} == wanted.keys()
    assert all(torch.equal(state[key], value) for key, value in wanted.items())
    if suffix == ".safetensors":
        assert sorted(read) == sorted(wanted)


@pytest.mark.usefixtures("no_image_encoder")
def test_the_image_encoder_need_not_even_be_in_the_file(sam: Sam, tmp_path: Path) -> None:
    file = tmp_path / "half.safetensors"
    state = {key: value.half() for key, value in sam.state_dict().items() if not key.startswith("image_encoder.")}
    save_file(state, file)
    made = build_mask_decoder("demo_sam", file, HIDDEN)
    assert torch.equal(made.mask_decoder.iou_token.weight, sam.mask_decoder.iou_token.weight.half().float())
    states, owner, features = batch([0, 1])
    assert made(states, owner, features, SIZES)[0].shape == (1, 90, 122)


class Harmful:
    """Code in a pickle."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("harm"),)


def test_files_that_are_not_this_models(
    sam: Sam, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("harmful.pth").write_bytes(pickle.dumps(Harmful(), protocol=2))
    torch.save({"mask_decoder.a": Harmful()}, "harmful_zip.pth")
    Path("broken.safetensors").write_bytes(b"no tensors")
    for name in ("harmful.pth", "harmful_zip.pth", "broken.safetensors", "missing.safetensors", "missing.pth"):
        with pytest.raises(WeightsError, match=f"{name} is no SAM checkpoint of plain tensors"):
            build_mask_decoder("demo_sam", Path(name), HIDDEN)
    assert not Path("harm").exists()
    save_file({key: value for key, value in sam.state_dict().items() if "iou_token" not in key}, "part.safetensors")
    with pytest.raises(WeightsError, match="part.safetensors.*1 missing: iou_token.weight"):
        build_mask_decoder("demo_sam", Path("part.safetensors"), HIDDEN)
    with pytest.raises(WeightsError, match="of another shape"):
        build_mask_decoder("sam_vit_b", checkpoint, HIDDEN)
    with pytest.raises(ValueError, match="unknown SAM model 'sam_vit_x'"):
        build_mask_decoder("sam_vit_x", checkpoint, HIDDEN)


def test_embeddings_of_another_sam_and_sizes_of_other_images(decoder: MaskDecoder) -> None:
    states, owner, features = batch([0])
    with pytest.raises(ValueError, match=r"\(64, 16, 16\), expected \(64, 32, 32\)"):
        decoder(states, owner, features[:, :, :16, :16], SIZES)
    with pytest.raises(ValueError, match="sizes of 2 images for SAM embeddings of 3"):
        decoder(states, owner, features, SIZES[:2])
    states, owner, features = batch([0, 2, 0])
    with pytest.raises(ValueError, match=r"images \[0, 2, 0\]: expected them image by image"):
        decoder(states, owner, features, SIZES)


def test_what_is_trained_is_what_lisa_trains(decoder: MaskDecoder) -> None:
    states, owner, features = batch([0, 2, 2])
    states.requires_grad_()
    logits = decoder(states, owner, features, SIZES)
    targets = [torch.rand(values.shape) > 0.5 for values in logits]
    losses = mask_losses(logits, targets, [torch.zeros(size, dtype=torch.bool) for size in ORIGINALS], "background")
    sum(losses.values()).backward()
    unread = ["iou_prediction_head", *(f"output_hypernetworks_mlps.{number}." for number in (1, 2, 3))]
    unread += ["cross_attn_token_to_image.k_proj.bias", "final_attn_token_to_image.k_proj.bias"]
    for name, parameter in decoder.named_parameters():
        trained = name.startswith(("text_hidden_fcs.", "mask_decoder.")) and not any(part in name for part in unread)
        assert parameter.requires_grad == trained, name
        assert (parameter.grad is not None) == trained, name
    for name in (
        "iou_token.weight",
        "mask_tokens.weight",
        "output_upscaling.0.weight",
        "transformer.layers.0.norm1.bias",
    ):
        assert decoder.mask_decoder.get_parameter(name).grad.any(), name
    assert decoder.mask_decoder.output_hypernetworks_mlps[0].layers[2].weight.grad.any()
    assert states.grad is not None
    assert states.grad.any(-1).all()


@pytest.mark.parametrize("ignore", ["background", "excluded"])
def test_a_batch_without_states_has_a_loss_and_gradients_of_zero(decoder: MaskDecoder, ignore: lisa.Ignore) -> None:
    states, owner, features = batch([])
    logits = decoder(states, owner, features, SIZES)
    assert [tuple(values.shape) for values in logits] == [(0, 90, 122), (0, 300, 200), (0, 256, 256)]
    empty = [torch.zeros(values.shape, dtype=torch.bool) for values in logits]
    losses = mask_losses(logits, empty, [torch.zeros(size, dtype=torch.bool) for size in ORIGINALS], ignore)
    assert [value.item() for value in losses.values()] == [0, 0]
    sum(losses.values()).backward()
    for name, parameter in decoder.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert not parameter.grad.any()


def test_autocast_reaches_the_prompts_alone(decoder: MaskDecoder) -> None:
    states, owner, features = batch([0, 1, 2])
    with torch.no_grad():
        exact = decoder(states, owner, features, SIZES)
        with torch.autocast("cpu", torch.bfloat16):
            found = decoder(states.bfloat16(), owner, features, SIZES)
            prompts = decoder.text_hidden_fcs(states)
        decoder.text_hidden_fcs.forward = lambda values: prompts  # type: ignore[method-assign]
        same = decoder(states, owner, features, SIZES)
    for one, other, third in zip(found, exact, same, strict=True):
        assert one.dtype == torch.float32
        assert torch.equal(one, third)
        assert 0 < (one - other).abs().max() < 0.1 * other.abs().max()


def test_it_learns_masks_from_the_committed_demo_model() -> None:
    path = Path(__file__).parents[3] / "demo/models/demo_sam.safetensors"
    torch.manual_seed(4)
    decoder = build_mask_decoder("demo_sam", path, HIDDEN)
    states, owner, features = batch([0, 0, 1], images=2)
    sizes = [((256, 192), (64, 48)), ((128, 256), (32, 64))]
    targets = [torch.zeros(2, 64, 48, dtype=torch.bool), torch.zeros(1, 32, 64, dtype=torch.bool)]
    targets[0][0, 8:40, 4:20] = targets[0][1, 30:60, 20:44] = targets[1][0, 4:28, 30:60] = True
    ignored = [torch.zeros_like(target[0]) for target in targets]
    optimiser = torch.optim.AdamW(
        (part for part in decoder.parameters() if part.requires_grad), lr=2e-3, weight_decay=0
    )
    history = []
    for _ in range(60):
        optimiser.zero_grad()
        logits = decoder(states, owner, features, sizes)
        loss = sum(mask_losses(logits, targets, ignored, "excluded").values())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimiser.step()
        history.append(loss.item())
    assert history[-1] < 0.3 * history[0]
    for predicted, target in zip(decoder(states, owner, features, sizes), targets, strict=True):
        overlap = ((predicted > 0) & target).sum((1, 2)) / ((predicted > 0) | target).sum((1, 2))
        assert overlap.min() > 0.5
