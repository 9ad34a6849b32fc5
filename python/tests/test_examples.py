"""The example does what it says: killed and started again, it ends as if it had never been killed."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

EXAMPLE = os.path.join(os.path.dirname(__file__), "..", "examples", "deepfm_movielens.py")


def run(*arguments, code=0):
    job = subprocess.run([sys.executable, EXAMPLE, *map(str, arguments)], capture_output=True, text=True, timeout=300)
    assert job.returncode == code, job.stderr
    return job.stdout.splitlines()


@pytest.mark.parametrize("name", ["ratings.csv", "u.data"])
def test_deepfm_goes_on_after_a_crash(tmp_path, name):
    draw = np.random.default_rng(0)
    users, films = draw.integers(1, 200, 80_000), draw.integers(1, 300, 80_000)
    stars = 1 + (users * 7 + films * 3) % 5
    rows = np.column_stack([users, films, stars, np.arange(80_000)])
    csv = name.endswith(".csv")
    np.savetxt(tmp_path / name, rows, fmt="%d", delimiter="," if csv else "\t", header="userId,movieId,rating,timestamp" if csv else "", comments="")
    whole = run("--store", tmp_path / "whole", "--data", tmp_path / name)
    assert whole[0] == "begins"
    run("--store", tmp_path / "killed", "--data", tmp_path / name, "--crash-after", 120, code=-signal.SIGKILL)
    resumed = run("--store", tmp_path / "killed", "--data", tmp_path / name)
    assert resumed[0] == "goes on from commit 1.2, after 100 batches"
    assert resumed[-1] == whole[-1] and whole[-1].startswith("156 batches, mean log loss 0.")
