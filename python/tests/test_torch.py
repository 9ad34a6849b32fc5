"""The modules against PyTorch's own, step by step, and through kill -9."""

import doctest
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch import nn

import embedrock
from embedrock import Initializer, Optimizer, Store, TableSchema, errors
from embedrock.torch import Embedding, EmbeddingBag, Prefetched, TableOptimizer, commit, commit_in_background, import_embedding, resume

KEYS, DIM, BAGS, LONGEST, STEPS = 300, 8, 32, 6, 200
RULES = {
    "adagrad": (
        lambda parameters: torch.optim.Adagrad(parameters, lr=0.1),
        Optimizer.adagrad(0.1, initial_accumulator=0.0, epsilon=1e-10),
    ),
    "sgd": (lambda parameters: torch.optim.SGD(parameters, lr=0.5), Optimizer.sgd(0.5)),
}


def batch(step):
    """Keys in bags of 0 to 6, with duplicates, and labels that depend on them."""
    draw = np.random.default_rng(step)
    sizes = draw.integers(0, LONGEST + 1, BAGS)
    keys = draw.zipf(1.3, sizes.sum()) % KEYS
    offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    labels = draw.random(BAGS) < 0.3 + 0.4 * (sizes > 3)
    return torch.from_numpy(keys), torch.from_numpy(offsets), torch.from_numpy(labels.astype(np.float32))


class Tower(nn.Module):
    def __init__(self, bag):
        super().__init__()
        self.bag = bag
        torch.manual_seed(3)
        self.dense = nn.Sequential(nn.Linear(DIM, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 1))

    def forward(self, keys, offsets):
        return self.dense(self.bag(keys, offsets)).squeeze(1)


def weights():
    return torch.from_numpy(np.random.default_rng(0).normal(0, 0.1, (KEYS, DIM)).astype(np.float32))


def train_step(model, optimizers, step):
    keys, offsets, labels = batch(step)
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss = nn.functional.binary_cross_entropy_with_logits(model(keys, offsets), labels)
    loss.backward()
    for optimizer in optimizers:
        optimizer.step()
    return loss.item()


def losses_of_torch(mode, rule):
    bag = nn.EmbeddingBag(KEYS, DIM, mode=mode, sparse=True)
    bag.weight.data.copy_(weights())
    model = Tower(bag)
    optimizers = [RULES[rule][0](bag.parameters()), torch.optim.Adam(model.dense.parameters(), lr=0.01)]
    torch.manual_seed(5)
    return [train_step(model, optimizers, step) for step in range(STEPS)], bag.weight.detach()


def stored(store, mode, rule, **options):
    table = store.create_table(TableSchema("bag", DIM, optimizer=RULES[rule][1]))
    if len(table) == 0:
        table.assign(np.arange(KEYS), weights().numpy())
    model = Tower(EmbeddingBag(table, store=store, mode=mode, **options))
    optimizers = [TableOptimizer(model), torch.optim.Adam(model.dense.parameters(), lr=0.01)]
    return model, optimizers, table


def assert_same(losses, expected):
    assert len(losses) == len(expected)
    np.testing.assert_allclose(losses, expected, rtol=2e-5, atol=2e-6)
    # They learn something: it is not the same number all along.
    assert np.std(expected) > 0.01


@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("hot_rows", [None, 40])
def test_losses_are_those_of_pytorch(tmp_path, mode, rule, hot_rows):
    expected, final = losses_of_torch(mode, rule)
    with Store(tmp_path, memory_budget=64 << 20, hot_rows=hot_rows) as store:
        model, optimizers, table = stored(store, mode, rule)
        torch.manual_seed(5)
        losses = [train_step(model, optimizers, step) for step in range(STEPS)]
        assert_same(losses, expected)
        np.testing.assert_allclose(table.lookup(np.arange(KEYS)), final.numpy(), rtol=1e-3, atol=1e-5)


def test_gradients_are_applied_in_backward_on_request(tmp_path):
    expected, _ = losses_of_torch("sum", "adagrad")
    with Store(tmp_path, memory_budget=64 << 20) as store:
        model, optimizers, _ = stored(store, "sum", "adagrad", apply="backward")
        model.bag.learning["time"] = 1_700_000_000
        torch.manual_seed(5)
        losses = [train_step(model, optimizers[1:], step) for step in range(STEPS)]
        assert_same(losses, expected)
        assert store.stats()["clock"] == 1_700_000_000


