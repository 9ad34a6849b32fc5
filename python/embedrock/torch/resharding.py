"""A job's rows under another number of ranks."""

from __future__ import annotations

import os
import tempfile
from typing import Any, List

import numpy as np

from .._embedrock import Store, TableSchema
from .sharded import JobCommit, owners, rank_path, read_record, record_names, write_record

ROWS_AT_ONCE = 1 << 18
FAR = 2**32 - 1
"""Rows come in no order of time: the clock may step as far as it goes."""


def reshard(root: Any, target: Any, ranks: int, **options: Any) -> JobCommit:
    """Writes the last commit of the job in ``root`` as a job of ``ranks`` ranks in ``target``, which must not exist.

    To be called by one process while the job does not run, with the stores of all ranks under ``root``. ``options`` are those that the
    new stores are made with: give the ``seed`` of the old ones. Rows come with their times and their optimizer's state; what admission had
    counted begins anew. Rank r of the new job has the dense state that rank r of the old one had, or rank r modulo its ranks.
    Memory: 262,144 rows at a time; disk, for a while: one rank's rows of one table.
    """
    root, target = os.fspath(root), os.fspath(target)
    if ranks < 1:
        raise ValueError(f"{ranks} ranks, expected at least 1")
    names = record_names(root)
    if not names:
        raise ValueError(f"there is no commit of a job in {root}")
    record = read_record(os.path.join(root, names[-1]))
    before = len(record.commits)
    os.makedirs(target)
    states: List[bytes] = []
    stores = [Store(rank_path(target, rank, ranks), **{**options, "max_clock_step": FAR}) for rank in range(ranks)]
    try:
        for rank in range(before):
            path = rank_path(root, rank, before)
            with Store(path, read_only=True, at=record.commits[rank]) as store:
                last = store.last_commit()
                assert last is not None
                states.append(last.state)
                for table in store.tables():
                    _deal(store, table.name, table.schema, stores)
        commits = [str(store.commit(states[rank % before])) for rank, store in enumerate(stores)]
    finally:
        for store in stores:
            store.close()
    # The first commit of the new job; without it there is none.
    made = JobCommit(1, commits)
    write_record(target, made)
    return made


def _deal(source: Store, name: str, schema: TableSchema, stores: List[Store]) -> None:
    """Gives each row of a table to the store of the rank that owns it."""
    for store in stores:
        store.create_table(schema)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "rows.npy")
        source.export_rows(name, path)
        rows = np.load(path, mmap_mode="r")
        for first in range(0, len(rows), ROWS_AT_ONCE):
            part = np.asarray(rows[first : first + ROWS_AT_ONCE])
            owner = owners(np.ascontiguousarray(part["key"]), len(stores))
            for rank, store in enumerate(stores):
                own = part[owner == rank]
                if len(own):
                    piece = os.path.join(folder, "piece.npy")
                    np.save(piece, own)
                    store.import_rows(name, piece)
