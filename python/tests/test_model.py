"""Random calls against a dict: hot, cold, committed, reopened, never a different row."""

import tempfile

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from embedrock import Optimizer, Store, TableSchema

KEYS = st.lists(st.integers(0, 40).map(lambda key: (2**64 - 1 - key) if key % 3 else key), min_size=0, max_size=30)
DIM = 2


def values(draw_from, count):
    return np.random.default_rng(draw_from).integers(-8, 9, (count, DIM)).astype(np.float32)


class Twin(RuleBasedStateMachine):
    """A table, and what it should hold. Values are small integers, so sums are exact in any order."""

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.rows, self.committed = {}, {}
        self.open()

    def open(self):
        self.store = Store(self.folder.name + "/store", memory_budget=64 << 20, hot_rows=8, threads=1)
        self.table = self.store.create_table(TableSchema("t", DIM, optimizer=Optimizer.sgd(1.0)))

    @rule(keys=KEYS, seed=st.integers(0, 999))
    def assign(self, keys, seed):
        rows = values(seed, len(keys))
        assert self.table.assign(np.array(keys, np.uint64), rows) == len(set(keys))
        self.rows.update({key: row for key, row in zip(keys, rows)})

    @rule(keys=KEYS, seed=st.integers(0, 999))
    def learn(self, keys, seed):
        grads = values(seed, len(keys))
        self.table.apply_gradients(np.array(keys, np.uint64), grads)
        for key, grad in zip(keys, grads):
            self.rows[key] = self.rows.get(key, np.zeros(DIM, np.float32)) - grad

    @rule(keys=KEYS)
    def remove(self, keys):
        assert self.table.remove(np.array(keys, np.uint64)) == len(set(keys) & set(self.rows))
        for key in keys:
            self.rows.pop(key, None)

    @rule(keys=KEYS)
    def prefetch(self, keys):
        self.table.prefetch(np.array(keys, np.uint64))

    @rule()
    def commit(self):
        self.store.commit(str(len(self.rows)).encode())
        self.committed = dict(self.rows)

    @rule()
    def checkpoint(self):
        self.store.checkpoint()

    @rule()
    def reopen(self):
        self.store.close()
        self.rows = dict(self.committed)
        self.open()
        last = self.store.last_commit()
        assert last is None or last.state == str(len(self.rows)).encode()

    @invariant()
    def holds_what_it_should(self):
        keys = np.array([key for low in range(41) for key in (low, 2**64 - 1 - low)], np.uint64)
        rows, found = self.table.lookup_found(keys)
        expected = [self.rows.get(int(key)) for key in keys]
        assert found.tolist() == [row is not None for row in expected]
        zeros = np.zeros(DIM, np.float32)
        assert np.array_equal(rows, np.stack([zeros if row is None else row for row in expected]))
        assert len(self.table) == len(self.rows)

    def teardown(self):
        self.store.close()
        self.folder.cleanup()


TestTwin = Twin.TestCase
TestTwin.settings = settings(max_examples=12, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck))
