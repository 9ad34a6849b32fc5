"""The store as Python sees it: what goes in comes out, and what is wrong is refused by name."""

import doctest
import multiprocessing
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import embedrock
from embedrock import Optimizer, Store, TableSchema, errors

TIME = 1_700_000_000


def keys_of(*keys):
    return np.array(keys, dtype=np.uint64)


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "store", memory_budget=64 << 20, threads=1) as store:
        yield store


@pytest.fixture
def table(store):
    return store.create_table(TableSchema("user", 3, optimizer=Optimizer.sgd(0.5)))


def test_rows_learn_and_come_back_with_the_trainer_s_state(tmp_path):
    path = tmp_path / "store"
    grads = np.arange(9, dtype=np.float32).reshape(3, 3)
    with Store(path, memory_budget=64 << 20) as store:
        users = store.create_table(TableSchema("user", 3, optimizer=Optimizer.sgd(1.0)))
        users.apply_gradients(keys_of(7, 2**64 - 1, 7), grads, time=TIME)
        assert np.array_equal(users.lookup(keys_of(7, 2**64 - 1, 8)), [[-6, -8, -10], [-3, -4, -5], [0, 0, 0]])
        assert 7 in users and 2**64 - 1 in users and -1 in users and 8 not in users
        assert len(users) == 2 and bool(users)
        first = store.commit(b"epoch 1")
        users.remove(keys_of(7))
        second = store.commit(bytearray(b"epoch 2"))
        assert store.commits() == [first, second] and first < second
        users.assign(keys_of(1), np.ones((1, 3), np.float32), time=TIME)
        assert store.stats()["tables"]["user"]["rows"] == 2
        assert store.close() == 1
        assert store.close() is None
    with Store(path, memory_budget=64 << 20) as store:
        last = store.last_commit()
        assert (last.id, last.state, last.clock) == (second, b"epoch 2", TIME)
        assert 7 not in store.table("user")
    with Store(path, memory_budget=64 << 20, at=first) as store:
        assert store.last_commit().state == b"epoch 1"
        assert 7 in store.table("user")
    report = embedrock.restore(path, tmp_path / "restored", commit=str(first))
    assert report["commit"] == first and report["tables"] == [("user", 2)]
    assert embedrock.verify(tmp_path / "restored")["damage"] == []


def test_signed_keys_are_the_same_bits(table):
    table.assign(np.array([-1, 5]), np.ones((2, 3), np.float32), time=TIME)
    assert np.array_equal(table.lookup(keys_of(2**64 - 1, 5)), np.ones((2, 3)))


def test_arrays_are_read_and_written_in_place(table):
    out = np.full((2, 3), 7, np.float32)
    assert table.lookup(keys_of(1, 2), out=out) is out and not out.any()
    whole = np.full((6, 3), 7, np.float32)
    table.assign(keys_of(1, 2), np.ones((2, 3), np.float32))
    table.lookup(keys_of(1, 2), out=whole[2:4])
    assert np.array_equal(whole[:, 0], [7, 7, 1, 1, 7, 7])
    rows, found = table.lookup_found(keys_of(9, 2))
    assert found.tolist() == [False, True] and rows[1].tolist() == [1, 1, 1]
    old = table.replace(keys_of(1), np.full((1, 3), 5, np.float32))
    assert old.tolist() == [[1, 1, 1]] and table.lookup(keys_of(1)).tolist() == [[5, 5, 5]]


