"""Page-locked batches and copies that are queued: the device gets the batch that it was given, however late it reads it.

A device that waits, and torch's allocator of page-locked memory, are played here: a block that is freed is handed out again
at once, unless a copy out of it was noted. A copy is noted when the tensor has the storage that the allocator made, or begins
where the block begins (as torch's ``CachingHostAllocator`` does it).
"""

from __future__ import annotations

import ctypes
import weakref
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from factory import Known, full_store

from store import open_split
from store.torch import loader

X = "mask_embeddings/sam/x"
NAMES = {"v": X, "iou": "match/sam/targets.iou", "texts": "targets.texts"}


@dataclass
class Block:
    memory: np.ndarray
    busy: bool = True
    copies: int = 0
    storage: int = 0

    def free(self) -> None:
        self.busy = False


@dataclass
class Device:
    """Copies are done when :meth:`run` says so; everything that was allocated stays, so that late reads are safe."""

    lag: int
    blocks: list[Block] = field(default_factory=list)
    queue: list[tuple[int, torch.Tensor, Block]] = field(default_factory=list)
    real_empty: Any = torch.empty
    real_to: Any = torch.Tensor.to

    def empty(self, *shape: Any, dtype: torch.dtype = torch.float32, pin_memory: bool = False, **rest: Any) -> Any:
        if not pin_memory:
            return self.real_empty(*shape, dtype=dtype, **rest)
        meta = self.real_empty(*shape, dtype=dtype, device="meta")
        size = max(1, meta.numel() * meta.element_size())
        block = next((b for b in self.blocks if not b.busy and not b.copies and len(b.memory) == size), None)
        if block is None:
            block = Block(np.zeros(size, np.uint8))
            self.blocks.append(block)
        block.busy = True
        owner = np.frombuffer(memoryview(block.memory), np.uint8)
        weakref.finalize(owner, block.free)
        tensor = torch.from_numpy(owner)[: meta.numel() * meta.element_size()].view(dtype).view(meta.shape)
        block.storage = tensor.untyped_storage()._cdata
        return tensor

    def pin(self, tensor: torch.Tensor) -> torch.Tensor:
        if self.block(tensor) is not None:
            return tensor
        return self.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor)

    def block(self, tensor: torch.Tensor) -> Block | None:
        storage, address = tensor.untyped_storage()._cdata, tensor.data_ptr()
        for block in self.blocks:
            if block.busy and (block.storage == storage or block.memory.ctypes.data == address):
                return block
        return None

    def to(self, tensor: torch.Tensor, device: Any, non_blocking: bool = False) -> torch.Tensor:
        inside = [
            b for b in self.blocks if b.memory.ctypes.data <= tensor.data_ptr() < b.memory.ctypes.data + len(b.memory)
        ]
        if device != "cuda" or not non_blocking or not inside:
            return tensor.clone()  # memory that can be swapped out is copied before the call returns
        noted = self.block(tensor)
        for block in [] if noted is None else [noted]:
            block.copies += 1
        assert tensor.is_contiguous()
        there = self.real_empty(tensor.shape, dtype=tensor.dtype)
        self.queue.append((tensor.data_ptr(), there, noted or Block(np.empty(0, np.uint8))))
        self.run(self.lag)
        return there

    def run(self, leave: int = 0) -> None:
        while len(self.queue) > leave:
            address, there, block = self.queue.pop(0)
            ctypes.memmove(there.data_ptr(), address, there.numel() * there.element_size())
            block.copies -= 1


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Known:
    return full_store(tmp_path_factory.mktemp("full"), images=23)


@pytest.fixture(params=[10**6, 7, 0], ids=["at the end", "late", "at once"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Device:
    device = Device(request.param)
    monkeypatch.setattr(torch, "empty", device.empty)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *given, **how: device.to(self, *given, **how))
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self, *_: device.pin(self))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    return device


