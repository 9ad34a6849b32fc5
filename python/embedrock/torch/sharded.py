"""One table over several processes: every rank owns the keys that hash to it, in a store of its own.

A commit of the job is one commit of every rank's store and a record that names them all. The record is written last, by rank 0,
when every rank's commit is durable: without it the commits are none of the job's, and resuming goes back to those of the last record.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .._embedrock import CommitId, Store, Table
from . import training
from .modules import StoredModule, integers

RECORD = re.compile(r"job-(\d{10})\.json")
KEPT_RECORDS = 2
"""Records that stay: the last one, and the one before."""


def owners(keys: np.ndarray, ranks: int) -> np.ndarray:
    """The rank that owns each key: the high bits of the key mixed, so that neither the ids' order nor the stores' shards follow it."""
    x = keys.view(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    x ^= x >> np.uint64(32)
    x *= np.uint64(0xD6E8FEB86659FD93)
    return ((x >> np.uint64(32)) * np.uint64(ranks) >> np.uint64(32)).astype(np.int64)


def _device(group: Optional[dist.ProcessGroup]) -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend(group) == "nccl" else torch.device("cpu")


def _exchange(values: Tensor, sent: Sequence[int], received: Sequence[int], group: Optional[dist.ProcessGroup]) -> Tensor:
    """Sends the first ``sent[0]`` rows to rank 0, the next to rank 1; returns what the ranks sent, in their order."""
    device = _device(group)
    out = torch.empty((sum(received), *values.shape[1:]), dtype=values.dtype, device=device)
    dist.all_to_all_single(out, values.to(device), list(received), list(sent), group=group)
    return out.to("cpu")


class Routed(NamedTuple):
    """Where the keys of a call went."""

    inverse: Tensor
    """For each key, its row among those sent."""
    sent: List[int]
    received: List[int]
    keys: np.ndarray
    """Those that this rank was asked for."""


class _ShardedLookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, _anchor: Tensor, module: "ShardedEmbedding", routed: Routed) -> Tensor:
        ctx.module, ctx.routed = module, routed
        rows = torch.from_numpy(module.table.lookup(routed.keys))
        back = _exchange(rows, routed.received, routed.sent, module.group)
        return back[routed.inverse]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tuple[None, None, None]:
        ctx.module._learn(ctx.routed, grad)
        return None, None, None


class ShardedEmbedding(StoredModule):
    """As :class:`Embedding`, over all ranks of a process group: each rank passes its own keys and gets their rows.

    ``table`` is this rank's part. Forward and backward exchange keys, rows and gradients, so every rank calls them equally often, and
    every rank gives all stores the same ``seed`` and creates tables in the same order: then a key begins with the same row whoever
    owns it. Gradients of all ranks are summed, or with ``average``, the default, averaged, as ``DistributedDataParallel`` does.
    """

    def __init__(
        self,
        table: Table,
        *,
        store: Store,
        group: Optional[dist.ProcessGroup] = None,
        average: bool = True,
        apply: str = "step",
        device: Optional[Any] = None,
    ) -> None:
        super().__init__(table, store=store, apply=apply, device=device)
        self.table, self.group, self.average = table, group, average

    def forward(self, keys: Tensor) -> Tensor:
        out = self._across(integers("keys", keys).view(-1).numpy())
        return out.view(*keys.shape, self.table.dim).to(self.device or keys.device)

    @torch.compiler.disable
    def _across(self, keys: np.ndarray) -> Tensor:
        return _ShardedLookup.apply(self._anchor, self, self._route(keys))  # type: ignore[no-any-return]

    def _route(self, keys: np.ndarray) -> Routed:
        ranks = dist.get_world_size(self.group)
        distinct, inverse = np.unique(keys.view(np.int64), return_inverse=True)
        owner = owners(distinct, ranks)
        order = np.argsort(owner, kind="stable")
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        sent = np.bincount(owner, minlength=ranks)
        received = _exchange(torch.from_numpy(sent), [1] * ranks, [1] * ranks, self.group).tolist()
        asked = _exchange(torch.from_numpy(distinct[order]), sent.tolist(), received, self.group)
        return Routed(torch.from_numpy(place[inverse.reshape(-1)]), sent.tolist(), received, asked.numpy())

    def _learn(self, routed: Routed, grad: Tensor) -> None:
        grad = grad.detach().to("cpu", torch.float32)
        if self.average:
            grad = grad / dist.get_world_size(self.group)
        summed = torch.zeros(sum(routed.sent), self.table.dim).index_add_(0, routed.inverse, grad.contiguous())
        grads = _exchange(summed, routed.sent, routed.received, self.group).numpy()
        gradient = (self.table, routed.keys, grads)
        if self.apply_in_backward:
            self.store.apply_gradients_many([gradient], **self.learning)
        else:
            self.pending.append(gradient)

    def prefetch(self, keys: Tensor) -> None:
        """Has the cold rows of these keys brought into memory on the ranks that own them. Exchanges keys: every rank calls it."""
        self.table.prefetch(self._route(integers("keys", keys).view(-1).numpy()).keys)


class JobCommit(NamedTuple):
    """A commit of a job."""

    number: int
    commits: List[str]
    """Of each rank's store."""