KILLED = """
import sys, os
sys.path.insert(0, sys.argv[1])
import torch
from test_torch import *
store = Store(sys.argv[2], memory_budget=64 << 20, hot_rows=40)
model, optimizers, _ = stored(store, "mean", "adagrad")
torch.manual_seed(5)
resumed = resume(model, *optimizers)
first = 0 if resumed is None else resumed.extra["step"]
for step in range(first, STEPS):
    print(step, repr(train_step(model, optimizers, step)), flush=True)
    if step % 7 == 6:
        commit(model, *optimizers, extra={"step": step + 1})
    if step % 60 == 59:
        store.checkpoint()
commit(model, *optimizers, extra={"step": STEPS})
print("digest", store.digest(), flush=True)
"""


def test_losses_are_those_of_pytorch_through_kill_9(tmp_path):
    expected, _ = losses_of_torch("mean", "adagrad")
    losses, digests, kills = {}, [], 0
    for path, at in [(tmp_path / "whole", []), (tmp_path / "killed", [30, 80, 81, 150])]:
        at = list(at)
        while True:
            command = [sys.executable, "-c", KILLED, os.path.dirname(__file__), str(path)]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as job:
                for line in job.stdout:
                    step, value = line.split()
                    if step == "digest":
                        digests.append(value)
                        continue
                    losses.setdefault(path, {})[int(step)] = float(value)
                    if at and int(step) == at[0]:
                        at.pop(0)
                        job.send_signal(signal.SIGKILL)
                        kills += 1
                if job.wait() == 0:
                    break
                assert job.returncode == -signal.SIGKILL
    assert kills == 4 and len(digests) == 2 and digests[0] == digests[1]
    whole, killed = losses.values()
    assert whole == killed and sorted(killed) == list(range(STEPS))
    assert_same([killed[step] for step in range(STEPS)], expected)


def test_an_embedding_is_looked_up_and_trained_as_pytorch_s(tmp_path):
    own = nn.Embedding(10, 4, sparse=True)
    optimizer = torch.optim.Adagrad(own.parameters(), lr=0.3)
    with Store(tmp_path, memory_budget=64 << 20) as store:
        table = import_embedding(store, "e", own, optimizer)
        ours = Embedding(table, store=store)
        tables = TableOptimizer(ours)
        for keys in [torch.tensor([[1, 2], [2, 9]]), torch.tensor(3), torch.zeros(0, dtype=torch.int64), torch.tensor([[[2]]])]:
            optimizer.zero_grad()
            theirs, mine = own(keys), ours(keys)
            assert theirs.shape == mine.shape and torch.allclose(theirs, mine)
            for out in (theirs, mine):
                (out**2).sum().backward()
            optimizer.step()
            tables.step()
        np.testing.assert_allclose(table.lookup(np.arange(10)), own.weight.detach().numpy(), rtol=1e-5, atol=1e-6)
        sums = optimizer.state[own.weight]["sum"].numpy()
        keys, _, _, states = table.rows()
        np.testing.assert_allclose(states[np.argsort(keys)], sums, rtol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.Adagrad(p, lr=0.1, initial_accumulator_value=0.2, eps=1e-9),
        lambda p: torch.optim.SGD(p, lr=0.1),
        lambda p: torch.optim.SparseAdam(p, lr=0.01, betas=(0.8, 0.95)),
    ],
)
def test_training_goes_on_from_an_imported_optimizer(tmp_path, make):
    torch.manual_seed(1)
    own = nn.EmbeddingBag(20, 3, mode="sum", sparse=True)
    optimizer = make(list(own.parameters()))
    keys = torch.arange(20).view(5, 4)

    def step(module, optimizer):
        optimizer.zero_grad()
        out = module(keys)
        (out * torch.arange(15.0).view(5, 3).sin()).sum().backward()
        (optimizer.step)()

    for _ in range(5):
        step(own, optimizer)
    with Store(tmp_path, memory_budget=64 << 20) as store:
        with_keys = np.arange(20, dtype=np.int64)
        table = import_embedding(store, "imported", own, optimizer, keys=with_keys)
        assert np.array_equal(table.lookup(with_keys), own.weight.detach().numpy())
        ours = EmbeddingBag(table, store=store, mode="sum")
        tables = TableOptimizer(ours)
        tables.load_state_dict({"steps": 5})
        for _ in range(20):
            step(own, optimizer)
            step(ours, tables)
        np.testing.assert_allclose(table.lookup(with_keys), own.weight.detach().numpy(), rtol=2e-4, atol=1e-6)


def test_what_has_no_counterpart_is_refused(tmp_path):
    own = nn.EmbeddingBag(4, 2)
    with Store(tmp_path, memory_budget=64 << 20) as store:
        for optimizer in [
            torch.optim.SGD(own.parameters(), lr=0.1, momentum=0.9),
            torch.optim.Adagrad(own.parameters(), lr_decay=0.1),
            torch.optim.RMSprop(own.parameters()),
            torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1),
        ]:
            with pytest.raises(ValueError):
                import_embedding(store, "t", own, optimizer)
        assert store.tables() == []


