"""Embeddings of PyTorch, with what their optimizer knows of them, as tables."""

from __future__ import annotations

import os
import tempfile
from typing import Any, List, Optional, Union

import numpy as np
import torch
from torch import Tensor, nn

from .._embedrock import Optimizer, Store, Table, TableSchema


def import_embedding(
    store: Store,
    name: str,
    weight: Union[Tensor, nn.Embedding, nn.EmbeddingBag],
    optimizer: Optional[torch.optim.Optimizer] = None,
    *,
    keys: Optional[np.ndarray] = None,
    time: int = 0,
) -> Table:
    """Writes an embedding's rows to the table ``name`` and commits them; returns the table.

    Row i gets the key ``keys[i]``, or i. With ``optimizer`` (``torch.optim``'s Adagrad, SGD without momentum, SparseAdam or Adam) the table
    learns by the same rule, with the same settings, and goes on from its state: Adagrad's sums, Adam's moments and step.
    """
    parameter = weight if isinstance(weight, Tensor) else weight.weight
    rows = parameter.detach().to("cpu", torch.float32).contiguous()
    if rows.dim() != 2:
        raise ValueError(f"the weight has {rows.dim()} dimensions, expected 2")
    count, dim = rows.shape
    if keys is None:
        keys = np.arange(count, dtype=np.uint64)
    if keys.shape != (count,) or keys.dtype.kind not in "iu" or keys.dtype.itemsize != 8:
        raise ValueError(f"keys is of {keys.dtype} with shape {keys.shape}, expected 64-bit integers with shape ({count},)")
    arrays = {"key": keys.view(np.uint64), "embedding": rows.numpy()}
    schema = TableSchema(name, dim)
    if optimizer is not None:
        rule, state = _learned(parameter, optimizer, count, dim)
        schema = TableSchema(name, dim, optimizer=rule)
        if state:
            arrays["state"] = np.concatenate(state, axis=1)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "rows.npz")
        np.savez(path, **arrays)
        store.import_rows(schema, path, time=time)
    return store.table(name)


def _learned(parameter: Tensor, optimizer: torch.optim.Optimizer, rows: int, dim: int) -> Any:
    """The rule that does as an optimizer does, and each row's state under it."""
    group = next((group for group in optimizer.param_groups if any(p is parameter for p in group["params"])), None)
    if group is None:
        raise ValueError("the optimizer does not train this weight")
    state = optimizer.state.get(parameter, {})
    decay = {"weight_decay": group["weight_decay"]} if group.get("weight_decay") else {}

    def of(name: str) -> np.ndarray:
        value = state[name] if name in state else torch.zeros(rows, dim)
        return value.detach().to("cpu", torch.float32).to_dense().reshape(rows, dim).numpy()

    if group.get("maximize"):
        raise ValueError("an optimizer that maximizes has no counterpart: negate the loss")
    if isinstance(optimizer, torch.optim.Adagrad):
        if group["lr_decay"]:
            raise ValueError("Adagrad's lr_decay has no counterpart: pass a learning rate to each step")
        first = group["initial_accumulator_value"]
        rule = Optimizer.adagrad(group["lr"], initial_accumulator=first, epsilon=group["eps"], **decay)
        return rule, [of("sum") if "sum" in state else np.full((rows, dim), first, np.float32)]
    if isinstance(optimizer, torch.optim.SGD):
        if group["momentum"]:
            raise ValueError("SGD with momentum has no counterpart here: its momentum begins anew with Optimizer.momentum")
        return Optimizer.sgd(group["lr"], **decay), []
    if isinstance(optimizer, (torch.optim.SparseAdam, torch.optim.Adam)) and not group.get("amsgrad"):
        betas = group["betas"]
        rule = Optimizer.adam(group["lr"], betas=betas, epsilon=group["eps"], **decay)
        # A row holds the powers of its next update.
        step = float(state.get("step", 0)) + 1
        powers: List[np.ndarray] = [np.full((rows, 1), beta**step, np.float32) for beta in betas]
        return rule, [of("exp_avg"), of("exp_avg_sq"), *powers]
    raise ValueError(f"{type(optimizer).__name__} has no counterpart: import without it, and choose the table's optimizer")