ROWS = np.zeros((2, 3), np.float32)
READ_ONLY = np.zeros((2, 3), np.float32)
READ_ONLY.flags.writeable = False


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda t: t.lookup([1, 2]), TypeError, "keys is of type list, expected a NumPy array of uint64 or int64"),
        (lambda t: t.lookup(np.array([1, 2], np.int32)), TypeError, "keys is an array of int32"),
        (lambda t: t.lookup(np.array([1.0])), TypeError, "keys is an array of float64"),
        (lambda t: t.lookup(keys_of(1, 2).reshape(1, 2)), ValueError, "keys has 2 dimensions"),
        (lambda t: t.lookup(np.arange(4)[::2]), ValueError, "keys is not contiguous"),
        (lambda t: t.lookup(keys_of(1, 2), out=np.zeros((2, 3))), TypeError, "out is an array of float64"),
        (lambda t: t.lookup(keys_of(1, 2), out=np.zeros((3, 2), np.float32)), ValueError, r"out has shape \[3, 2\], expected \[2, 3\]"),
        (lambda t: t.lookup(keys_of(1, 2), out=np.zeros((3, 2), np.float32).T), ValueError, "out is not contiguous"),
        (lambda t: t.lookup(keys_of(1, 2), out=READ_ONLY), ValueError, "out cannot be used"),
        (lambda t: t.replace(keys_of(1, 2), ROWS, out=ROWS), ValueError, "out cannot be used"),
        (lambda t: t.apply_gradients(keys_of(1, 2), ROWS[:1]), ValueError, r"grads has shape \[1, 3\]"),
        (lambda t: t.apply_gradients(keys_of(1, 2), ROWS, rate=1.0), TypeError, "no setting 'rate'"),
        (lambda t: t.apply_gradients(keys_of(1, 2), ROWS + np.float32("nan")), errors.NotFinite, "gradient of key 1"),
        (lambda t: t.apply_gradients(keys_of(1), ROWS[:1], learning_rate=-1.0), errors.InvalidOption, "learning_rate"),
        (lambda t: t.lookup_pooled(keys_of(1, 2), np.array([0, 1])), errors.InvalidOffsets, "not the number of keys"),
        (lambda t: t.lookup_pooled(keys_of(1, 2), np.array([-1, 2])), errors.InvalidOffsets, "offset 0"),
        (lambda t: t.lookup_pooled(keys_of(1, 2), np.array([0, 2]), "max"), ValueError, "pooling is 'max'"),
    ],
)
def test_what_is_wrong_is_refused_and_nothing_changes(store, table, call, error, message):
    before = store.digest()
    with pytest.raises(error, match=message):
        call(table)
    assert store.digest() == before and len(table) == 0


def test_errors_are_one_hierarchy_and_say_what_a_program_may_ask_for(store, table, tmp_path):
    with pytest.raises(errors.UnknownTable) as caught:
        store.table("item")
    assert isinstance(caught.value, (embedrock.Error, KeyError)) and caught.value.table == "item"
    assert str(caught.value) == "there is no table 'item'"
    with pytest.raises(errors.Locked) as caught:
        Store(tmp_path / "store")
    assert caught.value.pid == os.getpid()
    with pytest.raises(errors.SchemaMismatch) as caught:
        store.create_table(TableSchema("user", 4))
    assert caught.value.what == "dim is 3, not 4"
    table.assign(keys_of(1), ROWS[:1], time=TIME)
    with pytest.raises(errors.ClockJump) as caught:
        table.assign(keys_of(1), ROWS[:1], time=TIME * 1000)
    assert (caught.value.time, caught.value.clock) == (TIME * 1000, TIME)
    with pytest.raises(errors.NotAStore):
        Store(tmp_path)
    with pytest.raises(TypeError, match="stores have no setting 'memory'"):
        Store(tmp_path / "other", memory=1)
    with pytest.raises(errors.UnknownCommit) as caught:
        embedrock.restore(store.path, tmp_path / "target", commit="3.4")
    assert caught.value.commit == "3.4"
    named = [getattr(errors, name) for name in dir(errors) if isinstance(getattr(errors, name), type)]
    assert all(issubclass(error, embedrock.Error) for error in named if error.__module__ == "embedrock.errors")


def test_a_closed_store_says_so(store, table):
    store.close()
    for call in [lambda: table.lookup(keys_of(1)), lambda: len(table), store.commit, store.digest, store.tables]:
        with pytest.raises(errors.Closed):
            call()


def test_several_tables_in_one_call(store, table):
    items = store.create_table(TableSchema("item", 2, optimizer=Optimizer.sgd(1.0)))
    seen, offsets = keys_of(1, 2, 3), np.array([0, 3, 3])
    grads = [-np.ones((2, 3), np.float32), -np.ones((2, 2), np.float32)]
    store.apply_gradients_many([(table, keys_of(7, 8), grads[0]), (items, seen, grads[1], offsets, "sum")], time=TIME)
    users, bags = store.lookup_many([(table, keys_of(7, 8)), (items, seen, offsets, "mean")])
    assert users.tolist() == [[0.5] * 3] * 2 and bags.tolist() == [[1, 1], [0, 0]]
    first_two = items.lookup_pooled(seen, offsets, 2)
    assert first_two.tolist() == [[1] * 4, [0] * 4]
    with pytest.raises(ValueError, match="grads has shape"):
        store.apply_gradients_many([(table, keys_of(7), grads[0][:1]), (items, seen, grads[1])])
    with pytest.raises(errors.NotFinite) as caught:
        store.apply_gradients_many([(table, keys_of(7), grads[0][:1]), (items, keys_of(1), grads[1][:1] * np.float32("inf"))])
    assert caught.value.request == 1
    assert table.lookup(keys_of(7)).tolist() == [[0.5] * 3]