def test_several_tables_are_one_call_and_one_batch(tmp_path):
    with Store(tmp_path, memory_budget=64 << 20) as store:
        user = store.create_table(TableSchema("user", 2, optimizer=Optimizer.sgd(1.0)))
        item = store.create_table(TableSchema("item", 3, optimizer=Optimizer.sgd(1.0)))
        bag = EmbeddingBag({"user": user, "item": item, "liked": item}, store=store, mode="sum")
        step = TableOptimizer(bag)
        inputs = {
            "user": torch.tensor([[1], [2]]),
            "item": (torch.tensor([5, 6, 5]), torch.tensor([0, 1])),
            "liked": torch.tensor([[5], [7]], dtype=torch.int32),
        }
        out = bag(inputs)
        assert {name: tuple(rows.shape) for name, rows in out.items()} == {"user": (2, 2), "item": (2, 3), "liked": (2, 3)}
        batches = store.stats()["batches"]
        (out["user"].sum() + out["item"].sum() + 2 * out["liked"].sum()).backward()
        assert len(item) == 0
        step.step(time=1_700_000_000)
        assert store.stats()["batches"] == batches + 2
        assert item.lookup(np.array([5, 6, 7]))[:, 0].tolist() == [-4, -1, -2] and user.lookup(np.array([1])).tolist() == [[-1, -1]]
        # An output that the loss does not use learns nothing; neither does what was forgotten.
        bag(inputs)["user"].sum().backward()
        step.step()
        assert item.lookup(np.array([5]))[0, 0] == -4
        bag(inputs)["user"].sum().backward()
        step.zero_grad()
        step.step()
        assert user.lookup(np.array([1])).tolist() == [[-2, -2]]
        with pytest.raises(KeyError, match="no feature 'page'"):
            bag({"page": torch.tensor([[1]])})


def test_wrong_tensors_are_refused(tmp_path):
    with Store(tmp_path, memory_budget=64 << 20) as store:
        bag = EmbeddingBag(store.create_table(TableSchema("t", 2)), store=store)
        with pytest.raises(TypeError, match="keys is a tensor of torch.float32"):
            bag(torch.zeros(2, 2))
        with pytest.raises(TypeError, match="keys is of type list"):
            bag([1, 2])
        with pytest.raises(ValueError, match="1 dimensions, expected 2"):
            bag(torch.tensor([1, 2]))
        with pytest.raises(ValueError, match="expected 1 with offsets"):
            bag(torch.tensor([[1, 2]]), torch.tensor([0]))
        with pytest.raises(errors.InvalidOffsets):
            bag(torch.tensor([1, 2]), torch.tensor([1]))
        with pytest.raises(ValueError, match="mode is 'max'"):
            EmbeddingBag(bag.tables[""], store=store, mode="max")
        keys = torch.tensor([[1, 2]])
        out = bag(keys)
        keys[0, 0] = 5
        with pytest.raises(RuntimeError, match="changed in place"):
            out.sum().backward()


def test_transposed_and_expanded_inputs_and_gradients(tmp_path):
    with Store(tmp_path, memory_budget=64 << 20) as store:
        table = store.create_table(TableSchema("t", 2, optimizer=Optimizer.sgd(1.0)))
        bag = EmbeddingBag(table, store=store, mode="sum")
        step = TableOptimizer(bag)
        bag(torch.tensor([[1, 2], [3, 4]]).T).T.sum().backward()
        step.step()
        assert table.lookup(np.arange(1, 5)).tolist() == [[-1, -1]] * 4
        with torch.no_grad():
            assert bag(torch.tensor([[1, 3]])).tolist() == [[-2, -2]]


def test_it_works_under_compile_with_a_break(tmp_path):
    with Store(tmp_path, memory_budget=64 << 20) as store:
        table = store.create_table(TableSchema("t", DIM, optimizer=Optimizer.sgd(1.0), initializer=Initializer.uniform(0.1)))
        model = Tower(EmbeddingBag(table, store=store))
        model.eval()
        keys, offsets, _ = batch(1)
        plain = model(keys, offsets)
        compiled = torch.compile(model, backend="eager")
        assert torch.equal(compiled(keys, offsets), plain)
        compiled(keys, offsets).sum().backward()
        TableOptimizer(model).step()
        assert len(table) == len(set(keys.tolist()))


