"""Embedrock: crash-safe tables of embeddings that outgrow memory.

>>> import numpy as np, embedrock, tempfile
>>> path = tempfile.mkdtemp()
>>> store = embedrock.Store(path, memory_budget=64 << 20)
>>> users = store.create_table(embedrock.TableSchema("user", 2, optimizer=embedrock.Optimizer.sgd(1.0)))
>>> keys = np.array([7, 42], dtype=np.uint64)
>>> users.apply_gradients(keys, np.array([[1, 2], [3, 4]], dtype=np.float32), time=1_700_000_000)
>>> users.lookup(keys)
array([[-1., -2.],
       [-3., -4.]], dtype=float32)
>>> str(store.commit(b"the trainer's own state"))
'1.1'
>>> store.close()
0

Calls release the interpreter's lock. While one runs no other thread may write to its arrays. A key is any 64 bits: negative ones of
int64 stand for the unsigned key with the same bits.
"""

from . import errors
from ._embedrock import (
    Admission,
    Commit,
    CommitId,
    Expiry,
    Initializer,
    Optimizer,
    Replica,
    Schedule,
    Segment,
    Store,
    Table,
    TableSchema,
    Ticket,
    __version__,
    restore,
    slot_of,
    verify,
)
from .errors import Error

__all__ = [
    "Admission",
    "Commit",
    "CommitId",
    "Error",
    "Expiry",
    "Initializer",
    "Optimizer",
    "Replica",
    "Schedule",
    "Segment",
    "Store",
    "Table",
    "TableSchema",
    "Ticket",
    "__version__",
    "errors",
    "restore",
    "slot_of",
    "verify",
]