class Job:
    """The stores of a job's ranks under one directory, and the commits that they have in common.

    Opens this rank's store at the job's last commit, or creates it. ``root`` may be a different disk on every machine; the records are
    on that of rank 0. ``options`` are those of :class:`Store`.
    """

    def __init__(self, root: Any, *, group: Optional[dist.ProcessGroup] = None, **options: Any) -> None:
        self.root, self.group = os.fspath(root), group
        self.rank, self.ranks = dist.get_rank(group), dist.get_world_size(group)
        os.makedirs(self.root, exist_ok=True)
        self.last: Optional[JobCommit] = self._agree(lambda: last_record(self.root, self.ranks))
        at = None if self.last is None else self.last.commits[self.rank]
        path = rank_path(self.root, self.rank, self.ranks)
        if self.last is None and os.path.exists(path):
            # No commit of the job: whatever the rank committed is none.
            at = str(CommitId(1, 0)) if _has_commits(path) else None
        self.store = self._everywhere(lambda: Store(path, **{**options, "at": at}))

    def resume(self, model: nn.Module, *optimizers: Any) -> Optional[training.Resumed]:
        """As :func:`embedrock.torch.resume`, of the job's last commit."""
        return None if self.last is None else self._everywhere(lambda: training.resume(model, *optimizers))

    def commit(self, model: nn.Module, *optimizers: Any, extra: Any = None) -> JobCommit:
        """Makes the rows of all ranks durable with the dense state of each. Every rank calls it, between the same two batches.

        If it fails on one rank it fails on all, and the job's last commit is the one before.
        """
        own = self._everywhere(lambda: str(self.store.commit(training.state_bytes(model, optimizers, extra))))
        commits: List[Any] = [None] * self.ranks
        dist.all_gather_object(commits, own, group=self.group)
        number = 1 if self.last is None else self.last.number + 1
        record = JobCommit(number, commits)
        self._agree(lambda: write_record(self.root, record))
        self.last = record
        return record

    def digest(self) -> str:
        """A hash over the rows of all ranks."""
        digests: List[Any] = [None] * self.ranks
        dist.all_gather_object(digests, self._everywhere(self.store.digest), group=self.group)
        return hashlib.sha256("\n".join(digests).encode()).hexdigest()

    def close(self) -> None:
        """Closes this rank's store."""
        self.store.close()

    def __enter__(self) -> "Job":
        return self

    def __exit__(self, *_error: Any) -> None:
        self.close()

    def _agree(self, work: Any) -> Any:
        """What ``work`` says on rank 0, on all ranks."""
        said: List[Any] = [None, None]
        if self.rank == 0:
            try:
                said = [work(), None]
            except Exception as error:
                said = [None, f"{type(error).__name__}: {error}"]
        dist.broadcast_object_list(said, src=0 if self.group is None else dist.get_global_rank(self.group, 0), group=self.group)
        if said[1] is not None:
            raise RuntimeError(f"rank 0: {said[1]}")
        return said[0]

    def _everywhere(self, work: Any) -> Any:
        """What ``work`` returns here, once it has gone well on every rank."""
        result, failed = None, None
        try:
            result = work()
        except Exception as error:
            failed = error
        said: List[Any] = [None] * self.ranks
        dist.all_gather_object(said, None if failed is None else f"{type(failed).__name__}: {failed}", group=self.group)
        if failed is not None:
            raise failed
        wrong = next(((rank, what) for rank, what in enumerate(said) if what is not None), None)
        if wrong is not None:
            raise RuntimeError(f"rank {wrong[0]}: {wrong[1]}")
        return result


def _has_commits(path: str) -> bool:
    with Store(path, read_only=True) as store:
        return store.durable_commit() is not None


def rank_path(root: str, rank: int, ranks: int) -> str:
    """Where a rank's store is."""
    return os.path.join(root, f"rank-{rank}-of-{ranks}")


def record_names(root: str) -> List[str]:
    """The job's records, oldest first."""
    return sorted(name for name in os.listdir(root) if RECORD.fullmatch(name))


def write_record(root: str, commit: JobCommit) -> None:
    """Writes a record, whole or not at all, and durably; then older ones go."""
    body = json.dumps({"version": 1, "number": commit.number, "commits": commit.commits})
    text = json.dumps({"body": body, "sha256": hashlib.sha256(body.encode()).hexdigest()})
    target = os.path.join(root, f"job-{commit.number:010}.json")
    with open(target + ".tmp", "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(target + ".tmp", target)
    directory = os.open(root, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    for name in record_names(root)[:-KEPT_RECORDS]:
        os.remove(os.path.join(root, name))


def read_record(path: str) -> JobCommit:
    """Reads a record back; damage is a ``ValueError``."""
    try:
        with open(path, encoding="utf-8") as file:
            text = json.load(file)
        if hashlib.sha256(text["body"].encode()).hexdigest() != text["sha256"]:
            raise ValueError("its checksum does not match")
        body: Dict[str, Any] = json.loads(text["body"])
        if body["version"] != 1:
            raise ValueError(f"it has version {body['version']}, this program reads 1")
        return JobCommit(int(body["number"]), [str(CommitId.parse(id)) for id in body["commits"]])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is no record of a job: {error}; remove it to go back to the one before") from error


def last_record(root: str, ranks: int) -> Optional[JobCommit]:
    """The job's last commit."""
    names = record_names(root)
    if not names:
        return None
    record = read_record(os.path.join(root, names[-1]))
    if len(record.commits) != ranks:
        raise ValueError(f"the job in {root} has {len(record.commits)} ranks, not {ranks}: use embedrock.torch.resharding.reshard")
    return record
