"""The decoder's algebra: what the official prompt encoder and mask decoder give, but for rounding."""

from __future__ import annotations

import pytest
import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

from stages.proposers.sam.decoder import PointDecoder
from stages.proposers.sam.model import new_sam


def official_size() -> Sam:
    """The decoder of the published SAMs, without the encoder."""
    transformer = TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8)
    decoder = MaskDecoder(num_multimask_outputs=3, transformer=transformer, transformer_dim=256)
    return Sam(torch.nn.Identity(), PromptEncoder(256, (16, 16), (256, 256), 16), decoder).eval()  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=["official size", "demo_sam"])
def sam(request: pytest.FixtureRequest) -> Sam:
    torch.manual_seed(0)
    made = official_size() if request.param == "official size" else new_sam("demo_sam")
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "mask_decoder" in name and name.endswith("bias"):  # zero in new models, and folding is about them, too
                parameter.normal_(std=0.2)
    return made


def inputs(sam: Sam, prompts: int) -> tuple[torch.Tensor, torch.Tensor]:
    height, width = sam.prompt_encoder.image_embedding_size
    embedding = torch.randn(1, sam.prompt_encoder.embed_dim, height, width)
    return embedding, torch.rand(prompts, 2, dtype=torch.float64) * sam.prompt_encoder.input_image_size[0]


def reference(sam: Sam, embedding: torch.Tensor, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.ones(len(points), 1, dtype=torch.int)
    sparse, dense = sam.prompt_encoder(points=(points[:, None], labels), boxes=None, masks=None)
    masks, iou = sam.mask_decoder(
        image_embeddings=embedding,
        image_pe=sam.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=True,
    )
    return masks, iou


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("prompts", [0, 1, 2, 7, 64])
def test_prompts_are_the_official_ones_to_the_last_bit(sam: Sam, prompts: int, dtype: torch.dtype) -> None:
    with torch.inference_mode():
        _, points = inputs(sam, prompts)
        points = points.to(dtype)
        labels = torch.ones(prompts, 1, dtype=torch.int)
        official, _ = sam.prompt_encoder(points=(points[:, None], labels), boxes=None, masks=None)
        found = PointDecoder(sam).prompts(points)
    assert found.dtype == official.dtype
    assert torch.equal(found, official)


@pytest.mark.parametrize("prompts", [1, 2, 7])
def test_logits_and_scores_are_the_official_ones(sam: Sam, prompts: int) -> None:
    with torch.inference_mode():
        embedding, points = inputs(sam, prompts)
        masks, iou = reference(sam, embedding, points)
        decoder = PointDecoder(sam)
        decoded = decoder.decode(decoder.image(embedding[0]), points)
        found = decoder.masks(decoded)
    assert found.shape == masks.shape
    assert found.dtype == decoded.iou.dtype == torch.float32
    torch.testing.assert_close(decoded.iou, iou, rtol=1e-6, atol=1e-6 * float(iou.std()) + 1e-6)
    assert float((found - masks).abs().max()) <= 5e-6 * float(masks.std())


def test_float64_shows_that_the_identities_are_exact(sam: Sam, monkeypatch: pytest.MonkeyPatch) -> None:
    encode = sam.prompt_encoder.pe_layer._pe_encoding  # the official one takes its input down to float32
    monkeypatch.setattr(sam.prompt_encoder.pe_layer, "_pe_encoding", lambda coords: encode(coords.double()))
    sam.double()
    try:
        with torch.inference_mode():
            embedding, points = inputs(sam, 3)
            masks, iou = reference(sam, embedding.double(), points)
            decoder = PointDecoder(sam, torch.float64)
            found = decoder.decode(decoder.image(embedding[0]), points)
            logits = decoder.masks(found)
        assert float((found.iou - iou).abs().max()) <= 1e-12
        assert float((logits - masks).abs().max()) <= 1e-12 * max(1.0, float(masks.abs().max()))
    finally:
        sam.float()


def test_some_rows_are_those_of_all(sam: Sam) -> None:
    with torch.inference_mode():
        embedding, points = inputs(sam, 5)
        decoder = PointDecoder(sam)
        decoded = decoder.decode(decoder.image(embedding[0]), points)
        rows = torch.tensor([0, 3])
        torch.testing.assert_close(decoder.masks(decoded, rows), decoder.masks(decoded)[rows], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits_stay_close(sam: Sam, dtype: torch.dtype) -> None:
    with torch.inference_mode():
        embedding, points = inputs(sam, 4)
        masks, iou = reference(sam, embedding, points)
        decoder = PointDecoder(sam, dtype)
        decoded = decoder.decode(decoder.image(embedding[0]), points)
        found = decoder.masks(decoded)
    assert found.dtype == torch.float32
    scale = float(masks.std())
    assert float((found - masks).abs().mean()) <= (0.02 if dtype == torch.float16 else 0.08) * scale
    assert float((decoded.iou - iou).abs().max()) <= 0.05 * max(1.0, float(iou.abs().max()))