def test_commits_in_the_background(store, table):
    table.assign(keys_of(1), np.ones((1, 3), np.float32))
    ticket = store.commit_in_background(b"state")
    assert ticket.wait() == ticket.id and ticket.is_durable()
    assert store.durable_commit() == ticket.id and store.last_commit().state == b"state"
    assert store.commit_if_due() is None
    assert isinstance(store.checkpoint(), int)


def test_all_rows_come_with_their_state(store):
    table = store.create_table(TableSchema("a", 2, optimizer=Optimizer.adagrad(0.1, initial_accumulator=0.5)))
    keys, times, embeddings, states = table.rows()
    assert keys.shape == (0,) and embeddings.shape == (0, 2) and states.shape[0] == 0
    table.assign(keys_of(3, 4), np.array([[1, 2], [3, 4]], np.float32), time=TIME)
    keys, times, embeddings, states = table.rows()
    order = np.argsort(keys)
    assert keys[order].tolist() == [3, 4] and times.tolist() == [TIME, TIME]
    assert embeddings[order].tolist() == [[1, 2], [3, 4]] and states.tolist() == [[0.5, 0.5]] * 2


def test_a_replica_follows(tmp_path):
    with Store(tmp_path / "store", memory_budget=64 << 20) as store:
        table = store.create_table(TableSchema("user", 2))
        store.commit()
        with embedrock.Replica(tmp_path / "store", tmp_path / "replica", memory_budget=64 << 20) as replica:
            table.assign(keys_of(7), np.array([[1, 2]], np.float32))
            id = store.commit()
            assert replica.lag()[0] == 1
            assert replica.catch_up()["commits"] == 1
            rows, found, at = replica.lookup_at("user", keys_of(7, 8))
            assert rows.tolist() == [[1, 2], [0, 0]] and found.tolist() == [True, False] and at == id == replica.at
            with pytest.raises(errors.UnknownTable):
                replica.lookup("item", keys_of(1))
        with pytest.raises(errors.Closed):
            replica.lookup("user", keys_of(7))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_is_refused(store, table):
    table.assign(keys_of(1), np.ones((1, 3), np.float32), time=TIME)
    ticket = store.commit_in_background()
    before = store.digest()

    def child(answers):
        calls = [
            lambda: table.lookup(keys_of(1)),
            lambda: table.assign(keys_of(1), ROWS[:1]),
            lambda: table.prefetch(keys_of(1)),
            lambda: store.commit(b""),
            store.digest,
            store.close,
            ticket.wait,
        ]
        for call in calls:
            try:
                answers.put(f"{call} went through: {call()}")
            except errors.ForkedChild:
                answers.put(None)

    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    process = context.Process(target=child, args=(answers,))
    process.start()
    assert [answers.get() for _ in range(7)] == [None] * 7
    process.join()
    assert process.exitcode == 0
    assert store.digest() == before and table.lookup(keys_of(1)).tolist() == [[1, 1, 1]]
    store.commit()
    assert store.verify()["damage"] == []


def test_other_threads_run_while_a_call_does(store):
    table = store.create_table(TableSchema("wide", 256))
    keys = np.arange(60_000)
    rows = np.ones((60_000, 256), np.float32)
    counted = 0
    done = threading.Event()

    def work():
        for _ in range(5):
            table.assign(keys[:20_000], rows[:20_000])
            table.lookup(keys, out=rows)
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    while not done.is_set():
        counted += 1
    thread.join()
    # With the lock held there would be a turn before and after each of ten calls.
    assert counted > 100


INTERRUPTED = """
import os, signal, sys, threading, time
import numpy as np, embedrock
signal.signal(signal.SIGINT, signal.default_int_handler)  # what starts in the background ignores it
store = embedrock.Store(sys.argv[1], memory_budget=512 << 20, threads=1)
table = store.create_table(embedrock.TableSchema("user", 64))
rows = np.ones((200_000, 64), np.float32)
for first in range(0, 800_000, 200_000):
    table.assign(np.arange(first, first + 200_000), rows)
try:
    threading.Timer(0.05, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    ends = time.monotonic() + 30
    while time.monotonic() < ends:
        getattr(store, sys.argv[2])()
except KeyboardInterrupt:
    print("interrupted", flush=True)
assert len(table) == 800_000
id = store.commit(b"after")
store.close()
print(id, flush=True)
"""


