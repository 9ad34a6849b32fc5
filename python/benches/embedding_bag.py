"""What a training step costs, beside PyTorch's own embedding and other libraries, and what the binding adds to the engine's calls.

    python benches/embedding_bag.py [--rows N] [--dim D] [--seconds S]

One run, contenders in turns, medians. The wheel must have been built with the feature `bench` for the second table:
`maturin develop --release --features bench`. Of rocksdict, torchrec and tensorflow-recommenders-addons, those that cannot be loaded are
left out, and named; docs/python.md says which versions of them go together.
"""

import argparse
import itertools
import os
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

RATE, EPSILON = 0.05, 1e-10
"""Of Adagrad, whose sums begin at zero."""


def batches(rows, kind, count=64):
    """Keys of `count` batches, shape (BATCH, BAG)."""
    draw = np.random.default_rng(1)
    if kind == "uniform":
        return [draw.integers(0, rows, (BATCH, BAG)) for _ in range(count)]
    # Ranks by Zipf's law with exponent 1.05, and ids in no order of rank.
    weights = np.cumsum(1 / np.arange(1, rows + 1) ** 1.05)
    ids = draw.permutation(rows)
    return [ids[np.searchsorted(weights, draw.random((BATCH, BAG)) * weights[-1])] for _ in range(count)]


def loaded(start):
    """The keys 0 to len(start), in parts."""
    return (np.arange(first, min(len(start), first + 100_000)) for first in range(0, len(start), 100_000))


class Torch:
    """`nn.EmbeddingBag(sparse=True)` and Adagrad: all in memory, lost with the process."""

    def __init__(self, start, _folder):
        self.bag = nn.EmbeddingBag.from_pretrained(torch.from_numpy(start.copy()), freeze=False, mode="sum", sparse=True)
        self.optimizer = torch.optim.Adagrad(self.bag.parameters(), lr=RATE, eps=EPSILON)

    def step(self, keys):
        self.optimizer.zero_grad()
        self.bag(torch.from_numpy(keys)).square().mean().backward()
        self.optimizer.step()

    def rows(self, keys):
        return self.bag.weight.detach().numpy()[keys]


class Embedrock:
    """`embedrock.torch.EmbeddingBag` and the table's Adagrad."""

    def __init__(self, start, folder):
        self.store = Store(folder + "/store", memory_budget=6 << 30)
        rule = Optimizer.adagrad(RATE, initial_accumulator=0.0, epsilon=EPSILON)
        self.table = self.store.create_table(TableSchema("bench", start.shape[1], optimizer=rule))
        for keys in loaded(start):
            self.table.assign(keys, start[keys])
        self.store.commit()
        self.bag = EmbeddingBag(self.table, store=self.store, mode="sum")
        self.optimizer = TableOptimizer(self.bag)

    def step(self, keys):
        self.bag(torch.from_numpy(keys)).square().mean().backward()
        self.optimizer.step()

    def rows(self, keys):
        return self.table.lookup(keys)

    def close(self):
        self.store.close()


class RocksDB:
    """Rows and sums as values of 8-byte keys in RocksDB, its cache and write buffers larger than all rows; pooling and Adagrad in NumPy."""

    def __init__(self, start, folder):
        import rocksdict

        self.dim = start.shape[1]
        options = rocksdict.Options(raw_mode=True)
        options.set_write_buffer_size(256 << 20)
        table = rocksdict.BlockBasedOptions()
        table.set_block_cache(rocksdict.Cache(4 << 30))
        table.set_bloom_filter(10, False)
        # Nothing of it works on while others have their turn.
        options.set_disable_auto_compactions(True)
        options.set_block_based_table_factory(table)
        self.db = rocksdict.Rdict(folder + "/rocks", options)
        self.write = rocksdict.WriteOptions()
        self.write.disable_wal = True
        self.batch = rocksdict.WriteBatch
        sums = np.zeros(self.dim, np.float32).tobytes()
        for keys in loaded(start):
            self._put(self._names(keys), (start[key].tobytes() + sums for key in keys))
        self.db.flush()

    @staticmethod
    def _names(keys):
        return [key.to_bytes(8, "big") for key in keys.tolist()]

    def _put(self, names, values):
        batch = self.batch(raw_mode=True)
        for name, value in zip(names, values):
            batch.put(name, value)
        self.db.write(batch, self.write)

    def _get(self, names):
        return np.frombuffer(b"".join(self.db.get(names)), np.float32).reshape(len(names), 2, self.dim).copy()

    def step(self, keys):
        distinct, inverse = np.unique(keys, return_inverse=True)
        names = self._names(distinct)
        found = self._get(names)
        rows, sums = found[:, 0], found[:, 1]
        out = torch.from_numpy(rows[inverse.reshape(keys.shape)].sum(1)).requires_grad_()
        out.square().mean().backward()
        grads = np.zeros_like(rows)
        np.add.at(grads, inverse.reshape(-1), np.repeat(out.grad.numpy(), BAG, axis=0))
        sums += grads**2
        rows -= RATE * grads / (np.sqrt(sums) + EPSILON)
        self._put(names, (value.tobytes() for value in found))

    def rows(self, keys):
        return self._get(self._names(keys))[:, 0]

    def rest(self):
        self.db.flush()

    def close(self):
        self.db.close()


