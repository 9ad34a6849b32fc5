"""Modules whose rows are in a store: forward looks up, backward hands the gradients to the tables' own optimizers."""

from __future__ import annotations

import warnings
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .._embedrock import Store, Table

Tables = Union[Table, Mapping[str, Table]]
"""One table, or several by the names of their features."""


class Request(NamedTuple):
    """Keys of one table."""

    table: Table
    keys: np.ndarray
    bags: Tuple[Any, ...]
    source: Tensor
    version: int

    def lookup(self) -> Tuple[Any, ...]:
        return (self.table, self.keys, *self.bags)

    def gradient(self, grads: np.ndarray) -> Tuple[Any, ...]:
        if self.source._version != self.version:
            raise RuntimeError("the keys were changed in place between forward and backward: pass a copy")
        return (self.table, self.keys, grads, *self.bags)


def integers(what: str, tensor: Tensor) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{what} is of type {type(tensor).__name__}, expected a tensor of int64")
    if tensor.dtype not in (torch.int64, torch.int32, getattr(torch, "uint64", torch.int64)):
        raise TypeError(f"{what} is a tensor of {tensor.dtype}, expected int64")
    tensor = tensor.detach().to("cpu")
    return (tensor.to(torch.int64) if tensor.dtype == torch.int32 else tensor).contiguous()


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, _anchor: Tensor, module: "StoredModule", requests: List[Request]) -> Tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.module, ctx.requests = module, requests
        return module._read(requests)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Optional[Tensor]) -> Tuple[None, None, None]:
        ctx.module._take([(request, grad) for request, grad in zip(ctx.requests, grads) if grad is not None])
        return None, None, None


class StoredModule(nn.Module):
    """What :class:`Embedding` and :class:`EmbeddingBag` have in common."""

    def __init__(self, tables: Tables, *, store: Store, apply: str = "step", device: Optional[Any] = None) -> None:
        super().__init__()
        if apply not in ("step", "backward"):
            raise ValueError(f"apply is '{apply}', expected 'step' or 'backward'")
        self.store = store
        self.single = isinstance(tables, Table)
        self.tables: Dict[str, Table] = {"": tables} if isinstance(tables, Table) else dict(tables)
        self.apply_in_backward = apply == "backward"
        self.device = None if device is None else torch.device(device)
        self.learning: Dict[str, Any] = {}
        """What backward passes to the tables where it applies the gradients: ``time``, ``learning_rate``, ``step``."""
        self.pending: List[Tuple[Any, ...]] = []
        """Gradients that wait for :meth:`TableOptimizer.step`."""
        # So that autograd calls backward: no parameter, it has no value.
        self._anchor = torch.zeros(0, requires_grad=True)

    def extra_repr(self) -> str:
        return ", ".join(f"{name or table.name}: dim {table.dim}" for name, table in self.tables.items())

    def _named(self, inputs: Any) -> List[Tuple[str, Any]]:
        if self.single:
            return [("", inputs)]
        if not isinstance(inputs, Mapping):
            raise TypeError(f"the input is of type {type(inputs).__name__}, expected a dict of {', '.join(self.tables)}")
        unknown = [name for name in inputs if name not in self.tables]
        if unknown:
            raise KeyError(f"there is no feature '{unknown[0]}', only {', '.join(self.tables)}")
        return list(inputs.items())

    # Calls of the engine mean nothing to a compiler: the graph breaks here.
    @torch.compiler.disable
    def _look_up(self, requests: List[Request]) -> Tuple[Tensor, ...]:
        return _Lookup.apply(self._anchor, self, requests)  # type: ignore[no-any-return]

    def _read(self, requests: List[Request]) -> Tuple[Tensor, ...]:
        device = self.device or requests[0].source.device
        pinned = device.type == "cuda"
        outs = [torch.empty(self._shape(request), dtype=torch.float32, pin_memory=pinned) for request in requests]
        arrays = [out.numpy() for out in outs]
        if len(requests) > 1:
            self.store.lookup_many([request.lookup() for request in requests], out=arrays)
        elif requests[0].bags:
            requests[0].table.lookup_pooled(requests[0].keys, *requests[0].bags, out=arrays[0])
        else:
            requests[0].table.lookup(requests[0].keys, out=arrays[0])
        return tuple(out.to(device, non_blocking=True) for out in outs)

    def _shape(self, request: Request) -> Tuple[int, int]:
        rows = len(request.bags[0]) - 1 if request.bags else len(request.keys)
        return rows, request.table.dim

    def _take(self, taken: Sequence[Tuple[Request, Tensor]]) -> None:
        gradients = [
            request.gradient(grad.detach().to("cpu", torch.float32).contiguous().numpy()) for request, grad in taken
        ]
        if self.apply_in_backward:
            self.store.apply_gradients_many(gradients, **self.learning)
        else:
            self.pending += gradients

    def prefetch(self, inputs: Any) -> None:
        """Has the cold rows of these inputs brought into memory in the background: those of :meth:`forward`, some steps ahead."""
        for name, keys in self._named(inputs):
            keys = keys[0] if isinstance(keys, tuple) else keys
            self.tables[name].prefetch(integers("keys", keys).view(-1).numpy())

    def get_extra_state(self) -> Dict[str, Any]:
        if inside_commit.held:
            return {"commit": None}
        id = self.store.durable_commit()
        if self.store.stats()["uncommitted_rows"]:
            warnings.warn(f"rows have changed since commit {id}, which this state names: commit first", stacklevel=2)
        return {"commit": None if id is None else str(id)}

    def set_extra_state(self, state: Dict[str, Any]) -> None:
        id, last = state["commit"], self.store.durable_commit()
        if id is not None and id != str(last):
            raise ValueError(f"the state is of commit {id}, the store is at {last}: open it with at='{id}'")


