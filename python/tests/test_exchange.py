"""Files that other programs write and read: Parquet by pyarrow, safetensors by its package, NumPy."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file

from embedrock import Optimizer, Store, TableSchema, errors

TIME = 1_700_000_000
KEYS = np.array([3, 2**64 - 1, 0], np.uint64)
ROWS = np.arange(6, dtype=np.float32).reshape(3, 2)
SUMS = ROWS + 10


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "store", memory_budget=64 << 20) as store:
        yield store


def filled(store):
    table = store.create_table(TableSchema("t", 2, optimizer=Optimizer.adagrad(0.1, initial_accumulator=10.0)))
    table.assign(KEYS, ROWS, time=TIME)
    return table


def sorted_by_key(keys, *others):
    order = np.argsort(keys)
    return [np.asarray(keys)[order]] + [np.asarray(other)[order] for other in others]


def read_parquet(path):
    columns = pq.read_table(path)
    lists = [np.stack([np.asarray(row, np.float32) for row in columns[name].to_pylist()]) for name in ("embedding", "state")]
    return columns["key"].to_numpy(), columns["time"].to_numpy(), *lists


def read_safetensors(path):
    tensors = load_file(path)
    return tensors["key"], tensors["time"], tensors["embedding"], tensors["state"]


def read_numpy(path):
    arrays = np.load(path)
    return arrays["key"], arrays["time"], arrays["embedding"], arrays["state"]


READERS = {"rows.parquet": read_parquet, "rows.safetensors": read_safetensors, "rows.npz": read_numpy, "rows.npy": read_numpy}


@pytest.mark.parametrize("name", READERS)
def test_others_read_what_is_exported(store, tmp_path, name):
    filled(store)
    assert store.export_rows("t", tmp_path / name) == 3
    keys, times, embeddings, states = READERS[name](tmp_path / name)
    keys, embeddings, states = sorted_by_key(keys.astype(np.uint64), embeddings, states)
    expected = sorted_by_key(KEYS, ROWS, np.full((3, 2), 10, np.float32))
    assert [keys.tolist(), embeddings.tolist(), states.tolist()] == [part.tolist() for part in expected]
    assert set(times.tolist()) == {TIME}
    with pytest.raises(errors.Error, match="exists"):
        store.export_rows("t", tmp_path / name)


def write_parquet(path):
    lists = {name: pa.array(values.tolist(), pa.list_(pa.float32())) for name, values in [("embedding", ROWS), ("state", SUMS)]}
    pq.write_table(pa.table({"key": KEYS, **lists}), path)


def write_safetensors(path):
    save_file({"key": KEYS, "embedding": ROWS, "state": SUMS}, path)


def write_numpy(path):
    np.savez(path, key=KEYS, embedding=ROWS, state=SUMS)


WRITERS = {"rows.parquet": write_parquet, "rows.safetensors": write_safetensors, "rows.npz": write_numpy}


@pytest.mark.parametrize("name", WRITERS)
def test_what_others_write_is_imported(store, tmp_path, name):
    WRITERS[name](tmp_path / name)
    schema = TableSchema("t", 2, optimizer=Optimizer.adagrad(1.0))
    assert store.import_rows(schema, tmp_path / name, time=TIME) == 3
    keys, times, embeddings, states = store.table("t").rows()
    keys, embeddings, states = sorted_by_key(keys, embeddings, states)
    assert [keys.tolist(), embeddings.tolist(), states.tolist()] == [part.tolist() for part in sorted_by_key(KEYS, ROWS, SUMS)]
    assert times.tolist() == [TIME] * 3 and store.stats()["uncommitted_rows"] == 0
    # The state is used: a gradient of 0 changes nothing, one of 1 by as much as the sums allow.
    table = store.table("t")
    table.apply_gradients(KEYS, np.ones((3, 2), np.float32))
    np.testing.assert_allclose(table.lookup(KEYS), ROWS - 1 / np.sqrt(SUMS + 1), rtol=1e-6)


def test_a_file_that_is_not_what_it_should_be_changes_nothing(store, tmp_path):
    filled(store)
    store.commit()
    before = store.digest()
    for name, content in [("bad.npz", b"PK\x03\x04 and no more"), ("bad.parquet", b"PAR1"), ("bad.safetensors", b"\xff" * 40)]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(errors.FileRefused) as caught:
            store.import_rows("t", tmp_path / name)
        assert caught.value.path.endswith(name)
    np.savez(tmp_path / "wide.npz", key=KEYS, embedding=np.ones((3, 5), np.float32))
    with pytest.raises(errors.SchemaMismatch):
        store.import_rows("t", tmp_path / "wide.npz")
    assert store.digest() == before
