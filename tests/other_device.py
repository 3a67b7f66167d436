"""A stand-in for a GPU on machines without one: tensors that refuse to meet tensors of the CPU.

Under `other_device()`, whatever is made on the device "meta", or sent there, holds real numbers, computed by the CPU,
but has another device; an operation on both kinds raises, as between a GPU and the CPU. So code can be run as it would
run on a GPU, apart from speed and rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = "meta"
"""Its name: the one device besides the CPU of which every build of torch knows."""

_aten = torch.ops.aten
_COPIES = {_aten._to_copy.default, _aten.copy_.default}
# Indices may be on the CPU, whatever they index.
_INDEXING = {_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default, _aten._index_put_impl_.default}
_MAKERS = {torch.tensor, torch.as_tensor}


class _There(torch.Tensor):
    """A tensor of the other device."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> _There:
        there = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device(DEVICE),
        )
        there.held = held
        return there

    @classmethod
    def __torch_function__(cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.tolist:
            return args[0].held.tolist()
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
            args = (args[0], _as_tensors(args[1]), *args[2:])
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _as_tensors(index: Any) -> Any:
    """An index without lists of numbers, which would be made into tensors before anything is dispatched."""
    if isinstance(index, tuple):
        return tuple(_as_tensors(part) for part in index)
    return torch.tensor(index, dtype=torch.int64) if isinstance(index, list) else index


def _is_there(device: Any) -> bool:
    return device is not None and torch.device(device).type == DEVICE


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    checked = (args[0], *args[2:]) if func in _INDEXING else args
    tensors = [value for value in tree_flatten((checked, kwargs))[0] if isinstance(value, torch.Tensor)]
    there = [value for value in tensors if isinstance(value, _There)]
    here = [value for value in tensors if not isinstance(value, _There) and value.dim() > 0]
    if there and here and func not in _COPIES:
        raise RuntimeError(f"{func}: expected all tensors on the same device")
    indexed_by_there = func in _INDEXING and any(isinstance(value, _There) for value in tree_flatten(args[1])[0])
    if indexed_by_there and not isinstance(args[0], _There):
        raise RuntimeError(f"{func}: indices should be on the CPU or on the same device as the indexed tensor")
    goes, comes = _is_there(kwargs.get("device")), kwargs.get("device") is not None
    inner = {**kwargs, "device": torch.device("cpu")} if goes else kwargs
    result = func(*tree_map(_held, args), **tree_map(_held, inner))
    if func is _aten.copy_.default:
        return args[0]
    if not (goes or (there and not comes)):
        return result
    known = {id(value.held): value for value in there}  # results of operations in place

    def wrapped(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return known[id(value)] if id(value) in known else _There(value)

    return tree_map(wrapped, result)


def _held(value: Any) -> Any:
    return value.held if isinstance(value, _There) else value


class _Dispatch(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Function(TorchFunctionMode):
    """Data of Python become tensors before anything is dispatched."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in _MAKERS and _is_there(kwargs.get("device")):
            device = kwargs.pop("device")
            return func(*args, **kwargs).to(device)
        return func(*args, **kwargs)


@contextmanager
def other_device() -> Iterator[str]:
    """Make the stand-in work; gives the name of the device."""
    with _Dispatch(), _Function():
        yield DEVICE