@pytest.mark.parametrize("call", ["digest", "commit", "checkpoint", "verify"])
def test_ctrl_c_ends_the_wait_and_harms_nothing(tmp_path, call):
    path = str(tmp_path / "store")
    run = subprocess.run([sys.executable, "-c", INTERRUPTED, path, call], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    said, id = run.stdout.split()
    assert said == "interrupted"
    with Store(path, memory_budget=512 << 20) as store:
        assert str(store.last_commit().id) == id and store.last_commit().state == b"after"
        assert len(store.table("user")) == 800_000


LOOKED_UP = """
import os, signal, sys, threading, time
import numpy as np, embedrock
signal.signal(signal.SIGINT, signal.default_int_handler)
table = embedrock.Store(sys.argv[1]).create_table(embedrock.TableSchema("user", 1))
keys, out = np.arange(30_000_000), np.full((30_000_000, 1), 7, np.float32)
def once_begun():
    while out[0, 0] == 7:
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGINT)
try:
    threading.Thread(target=once_begun).start()
    table.lookup(keys, out=out)
    time.sleep(60)
except KeyboardInterrupt:
    print(out[0, 0], out[-1, 0])
"""


def test_ctrl_c_stops_a_long_lookup_on_its_way(tmp_path):
    # Where other work takes the cores, a lookup may end before the signal is sent.
    for turn in range(10):
        run = subprocess.run([sys.executable, "-c", LOOKED_UP, tmp_path / str(turn)], capture_output=True, text=True, timeout=120)
        assert run.returncode == 0, run.stderr
        if run.stdout.split() == ["0.0", "7.0"]:
            return
    raise AssertionError("no lookup was cut short")


def test_ids_are_values(store):
    id = store.commit()
    assert id == embedrock.CommitId.parse(str(id)) == embedrock.CommitId(id.timeline, id.sequence)
    assert len({id, embedrock.CommitId(1, 1)}) == 1 and repr(id) == "CommitId(1, 1)"
    import pickle

    assert pickle.loads(pickle.dumps(id)) == id
    with pytest.raises(ValueError, match="not a commit"):
        embedrock.CommitId.parse("one")


def test_schemas_take_what_the_engine_does(store):
    schedule = embedrock.Schedule.cosine(100, end=0.1).warm_up(10)
    bias = embedrock.Segment(1, optimizer=Optimizer.ftrl(0.01, beta=1.0))
    vector = embedrock.Segment(4, optimizer=Optimizer.adam(0.01, betas=(0.8, 0.9), schedule=schedule))
    schema = TableSchema(
        "features",
        5,
        segments=[bias, vector],
        admission=embedrock.Admission.count(3),
        expiry=embedrock.Expiry.after_secs(60),
        slot_thresholds={3: 1},
        slot_expiries={12: embedrock.Expiry.never()},
        missing="zeros",
        precision="bf16",
    )
    table = store.create_table(schema)
    assert table.schema == schema and schema.segment_range(1) == (1, 5)
    grads = np.ones((1, 5), np.float32)
    table.apply_gradients(keys_of(1), grads, step=1, time=TIME)
    assert 1 not in table
    table.apply_gradients(keys_of(1, 1), np.ones((2, 5), np.float32), step=2, time=TIME)
    assert 1 in table
    with pytest.raises(errors.InvalidSchema, match="l1 does not apply to"):
        store.create_table(TableSchema("x", 1, optimizer=Optimizer.sgd(0.1, l1=1.0)))
    with pytest.raises(ValueError, match="precision is 'f8', expected one of f32, bf16, f16"):
        TableSchema("x", 1, precision="f8")
    with pytest.raises(TypeError, match="no setting 'optimiser'"):
        TableSchema("x", 1, optimiser=None)


def test_every_public_call_has_a_docstring():
    for name in embedrock.__all__:
        value = getattr(embedrock, name)
        if not isinstance(value, type) or value is embedrock.Error:
            continue
        assert value.__doc__, name
        for method in vars(value):
            if not method.startswith("_") and name != "Optimizer":
                assert getattr(value, method).__doc__, f"{name}.{method}"


def test_the_example_of_the_docstring_holds():
    results = doctest.testmod(embedrock)
    assert results.failed == 0 and results.attempted > 5
