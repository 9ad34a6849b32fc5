"""What a training step costs, beside PyTorch's own embedding and a RocksDB binding, and what the binding adds to the engine's calls.

    python benches/embedding_bag.py [--rows N] [--dim D] [--seconds S]

One run, contenders in turns, medians. The wheel must have been built with the feature `bench` for the second table:
`maturin develop --release --features bench`. RocksDB's binding (`rocksdict`) is left out where it is not installed.
"""

import argparse
import itertools
import statistics
import tempfile
import time
import warnings

import numpy as np
import torch
from torch import nn

import embedrock
from embedrock import Optimizer, Store, TableSchema
from embedrock.torch import EmbeddingBag, TableOptimizer

BATCH, BAG = 1024, 4
"""Samples of a batch, and keys of each: 4,096 keys."""


def batches(rows, kind, count=64):
    """Keys of `count` batches, shape (BATCH, BAG)."""
    draw = np.random.default_rng(1)
    if kind == "uniform":
        return [draw.integers(0, rows, (BATCH, BAG)) for _ in range(count)]
    # Ranks by Zipf's law with exponent 1.05, and ids in no order of rank.
    weights = np.cumsum(1 / np.arange(1, rows + 1) ** 1.05)
    ids = draw.permutation(rows)
    return [ids[np.searchsorted(weights, draw.random((BATCH, BAG)) * weights[-1])] for _ in range(count)]


class Torch:
    """`nn.EmbeddingBag(sparse=True)` and Adagrad: all in memory, lost with the process."""

    def __init__(self, rows, dim):
        self.bag = nn.EmbeddingBag(rows, dim, mode="sum", sparse=True)
        self.optimizer = torch.optim.Adagrad(self.bag.parameters(), lr=0.05)

    def step(self, keys):
        self.optimizer.zero_grad()
        self.bag(torch.from_numpy(keys)).mean().backward()
        self.optimizer.step()


class Embedrock:
    """`embedrock.torch.EmbeddingBag` and the table's Adagrad."""

    def __init__(self, store, rows, dim):
        table = store.create_table(TableSchema("bench", dim, optimizer=Optimizer.adagrad(0.05)))
        for first in range(0, rows, 100_000):
            keys = np.arange(first, min(rows, first + 100_000))
            table.assign(keys, np.full((len(keys), dim), 0.01, np.float32))
        store.commit()
        self.table, self.bag = table, EmbeddingBag(table, store=store, mode="sum")
        self.optimizer = TableOptimizer(self.bag)

    def step(self, keys):
        self.bag(torch.from_numpy(keys)).mean().backward()
        self.optimizer.step()


class RocksDB:
    """Rows and sums as values of 8-byte keys in RocksDB, its cache and write buffers larger than all rows; pooling and Adagrad in NumPy."""

    def __init__(self, folder, rows, dim):
        import rocksdict

        self.dim = dim
        options = rocksdict.Options(raw_mode=True)
        options.set_write_buffer_size(256 << 20)
        table = rocksdict.BlockBasedOptions()
        table.set_block_cache(rocksdict.Cache(4 << 30))
        table.set_bloom_filter(10, False)
        # Nothing of it works on while others have their turn.
        options.set_disable_auto_compactions(True)
        options.set_block_based_table_factory(table)
        self.db = rocksdict.Rdict(folder, options)
        self.write = rocksdict.WriteOptions()
        self.write.disable_wal = True
        self.batch = rocksdict.WriteBatch
        value = np.concatenate([np.full(dim, 0.01, np.float32), np.full(dim, 0.1, np.float32)]).tobytes()
        for first in range(0, rows, 100_000):
            batch = self.batch(raw_mode=True)
            for key in range(first, min(rows, first + 100_000)):
                batch.put(key.to_bytes(8, "big"), value)
            self.db.write(batch, self.write)
        self.db.flush()

    def step(self, keys):
        distinct, inverse = np.unique(keys, return_inverse=True)
        names = [key.to_bytes(8, "big") for key in distinct.tolist()]
        found = np.frombuffer(b"".join(self.db.get(names)), np.float32).reshape(len(names), 2, self.dim).copy()
        rows, sums = found[:, 0], found[:, 1]
        out = torch.from_numpy(rows[inverse.reshape(keys.shape)].sum(1)).requires_grad_()
        out.mean().backward()
        grads = np.zeros_like(rows)
        np.add.at(grads, inverse.reshape(-1), np.repeat(out.grad.numpy(), BAG, axis=0))
        sums += grads**2
        rows -= 0.05 * grads / (np.sqrt(sums) + 1e-10)
        batch = self.batch(raw_mode=True)
        for name, value in zip(names, found):
            batch.put(name, value.tobytes())
        self.db.write(batch, self.write)

    def rest(self):
        self.db.flush()

    def close(self):
        self.db.close()


