"""Jobs of several ranks: killed and resumed to the same bits, and moved to another number of ranks."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from embedrock import Store
from embedrock.torch.resharding import reshard
from embedrock.torch.sharded import JobCommit, last_record, owners, rank_path, read_record, record_names, write_record

EXAMPLE = os.path.join(os.path.dirname(__file__), "..", "examples", "sharded.py")


def job(root, ranks, *arguments, kill=()):
    """Runs the example, with the arguments of `kill` only the first time; returns the steps that ranks began at, and the last line."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", EXAMPLE, "--root", str(root)]
    begins = []
    for more in [kill, ()] if kill else [()]:
        run = subprocess.run([*command, *arguments, *more], capture_output=True, text=True, timeout=400)
        assert (run.returncode == 0) == (not more), run.stderr[-3000:]
        begins += re.findall(r"rank \d+ begins at step (\d+)", run.stdout)
    return begins, re.search(r"^digest .*$", run.stdout, re.M)[0]


@pytest.mark.parametrize("ranks", [2, 4])
def test_a_job_whose_rank_is_killed_ends_with_the_same_bits(tmp_path, ranks):
    begins, whole = job(tmp_path / "whole", ranks)
    assert begins == ["0"] * ranks
    for name, arguments in [("killed", ["--kill-at", "13"]), ("in-commit", ["--kill-at", "14", "--kill-in-commit"])]:
        begins, digest = job(tmp_path / name, ranks, kill=[*arguments, "--kill-rank", str(ranks - 1)])
        # All ranks go back to the job's last commit, also the one that had committed beyond it.
        assert begins == ["0"] * ranks + ["10"] * ranks
        assert digest == whole
    # Nothing is left to do: the same command ends where it was.
    begins, digest = job(tmp_path / "killed", ranks)
    assert begins == ["20"] * ranks and digest == whole
    assert last_record(tmp_path / "whole", ranks).number == 4


def test_a_job_moves_to_another_number_of_ranks(tmp_path):
    job(tmp_path / "two", 2, "--steps", "10")
    rows = {}
    for ranks in (1, 3):
        made = reshard(tmp_path / "two", tmp_path / str(ranks), ranks, seed=7, memory_budget=64 << 20)
        assert made == last_record(tmp_path / str(ranks), ranks) and made.number == 1
        rows[ranks] = rows_of(tmp_path / str(ranks), ranks)
    rows[2] = rows_of(tmp_path / "two", 2)
    keys, embeddings, states = rows[2]
    assert len(keys) > 500
    for other in (rows[1], rows[3]):
        assert all(np.array_equal(mine, theirs) for mine, theirs in zip(rows[2], other))
    begins, _ = job(tmp_path / "3", 3)
    assert begins == ["10"] * 3
    with pytest.raises(FileExistsError):
        reshard(tmp_path / "two", tmp_path / "3", 3)
    with pytest.raises(ValueError, match="no commit of a job"):
        reshard(tmp_path, tmp_path / "none", 3)


def rows_of(root, ranks):
    """All rows, by key; each must be where it belongs."""
    parts = []
    for rank in range(ranks):
        with Store(rank_path(root, rank, ranks), read_only=True) as store:
            keys, _, embeddings, states = store.table("rows").rows()
            assert (owners(keys, ranks) == rank).all()
            parts.append((keys, embeddings, states))
    keys, embeddings, states = (np.concatenate(part) for part in zip(*parts))
    order = np.argsort(keys)
    return keys[order], embeddings[order], states[order]


def test_keys_are_owned_evenly_whatever_they_are():
    for keys in [np.arange(100_000), np.arange(100_000) << 40, -np.arange(100_000), np.random.default_rng(0).integers(0, 2**62, 100_000)]:
        for ranks in (1, 2, 3, 8):
            owner = owners(keys, ranks)
            shares = np.bincount(owner, minlength=ranks)
            assert len(shares) == ranks and shares.min() > 0.95 * len(keys) / ranks


def test_a_record_is_whole_or_refused(tmp_path):
    for number in range(1, 5):
        write_record(tmp_path, JobCommit(number, [f"1.{number}", f"1.{number}"]))
    assert record_names(tmp_path) == ["job-0000000003.json", "job-0000000004.json"]
    assert last_record(tmp_path, 2) == JobCommit(4, ["1.4", "1.4"])
    with pytest.raises(ValueError, match="has 2 ranks, not 3"):
        last_record(tmp_path, 3)
    path = tmp_path / "job-0000000004.json"
    whole = path.read_bytes()
    for at in range(len(whole)):
        flipped = bytearray(whole)
        flipped[at] ^= 1
        path.write_bytes(flipped)
        try:
            read = read_record(path)
        except ValueError as error:
            assert "is no record of a job" in str(error) or isinstance(error, UnicodeDecodeError)
            continue
        # White space of JSON's is the only thing that may change.
        assert read == JobCommit(4, ["1.4", "1.4"])
    for content in [b"", b"{}", b"[]", b"null", json.dumps({"body": 1, "sha256": 2}).encode(), whole[:-5]]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is no record of a job"):
            read_record(path)


ONE_RANK = """
import sys
import torch, numpy as np, torch.distributed as dist
from embedrock import Initializer, Optimizer, TableSchema
from embedrock.torch import TableOptimizer
from embedrock.torch.sharded import Job, ShardedEmbedding
dist.init_process_group("gloo")
rank, ranks = dist.get_rank(), dist.get_world_size()
with Job(sys.argv[1], memory_budget=64 << 20, seed=3) as job:
    schema = TableSchema("t", 4, optimizer=Optimizer.adagrad(0.1, initial_accumulator=0.0), initializer=Initializer.uniform(0.1))
    rows = ShardedEmbedding(job.store.create_table(schema), store=job.store)
    tables = TableOptimizer(rows)
    losses = []
    for step in range(20):
        keys = torch.from_numpy(np.random.default_rng(step).integers(-50, 50, (8, 3)))[rank * 8 // ranks : (rank + 1) * 8 // ranks]
        out = rows(keys)
        loss = ((out - 1) ** 2).mean()
        loss.backward()
        tables.step()
        total = loss.detach().clone()
        dist.all_reduce(total)
        losses.append(total.item() / ranks)
    job.commit(rows, tables)
    if rank == 0:
        print("losses", *losses)
dist.destroy_process_group()
"""


def test_the_losses_of_a_job_do_not_depend_on_its_ranks(tmp_path):
    losses = {}
    for ranks in (1, 2):
        script = tmp_path / "job.py"
        script.write_text(ONE_RANK)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", str(script)]
        run = subprocess.run([*command, str(tmp_path / str(ranks))], capture_output=True, text=True, timeout=300)
        assert run.returncode == 0, run.stderr[-3000:]
        line = next(line for line in run.stdout.splitlines() if line.startswith("losses"))
        losses[ranks] = [float(value) for value in line.split()[1:]]
    np.testing.assert_allclose(losses[1], losses[2], rtol=1e-5)
    assert losses[1][0] > 1.5 * losses[1][-1]
