"""A card that is the CPU: tensors with values that say they are on another device, for code that looks at what it computed.

Tensors of both devices do not mix, as on a real card, and what makes a program wait for its card is counted.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_map

STAGES = str(Path(__file__).resolve().parents[2] / "stages") + os.sep
aten = torch.ops.aten
DYNAMIC = {
    aten.nonzero, aten.masked_select, aten._unique2, aten.unique_dim, aten.unique_consecutive, aten.bincount,
    aten.repeat_interleave, aten._local_scalar_dense,
}  # fmt: skip
"""What the CPU cannot go on without: sizes of results, and numbers."""
BY_INDEX = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
WHOLE = {aten.scaled_dot_product_attention}
"""Made of steps that depend on the card: the CPU's are taken."""
COPIES = {aten._to_copy, aten.copy_, aten.copy}


class OnCard(Tensor):
    """A tensor of the CPU, ``values``, that says it is on a card."""

    values: Tensor

    @staticmethod
    def __new__(cls, values: Tensor, device: torch.device) -> OnCard:
        with torch.inference_mode(False):  # a view of a weight is no tensor of inference, which torch would have it be
            made: OnCard = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
                cls,
                values.shape,
                strides=values.stride(),
                storage_offset=values.storage_offset(),
                dtype=values.dtype,
                device=device,
            )
        made.values = values
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func}: a tensor of the card outside of the card")


class Card(TorchDispatchMode):
    """``waits``: how often the program waited for its card, by place ("file:function") and what for."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device, self.waits = torch.device(device), Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.overloadpacket not in WHOLE:
            with self:  # in inference mode what is made of smaller steps comes as it is
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        tensors = [each for each in tree_flatten((args, kwargs))[0] if isinstance(each, Tensor)]
        here = any(isinstance(each, OnCard) for each in tensors)
        named = kwargs.get("device")
        there = here if named is None else torch.device(named).type == self.device.type
        if func.overloadpacket is aten.copy_ or func.overloadpacket is aten.copy:
            there = isinstance(args[0], OnCard)
        self._look(func, args, kwargs, tensors, here, there)
        plain, options = tree_map(_plain, args), dict(tree_map(_plain, kwargs))
        if named is not None and there:
            options["device"] = torch.device("cpu")
        with _disable_current_modes():
            out = func(*plain, **options)
        if not there or func.overloadpacket is aten._local_scalar_dense:
            return out
        if func._schema.is_mutable:  # values have changed where they were
            return kwargs.get("out", args[0])
        return tree_map(lambda each: OnCard(each, self.device) if isinstance(each, Tensor) else each, out)

    def _look(
        self, func: Any, args: Any, kwargs: dict[str, Any], tensors: list[Tensor], here: bool, there: bool
    ) -> None:
        """Count what is waited for; RuntimeError where devices mix."""
        kind = func.overloadpacket
        if kind in COPIES:
            source = args[1] if kind is not aten._to_copy else args[0]
            if isinstance(source, OnCard) != there:
                self._copied(there, bool(kwargs.get("non_blocking", args[2] if len(args) > 2 else False)))
            return
        if not here:
            return
        if kind in DYNAMIC:
            self._waited("number" if kind is aten._local_scalar_dense else kind.__name__)
        data = tensors
        if kind in BY_INDEX:
            data = [args[0], *args[2:3]]
            self._indexed(kind, args)
        if strange := [each for each in data if not isinstance(each, OnCard) and each.ndim]:
            raise RuntimeError(f"{func}: found {len(strange)} tensors on the CPU, expected all on {self.device}")

    def _copied(self, there: bool, non_blocking: bool) -> None:
        if not non_blocking:
            self._waited("to the card" if there else "to the CPU")
        elif not there:
            raise RuntimeError("a copy to the CPU that nobody waits for would be read before it is there")

    def _indexed(self, kind: Any, args: Any) -> None:
        for index in args[1]:
            if index is None:
                continue
            if not isinstance(index, OnCard):
                self._waited("index to the card")
                continue  # what is true in a mask of the CPU is known
            filled = kind is not aten.index and args[2].numel() == 1  # torch makes masked_fill of it
            if index.dtype in (torch.bool, torch.uint8) and not filled:
                self._waited("mask as index")

    def _waited(self, what: str) -> None:
        frame = sys._getframe()
        while frame.f_back and not frame.f_code.co_filename.startswith(STAGES):
            frame = frame.f_back
        file = frame.f_code.co_filename.removeprefix(STAGES)
        self.waits[f"{file}:{frame.f_code.co_qualname}: {what}"] += 1


def _plain(value: Any) -> Any:
    return value.values if isinstance(value, OnCard) else value


@contextmanager
def pretend_card(device: str = "cuda") -> Iterator[Card]:
    """Tensors on ``device`` have their values on the CPU. torch's engine goes back through ``meta`` alone without a card."""
    card, tolist, to = Card(device), Tensor.tolist, nn.Module.to

    def moved(module: nn.Module, *args: Any, **options: Any) -> nn.Module:
        if args and str(args[0]) == device:
            put(module, card)
            return module
        return to(module, *args, **options)

    with (
        mock.patch("torch.cuda.amp.common.amp_definitely_not_available", return_value=False),
        mock.patch("torch.cuda.is_bf16_supported", return_value=True),
        mock.patch("torch.Tensor.pin_memory", lambda tensor: tensor),
        mock.patch("torch.Tensor.tolist", lambda tensor: tolist(tensor.cpu())),
        mock.patch("torch.nn.Module.to", moved),
        FakeTensorMode(),  # inside it torch does not look for a driver; no tensor gets there
        card,
    ):
        yield card


def put(module: nn.Module, card: Card) -> dict[int, nn.Parameter]:
    """Move parameters and buffers to the card, in place; tied ones stay tied. Returns id of what was a parameter -> what is."""
    moved: dict[int, nn.Parameter] = {}
    for part in module.modules():
        for name, weight in part._parameters.items():
            if weight is not None:
                if id(weight) not in moved:
                    values = OnCard(weight.detach(), card.device)
                    moved[id(weight)] = nn.Parameter(values, requires_grad=weight.requires_grad)
                part._parameters[name] = moved[id(weight)]
        for name, buffer in part._buffers.items():
            part._buffers[name] = None if buffer is None else OnCard(buffer, card.device)
    return moved


def sent(values: Any, card: Card) -> Any:
    """Tensors in lists and dictionaries, as the Trainer moves them."""
    return tree_map(lambda each: OnCard(each, card.device) if isinstance(each, Tensor) else each, values)