def test_a_state_dict_names_the_commit_it_belongs_to(tmp_path):
    path = tmp_path / "store"
    with Store(path, memory_budget=64 << 20) as store:
        model, optimizers, _ = stored(store, "sum", "sgd")
        train_step(model, optimizers, 0)
        with pytest.warns(UserWarning, match="rows have changed since"):
            model.state_dict()
        first = commit(model, *optimizers, extra="one")
        saved = model.state_dict()
        assert saved["bag._extra_state"] == {"commit": str(first)}
        assert not [name for name in saved if name.startswith("bag.") and name != "bag._extra_state"]
        train_step(model, optimizers, 1)
        commit(model, *optimizers, extra="two")
        with pytest.raises(Exception, match=f"open it with at='{first}'"):
            model.load_state_dict(saved)
    with Store(path, memory_budget=64 << 20, at=first) as store:
        model, optimizers, _ = stored(store, "sum", "sgd")
        model.load_state_dict(saved)
        resumed = resume(model, *optimizers)
        assert (resumed.commit, resumed.extra, optimizers[0].steps) == (first, "one", 1)
        with pytest.raises(ValueError, match="holds 2 optimizers, 1 were given"):
            resume(model, optimizers[0])
        store.commit(b"something else")
        with pytest.raises(ValueError, match="holds no state of embedrock.torch"):
            resume(model, *optimizers)


def test_batches_are_announced_ahead_and_come_in_order(tmp_path):
    with Store(tmp_path, memory_budget=64 << 20, hot_rows=50) as store:
        table = store.create_table(TableSchema("t", 4))
        table.assign(np.arange(5000), np.ones((5000, 4), np.float32))
        bag = EmbeddingBag(table, store=store)
        assert store.stats()["tables"]["t"]["hot_rows"] <= 100
        loader = [torch.arange(first, first + 100).view(10, 10) for first in range(0, 2000, 100)]
        announced = []

        def announce(keys):
            bag.prefetch(keys)
            announced.append(len(announced))

        seen = 0
        for keys in Prefetched(loader, announce, steps=3):
            assert torch.equal(keys, loader[seen]) and len(announced) == min(seen + 4, len(loader))
            assert bag(keys).eq(1).all()
            seen += 1
        assert seen == len(loader) == len(Prefetched(loader, announce))
        deadline = time.monotonic() + 30
        while store.stats()["tables"]["t"]["prefetched"] == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert store.stats()["tables"]["t"]["prefetched"] > 0


class Touching(torch.utils.data.Dataset):
    def __init__(self, table):
        self.table = table

    def __len__(self):
        return 4

    def __getitem__(self, index):
        try:
            self.table.lookup(np.array([index]))
        except errors.ForkedChild:
            return 1
        return 0


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_workers_of_a_data_loader_may_not_touch_the_store(tmp_path):
    with Store(tmp_path, memory_budget=64 << 20) as store:
        table = store.create_table(TableSchema("t", 1))
        loader = torch.utils.data.DataLoader(Touching(table), num_workers=2, multiprocessing_context="fork")
        assert [int(value) for value in loader] == [1] * 4
        table.assign(np.array([1]), np.ones((1, 1), np.float32))
        store.commit()
        assert store.verify()["damage"] == []


def test_the_embeddings_of_a_cuda_model_go_where_it_is(tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    with Store(tmp_path, memory_budget=64 << 20) as store:
        table = store.create_table(TableSchema("t", 2, optimizer=Optimizer.sgd(1.0)))
        bag = EmbeddingBag(table, store=store, mode="sum", device="cuda")
        out = bag(torch.tensor([[1, 2]]))
        assert out.device.type == "cuda"
        out.sum().backward()
        TableOptimizer(bag).step()
        assert bag(torch.tensor([[1, 2]], device="cuda")).tolist() == [[-2, -2]]


def test_the_example_of_the_docstring_holds():
    results = doctest.testmod(embedrock.torch)
    assert results.failed == 0 and results.attempted > 5


def test_a_commit_in_the_background_is_of_the_moment_it_was_called(tmp_path):
    def opened():
        store = Store(tmp_path / "store", memory_budget=64 << 20)
        rows = Embedding(store.create_table(TableSchema("t", 2, optimizer=Optimizer.sgd(1.0))), store=store)
        return store, rows, TableOptimizer(rows)

    keys = torch.arange(3)
    store, rows, tables = opened()
    with store:
        rows(keys).sum().backward()
        tables.step()
        ticket = commit_in_background(rows, tables, extra={"batches": 1})
        rows(keys).sum().backward()
        tables.step()
        assert ticket.wait() == store.durable_commit()
    store, rows, tables = opened()
    with store:
        assert resume(rows, tables).extra == {"batches": 1} and tables.steps == 1
        assert rows(keys).tolist() == [[-1.0, -1.0]] * 3
