"""Building SAM: the official modules, the official checkpoint format, and errors a person can act on."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as coco
from safetensors.torch import save_file
from segment_anything import SamPredictor, sam_model_registry
from segment_anything.modeling import Sam

from demo.data.scenes import scene
from demo.measure.quality import MODEL, Proposals, _candidates, best_ious, mean_best_iou, proposal_quality
from demo.models.train_sam import mask_losses, true_iou
from stages.checkpoints import WeightsError
from stages.proposers.sam import SAM_MODELS
from stages.proposers.sam.model import build_sam, new_sam


@pytest.fixture(scope="module")
def small() -> Sam:
    """A demo SAM whose weights are random but not the ones that a new model has."""
    torch.manual_seed(7)
    sam = new_sam("demo_sam")
    with torch.no_grad():
        for parameter in sam.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return sam


def test_a_published_style_pth_gives_the_same_model(small: Sam, tmp_path: Path) -> None:
    file = tmp_path / "demo.pth"
    torch.save(small.state_dict(), file)
    built = build_sam("demo_sam", file, "cpu")
    assert not built.training
    assert all(torch.equal(value, built.state_dict()[key]) for key, value in small.state_dict().items())
    image = np.random.default_rng(0).integers(0, 255, (200, 256, 3), dtype=np.uint8)
    outputs = []
    for sam in (small, built):
        predictor = SamPredictor(sam)
        predictor.set_image(image)
        outputs.append(predictor.predict(np.array([[100.0, 90.0]]), np.array([1])))
    assert outputs[0][0].shape == (3, 200, 256)
    assert all(np.array_equal(one, other) for one, other in zip(*outputs, strict=True))


def test_float16_safetensors_are_read_as_float32(small: Sam, tmp_path: Path) -> None:
    file = tmp_path / "demo.safetensors"
    save_file({key: value.half().contiguous() for key, value in small.state_dict().items()}, file)
    state = build_sam("demo_sam", file, "cpu").state_dict()
    for key, value in small.state_dict().items():
        assert state[key].dtype == torch.float32
        assert torch.equal(state[key], value.half().float())


@pytest.mark.parametrize("name", ["sam_vit_b", "sam_vit_l", "sam_vit_h"])
def test_the_published_models_are_the_registrys(name: str) -> None:
    with torch.device("meta"):
        expected = sam_model_registry[name.removeprefix("sam_")](checkpoint=None).state_dict()
        state = new_sam(name).state_dict()
    assert {key: value.shape for key, value in state.items()} == {key: value.shape for key, value in expected.items()}
    model = SAM_MODELS[name]
    assert state["image_encoder.pos_embed"].shape[1:3] == (model.grid, model.grid)
    assert state["image_encoder.neck.3.weight"].shape == (model.embed_dim,)
    assert (model.image_size, model.embed_dim, model.grid) == (1024, 256, 64)


def test_vit_b_loads_from_a_published_style_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "sam_vit_b_01ec64.pth"
    source = sam_model_registry["vit_b"](checkpoint=None)
    torch.save(source.state_dict(), file)
    state = build_sam("sam_vit_b", file, "cpu").state_dict()
    assert all(torch.equal(value, state[key]) for key, value in source.state_dict().items())


def test_the_demo_models_embedding_has_the_named_shape(small: Sam) -> None:
    model = SAM_MODELS["demo_sam"]
    with torch.no_grad():
        embedding = small.image_encoder(torch.zeros(1, 3, model.image_size, model.image_size))
    assert embedding.shape == (1, model.embed_dim, model.grid, model.grid)
    assert small.image_encoder.img_size == model.image_size


def test_a_checkpoint_of_another_model_is_refused_with_its_differences(small: Sam, tmp_path: Path) -> None:
    state = small.state_dict()
    state["image_encoder.blocks.99.norm1.weight"] = torch.zeros(3)
    del state["mask_decoder.iou_token.weight"]
    state["image_encoder.pos_embed"] = torch.zeros(1, 2, 2, 5)
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth is no demo_sam checkpoint") as caught:
        build_sam("demo_sam", tmp_path / "other.pth", "cpu")
    for part in (
        "1 missing, such as mask_decoder.iou_token.weight",
        "1 unexpected, such as image_encoder.blocks.99.norm1.weight",
        "1 of another shape, such as image_encoder.pos_embed (1, 2, 2, 5) instead of (1, 32, 32, 128)",
        "sam_vit_b",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.pth", b"no checkpoint"), ("b.pth", b""), ("c.safetensors", b"no checkpoint"), ("d.safetensors", b"")],
)
def test_a_file_that_is_no_checkpoint_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match="is no SAM checkpoint of plain tensors"):
        build_sam("demo_sam", tmp_path / name, "cpu")


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    mark = tmp_path / "ran"

    class Runs:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (str(mark),)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save({"weight": Runs()}, tmp_path / "evil.pth")
    with pytest.raises(WeightsError, match="is no SAM checkpoint of plain tensors"):
        build_sam("demo_sam", tmp_path / "evil.pth", "cpu")
    assert not mark.exists()


def test_a_file_that_holds_no_state_dict_is_refused(tmp_path: Path) -> None:
    torch.save([torch.zeros(2)], tmp_path / "list.pth")
    with pytest.raises(ValueError, match=r"list\.pth holds list: expected a state dict"):
        build_sam("demo_sam", tmp_path / "list.pth", "cpu")


def test_an_unknown_model_is_refused_with_the_known_names(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no SAM is called 'sam_vit_x'.*sam_vit_b, sam_vit_l, sam_vit_h, demo_sam"):
        build_sam("sam_vit_x", tmp_path / "none.pth", "cpu")


def test_best_ious_are_pycocotools() -> None:
    drawn = scene(11)
    rng = np.random.default_rng(0)
    proposals = [rng.random(drawn.image.shape[:2]) < 0.3, drawn.objects[1].visible, drawn.image[..., 0] > 120]
    encoded = [coco.encode(np.asfortranarray(mask, np.uint8)) for mask in proposals]
    truth = [coco.encode(np.asfortranarray(thing.visible, np.uint8)) for thing in drawn.objects]
    expected = coco.iou(encoded, truth, [0] * len(truth)).max(0)
    assert np.allclose(best_ious(drawn, proposals), expected)
    assert best_ious(drawn, []).tolist() == [0.0] * len(drawn.objects)


def test_thresholds_tried_while_fitting_give_what_everything_mode_gives() -> None:
    sam = build_sam("demo_sam", MODEL, "cpu")
    loosest = Proposals(7, 0.3, 0.0, box_nms_thresh=1.0)
    candidates = _candidates(12, loosest.generator(sam))
    for tried in (Proposals(7, 0.4, 0.4, box_nms_thresh=0.6), Proposals(7, 0.6, 0.7, box_nms_thresh=0.8)):
        (expected,) = proposal_quality([12], sam, tried)
        result = candidates.result(tried)
        assert result.masks == expected.masks
        assert np.allclose(result.best_iou, expected.best_iou)
    assert len(candidates.boxes) > expected.masks > 0


@pytest.mark.slow
def test_the_committed_model_finds_objects_that_a_random_one_does_not(small: Sam) -> None:
    seeds = range(600_000, 600_003)
    trained = mean_best_iou(proposal_quality(seeds, build_sam("demo_sam", MODEL, "cpu"), Proposals()))
    random = mean_best_iou(proposal_quality(seeds[:1], small, Proposals(6, -100.0, 0.0)))
    assert trained > 0.6
    assert random < 0.4


def test_training_losses_fall_as_masks_get_better() -> None:
    truth = torch.zeros(1, 32, 32)
    truth[0, 4:12, 6:20] = 1
    near = torch.full((1, 32, 32), -6.0)
    near[0, 5:12, 6:20] = 6
    logits = torch.stack([12 * truth - 6, near, torch.full((1, 32, 32), -6.0)], dim=1)
    for done in (0.0, 0.5, 1.0):
        right, close, nothing = mask_losses(logits, truth, done)[0]
        assert right < close < nothing
    assert torch.allclose(true_iou(logits, truth), torch.tensor([[1.0, 7 / 8, 0.0]]))