def vectors_of(known: Known, images: list[int]) -> torch.Tensor:
    whole = np.zeros((len(images), 32, 8), np.float16)
    for slot, image in enumerate(images):
        whole[slot, : len(known.embeddings[image])] = known.embeddings[image]
    return torch.from_numpy(whole)


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_a_queued_copy_gets_the_batch_it_was_given(known: Known, device: Device, threads: int) -> None:
    stream = open_split(known.store, "d", "val").stream(NAMES, 2, shuffle=True, level="target", threads=threads)
    expected, copies = [], []
    for _ in range(2):
        for batch in loader(stream):
            expected.append(batch["image_index"].tolist())
            part = batch["v"][1:]  # a copy out of the middle of a block
            copies.append([batch[key].to("cuda", non_blocking=True) for key in ("v", "v_mask", "image_index")])
            copies[-1].append(part.to("cuda", non_blocking=True))
            del part
    device.run()
    assert len(expected) > 20
    for images, (vectors, there, index, part) in zip(expected, copies, strict=True):
        want = vectors_of(known, images)
        assert torch.equal(vectors, want)
        assert torch.equal(part, want[1:])
        assert there.sum(1).tolist() == [len(known.embeddings[image]) for image in images]
        assert index.tolist() == images


def test_every_tensor_of_a_batch_is_page_locked(known: Known, device: Device) -> None:
    stream = open_split(known.store, "d", "val").stream(NAMES, 3, level="target", tail="repeat")
    for batch in loader(stream):
        tensors = [value for value in batch.values() if isinstance(value, torch.Tensor)]
        assert len(tensors) == 7
        assert all(device.block(value) is not None for value in tensors)
        assert all(device.block(value).storage == value.untyped_storage()._cdata for value in tensors)


def test_what_a_collate_fn_makes_of_a_batch_is_copied_as_well(known: Known, device: Device) -> None:
    stream = open_split(known.store, "d", "val").stream({"v": X}, 2)
    parts = {"view": lambda batch: batch["v"][1:, 3:7], "flat": lambda batch: batch["v"].flatten(1)}
    for name, part in parts.items():
        expected, copies = [], []
        for made, images in loader(
            stream, collate_fn=lambda batch, p=part: (p(batch).contiguous(), batch["image_index"])
        ):
            expected.append(part({"v": vectors_of(known, images.tolist())}))
            copies.append(made.to("cuda", non_blocking=True))
            del made, images
        device.run()
        for want, got in zip(expected, copies, strict=True):
            assert torch.equal(got, want), name


def test_the_memory_is_used_again_when_the_copies_are_done(known: Known, device: Device) -> None:
    """By torch's allocator, which is asked for every batch."""
    batches = loader(open_split(known.store, "d", "val").stream({"v": X}, 2, threads=0))
    for batch in batches:
        batch["v"].to("cuda", non_blocking=True)
    del batch
    device.run()
    blocks = len(device.blocks)
    for _batch in batches:
        pass
    assert len(device.blocks) == blocks


def test_a_stream_that_a_loader_was_made_of_stays_in_plain_memory(known: Known, device: Device) -> None:
    stream = open_split(known.store, "d", "val").stream({"v": X}, 4, shuffle=True)
    loader(stream)
    seen = {int(i): v.copy() for batch in stream for i, v in zip(batch["image_index"], batch["v"], strict=True)}
    assert not device.blocks
    assert all(np.array_equal(seen[i][: len(known.embeddings[i])], known.embeddings[i]) for i in seen)


def test_who_copies_later_from_numpy_holds_the_array(known: Known) -> None:
    """The bare address is enough for nobody; a view of a part is enough to keep the whole."""
    stream = open_split(known.store, "d", "val").stream({"v": X}, 2, shuffle=True, threads=2)
    later = []
    for _ in range(2):
        for batch in stream:
            held = batch["v"][1:, :1]  # any view of it
            later.append((batch["image_index"].tolist(), batch["v"].ctypes.data, batch["v"].nbytes, held))
            del batch
    for images, address, size, _held in later:
        got = np.frombuffer(ctypes.string_at(address, size), np.float16).reshape(-1, 32, 8)
        assert np.array_equal(got, vectors_of(known, images).numpy())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
@pytest.mark.parametrize("workers", [0, 2])
def test_on_a_real_device(known: Known, workers: int) -> None:
    stream = open_split(known.store, "d", "val").stream({"v": X}, 2, shuffle=True)
    batches, expected, copies = loader(stream, num_workers=workers), [], []
    for _ in range(5):
        for batch in batches:
            torch.cuda._sleep(20_000_000)  # what is queued behind it waits
            expected.append(batch["image_index"].tolist())
            copies.append((batch["v"].to("cuda", non_blocking=True), batch["v"][1:].to("cuda", non_blocking=True)))
    torch.cuda.synchronize()
    for images, (whole, part) in zip(expected, copies, strict=True):
        assert torch.equal(whole.cpu(), vectors_of(known, images))
        assert torch.equal(part.cpu(), vectors_of(known, images)[1:])