TURN = 0.5
"""Seconds that a contender goes on: threads of the one before do not work on beside it for long."""


def in_turns(calls, rests, seconds):
    """Median seconds of each contender's call, and how many there were."""
    times = {name: [] for name in calls}
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        for name, call in calls.items():
            turn_ends = time.monotonic() + TURN
            while time.monotonic() < turn_ends:
                began = time.perf_counter()
                call()
                times[name].append(time.perf_counter() - began)
            rests.get(name, lambda: None)()
    return {name: (statistics.median(all), len(all)) for name, all in times.items()}


def steps(rows, dim, seconds):
    print(f"A training step of {BATCH:,} bags of {BAG} keys, {rows:,} rows of dim {dim} in memory, Adagrad; M keys/s, medians in turns of half a second")
    with tempfile.TemporaryDirectory() as folder, Store(folder + "/store", memory_budget=6 << 30) as store:
        contenders = {"embedrock": Embedrock(store, rows, dim), "nn.EmbeddingBag(sparse=True)": Torch(rows, dim)}
        try:
            contenders["rocksdict"] = RocksDB(folder + "/rocks", rows, dim)
        except ImportError:
            print("rocksdict is not installed: left out")
        rests = {name: contender.rest for name, contender in contenders.items() if hasattr(contender, "rest")}
        for kind in ("uniform", "zipf"):
            keys = batches(rows, kind)
            turn = {name: itertools.cycle(keys) for name in contenders}
            calls = {name: (lambda name=name: contenders[name].step(next(turn[name]))) for name in contenders}
            own = None
            for name, (median, count) in in_turns(calls, rests, seconds).items():
                own = own or median
                print(f"{kind:8} {name:30} {BATCH * BAG / median / 1e6:8.3f}   embedrock {median / own:6.2f} times as fast   ({count} steps)")
        if "rocksdict" in contenders:
            contenders["rocksdict"].close()
        overhead(contenders["embedrock"].table, batches(rows, "uniform"), seconds)


def overhead(table, keys, seconds):
    try:
        from embedrock._embedrock import time_calls
    except ImportError:
        print("the wheel was built without the feature bench: what the binding adds is not measured")
        return
    print(f"What the binding adds to a call of {BATCH * BAG:,} keys: Python's loop beside the engine's own, in turns; us a call, medians")
    keys = [part.reshape(-1) for part in keys]
    out, grads = np.empty((BATCH * BAG, table.dim), np.float32), np.full((BATCH * BAG, table.dim), 1e-3, np.float32)
    rust = {"lookup": {}, "apply_gradients": {"grads": grads}}
    python = {"lookup": lambda part: table.lookup(part, out=out), "apply_gradients": lambda part: table.apply_gradients(part, grads)}
    for name in rust:
        times = {"rust": [], "python": []}
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            for at, part in enumerate(keys):
                # Batches that the other has not just read.
                times["rust"] += time_calls(table, keys[at - len(keys) // 2], out=out, rounds=1, **rust[name])
                began = time.perf_counter()
                python[name](part)
                times["python"].append(time.perf_counter() - began)
        own, ours = statistics.median(times["rust"]), statistics.median(times["python"])
        print(f"{name:16} engine {own * 1e6:8.1f}   Python {ours * 1e6:8.1f}   {(ours / own - 1) * 100:+5.1f} %   ({len(times['rust'])} calls each)")


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rows", type=int, default=1_000_000)
    arguments.add_argument("--dim", type=int, default=64)
    arguments.add_argument("--seconds", type=float, default=20)
    given = arguments.parse_args()
    # Of PyTorch, about the sparse tensors that it makes itself.
    warnings.filterwarnings("ignore", category=UserWarning, module="torch")
    print(f"embedrock {embedrock.__version__}, torch {torch.__version__} on {torch.get_num_threads()} threads")
    steps(given.rows, given.dim, given.seconds)


if __name__ == "__main__":
    main()
