"""Steps, commits and resuming: tables and dense parameters from one point."""

from __future__ import annotations

import io
from collections import deque
from typing import Any, Callable, Deque, Dict, Iterable, Iterator, List, NamedTuple, Optional, Tuple

import torch
from torch import nn

from .._embedrock import Commit, CommitId, Store, Ticket
from .modules import StoredModule, inside_commit

MAGIC = b"embedrock.torch 1\n"
"""What a trainer's state begins with that :func:`commit` wrote."""


def stored_modules(model: nn.Module) -> List[StoredModule]:
    """The modules of a model whose rows are in a store."""
    return [module for module in model.modules() if isinstance(module, StoredModule)]


def store_of(model: nn.Module) -> Store:
    """The one store of a model."""
    stores = {id(module.store): module.store for module in stored_modules(model)}
    if len(stores) != 1:
        raise ValueError(f"the model's rows are in {len(stores)} stores, expected one")
    return next(iter(stores.values()))


class TableOptimizer:
    """Applies the gradients that backward left in a model's tables: each by its own fused optimizer, all in one batch.

    To be called beside the optimizer of the dense parameters. It counts its steps, by which schedules go, and Adam's correction of
    its bias; the count is part of its state.
    """

    def __init__(self, model: nn.Module) -> None:
        self.modules = stored_modules(model)
        self.store = store_of(model)
        self.steps = 0

    def step(self, *, time: int = 0, **learning: Any) -> None:
        """Applies them, as a batch of events at ``time`` (unix seconds, 0 for none). ``learning`` is what ``Table.apply_gradients`` takes:
        ``learning_rate``, ``scale_gradients``, ``clip_global_norm``."""
        gradients = [gradient for module in self.modules for gradient in module.pending]
        self.store.apply_gradients_many(gradients, time=time, **{"step": self.steps + 1, **learning})
        self.steps += 1
        self.zero_grad()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forgets gradients that were not applied."""
        for module in self.modules:
            module.pending.clear()

    def state_dict(self) -> Dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        self.steps = int(state["steps"])


class Resumed(NamedTuple):
    """Where a job goes on."""

    commit: CommitId
    extra: Any
    """What was given to :func:`commit`."""


def state_bytes(model: nn.Module, optimizers: Tuple[Any, ...], extra: Any) -> bytes:
    """Dense state as it goes into a commit."""
    inside_commit.held = True
    try:
        dense = model.state_dict()
    finally:
        inside_commit.held = False
    state = {
        "model": dense,
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "random": torch.get_rng_state(),
        "extra": extra,
    }
    buffer = io.BytesIO()
    buffer.write(MAGIC)
    torch.save(state, buffer)
    return buffer.getvalue()


def commit(model: nn.Module, *optimizers: Any, extra: Any = None) -> CommitId:
    """Makes rows and dense state durable together, and returns the commit's name.

    ``optimizers`` are whatever has ``state_dict`` and ``load_state_dict``: optimizers, schedules, :class:`TableOptimizer`. ``extra`` is
    the caller's, as the number of batches that were consumed: tensors, numbers, strings, lists and dicts of them. The state of
    torch's random generator is part of it.
    """
    return store_of(model).commit(state_bytes(model, optimizers, extra))


def commit_in_background(model: nn.Module, *optimizers: Any, extra: Any = None) -> Ticket:
    """As :func:`commit`, but returns once rows and dense state are taken; the ticket says when they are durable."""
    return store_of(model).commit_in_background(state_bytes(model, optimizers, extra))


def resume(model: nn.Module, *optimizers: Any) -> Optional[Resumed]:
    """Loads the dense state of the commit that the store is at; ``None`` where there is no commit yet.

    To be called with what :func:`commit` was. Nothing in the state is executed: it holds tensors and plain values.
    """
    last = store_of(model).last_commit()
    return None if last is None else load(last, model, optimizers)


def load(last: Commit, model: nn.Module, optimizers: Tuple[Any, ...]) -> Resumed:
    """Loads the state of a commit."""
    if not last.state.startswith(MAGIC):
        raise ValueError(f"commit {last.id} holds no state of embedrock.torch: it was committed by another program")
    state = torch.load(io.BytesIO(last.state[len(MAGIC) :]), weights_only=True)
    if len(state["optimizers"]) != len(optimizers):
        raise ValueError(f"commit {last.id} holds {len(state['optimizers'])} optimizers, {len(optimizers)} were given")
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"]):
        optimizer.load_state_dict(saved)
    torch.set_rng_state(state["random"])
    return Resumed(last.id, state["extra"])


class Prefetched:
    """Batches of a loader, each of whose rows are brought into memory some steps before it is used.

    ``announce`` is called with each batch as it is loaded, ``steps`` batches ahead: ``lambda batch: bag.prefetch(batch["keys"])``. What
    was loaded ahead is not consumed: a job that counts its batches counts those that it got from here.
    """

    def __init__(self, loader: Iterable[Any], announce: Callable[[Any], None], *, steps: int = 4) -> None:
        if steps < 1:
            raise ValueError(f"steps is {steps}, expected at least 1")
        self.loader, self.announce, self.steps = loader, announce, steps

    def __len__(self) -> int:
        return len(self.loader)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        ahead: Deque[Any] = deque()
        for batch in self.loader:
            self.announce(batch)
            ahead.append(batch)
            if len(ahead) > self.steps:
                yield ahead.popleft()
        yield from ahead