class TorchRec:
    """TorchRec's `FusedEmbeddingBagCollection` on the CPU, Adagrad applied in backward by FBGEMM: an array in memory, a row a key."""

    def __init__(self, start, _folder):
        from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
        from torchrec.modules.fused_embedding_modules import FusedEmbeddingBagCollection
        from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

        self.jagged, self.offsets = KeyedJaggedTensor, torch.arange(0, BATCH * BAG + 1, BAG)
        config = EmbeddingBagConfig(
            name="bench", num_embeddings=len(start), embedding_dim=start.shape[1], feature_names=["key"], pooling=PoolingType.SUM
        )
        self.bags = FusedEmbeddingBagCollection(
            [config], optimizer_type=torch.optim.Adagrad, optimizer_kwargs={"lr": RATE, "eps": EPSILON}, device=torch.device("cpu")
        )
        self.weight = self.bags.state_dict()["embedding_bags.bench.weight"]
        self.weight.copy_(torch.from_numpy(start))

    def step(self, keys):
        bags = self.jagged(keys=["key"], values=torch.from_numpy(keys.reshape(-1)), offsets=self.offsets)
        self.bags(bags)["key"].square().mean().backward()

    def rows(self, keys):
        return self.weight.numpy()[keys]


class RecommendersAddons:
    """TensorFlow Recommenders Addons' dynamic embedding, a hash table in memory, in one `tf.function` a step."""

    def __init__(self, start, _folder):
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        import tensorflow as tf

        tf.get_logger().setLevel("ERROR")
        from tensorflow_recommenders_addons import dynamic_embedding

        rows, dim = start.shape
        table = dynamic_embedding.get_variable(
            "bench", key_dtype=tf.int64, value_dtype=tf.float32, dim=dim, initializer=0.0, init_size=rows
        )
        for keys in loaded(start):
            table.upsert(tf.constant(keys), tf.constant(start[keys]))
        shadow = dynamic_embedding.shadow_ops.ShadowVariable(table, name="shadow")
        # Its slots are not made with Keras' newer one: "slice index 0 of dimension 0 out of bounds".
        adagrad = tf.keras.optimizers.legacy.Adagrad(RATE, initial_accumulator_value=0.0, epsilon=EPSILON)
        optimizer = dynamic_embedding.DynamicEmbeddingOptimizer(adagrad)

        @tf.function
        def step(keys):
            with tf.GradientTape() as tape:
                rows = dynamic_embedding.shadow_ops.embedding_lookup_unique(shadow, tf.reshape(keys, [-1]), dim, True)
                out = tf.reduce_sum(tf.reshape(rows, [BATCH, BAG, dim]), 1)
                loss = tf.reduce_mean(tf.square(out))
            optimizer.apply_gradients(zip(tape.gradient(loss, [shadow]), [shadow]))

        self.step = lambda keys: step(tf.constant(keys))
        self.rows = lambda keys: table.lookup(tf.constant(keys)).numpy()


CONTENDERS = {
    "embedrock": Embedrock,
    "nn.EmbeddingBag(sparse=True)": Torch,
    "rocksdict": RocksDB,
    "torchrec": TorchRec,
    "tensorflow-recommenders-addons": RecommendersAddons,
}


def prepared(start, folder):
    """All contenders that are installed, after the same three steps from the same rows, which must have led them to the same rows."""
    made, first = {}, batches(len(start), "uniform", 3)
    seen = np.unique(first)
    for name, contender in CONTENDERS.items():
        try:
            made[name] = contender(start, folder)
        except (ImportError, OSError) as error:
            print(f"LEFT OUT: {name} cannot be loaded: {error}")
            continue
        for keys in first:
            made[name].step(keys)
        rows = made[name].rows(seen)
        own = rows if name == "embedrock" else own
        np.testing.assert_allclose(rows, own, rtol=1e-4, atol=1e-4, err_msg=name)
    moved = float(np.abs(own - start[seen]).mean())
    assert moved > RATE / 2, moved
    print(f"After the same three steps {', '.join(made)} hold the same rows, {moved:.3f} from where they began")
    return made


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
    print(f"A training step of {BATCH:,} bags of {BAG} keys, {rows:,} rows of dim {dim} in memory, Adagrad; 1,000 keys/s, medians in turns of half a second")
    start = np.random.default_rng(0).normal(0, 0.01, (rows, dim)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        contenders = prepared(start, folder)
        rests = {name: contender.rest for name, contender in contenders.items() if hasattr(contender, "rest")}
        for kind in ("uniform", "zipf"):
            keys = batches(rows, kind)
            turn = {name: itertools.cycle(keys) for name in contenders}
            calls = {name: (lambda name=name: contenders[name].step(next(turn[name]))) for name in contenders}
            own = None
            for name, (median, count) in in_turns(calls, rests, seconds).items():
                own = own or median
                print(f"{kind:8} {name:30} {BATCH * BAG / median / 1e3:8.0f}   embedrock {median / own:6.2f} times as fast   ({count} steps)")
        overhead(contenders["embedrock"].table, batches(rows, "uniform"), seconds)
        for contender in contenders.values():
            getattr(contender, "close", lambda: None)()


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