class InsideCommit:
    """Whether dense state is being collected for a commit, which cannot name itself."""

    held = False


inside_commit = InsideCommit()


class Embedding(StoredModule):
    """As :class:`torch.nn.Embedding`: keys of any shape to rows, shape (*keys.shape, dim).

    ``tables`` is one table, or a dict of them by feature: then input and output are dicts, and all are read in one call. Any 64
    bits are a key; keys without a row yield what the table's schema says, and get one by their first gradient.

    ``apply="step"``, the default, keeps gradients until :meth:`TableOptimizer.step`; with ``"backward"`` they are applied there, with
    the settings in ``learning``. ``device`` is where the output goes; by default to that of the keys.
    """

    def forward(self, inputs: Any) -> Any:
        named = self._named(inputs)
        requests, shapes = [], []
        for name, keys in named:
            flat = integers("keys", keys).view(-1)
            requests.append(Request(self.tables[name], flat.numpy(), (), keys, keys._version))
            shapes.append(keys.shape)
        outs = self._look_up(requests)
        shaped = [out.view(*shape, out.shape[-1]) for out, shape in zip(outs, shapes)]
        return shaped[0] if self.single else {name: out for (name, _), out in zip(named, shaped)}


class EmbeddingBag(StoredModule):
    """As :class:`torch.nn.EmbeddingBag`: sums or means of bags of rows, shape (bags, dim).

    Keys have two dimensions, a bag a row; or one, with ``offsets`` where each bag begins (and where the last one ends, with
    ``include_last_offset``). Over several tables the input is a dict of keys or of ``(keys, offsets)``, and so is the output, of all
    tables in one call. Empty bags are zeros. The rest is as in :class:`Embedding`.
    """

    def __init__(
        self,
        tables: Tables,
        *,
        store: Store,
        mode: str = "mean",
        include_last_offset: bool = False,
        apply: str = "step",
        device: Optional[Any] = None,
    ) -> None:
        super().__init__(tables, store=store, apply=apply, device=device)
        if mode not in ("sum", "mean"):
            raise ValueError(f"mode is '{mode}', expected 'sum' or 'mean'")
        self.mode = mode
        self.include_last_offset = include_last_offset

    def forward(self, inputs: Any, offsets: Optional[Tensor] = None) -> Any:
        if offsets is not None:
            if not self.single:
                raise TypeError("offsets of several features are in the input: a dict of (keys, offsets)")
            inputs = (inputs, offsets)
        named = self._named(inputs)
        requests = [self._request(self.tables[name], keys) for name, keys in named]
        outs = self._look_up(requests)
        return outs[0] if self.single else {name: out for (name, _), out in zip(named, outs)}

    def _request(self, table: Table, keys: Any) -> Request:
        keys, offsets = keys if isinstance(keys, tuple) else (keys, None)
        flat = integers("keys", keys)
        if offsets is None:
            if flat.dim() != 2:
                raise ValueError(f"keys have {flat.dim()} dimensions, expected 2, or 1 and offsets")
            bounds = np.arange(flat.shape[0] + 1, dtype=np.int64) * flat.shape[1]
        else:
            if flat.dim() != 1:
                raise ValueError(f"keys have {flat.dim()} dimensions, expected 1 with offsets")
            bounds = integers("offsets", offsets).numpy()
            if not self.include_last_offset:
                bounds = np.append(bounds, len(flat))
        return Request(table, flat.view(-1).numpy(), (bounds, self.mode), keys, keys._version)
