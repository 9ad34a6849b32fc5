"""The example does what it says: killed and started again, it ends as if it had never been killed."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

EXAMPLE = os.path.join(os.path.dirname(__file__), "..", "examples", "deepfm_movielens.py")


def begun(*arguments):
    return subprocess.Popen([sys.executable, EXAMPLE, *map(str, arguments)], stdout=subprocess.PIPE, text=True)


def run(*arguments):
    with begun(*arguments) as job:
        said = job.stdout.read().splitlines()
    assert job.returncode == 0
    return said


@pytest.mark.parametrize("name", ["ratings.csv", "u.data"])
def test_deepfm_goes_on_after_a_crash(tmp_path, name):
    draw = np.random.default_rng(0)
    users, films = draw.integers(1, 200, 80_000), draw.integers(1, 300, 80_000)
    rows = np.column_stack([users, films, 1 + (users * 7 + films * 3) % 5, np.arange(80_000)])
    head = {"delimiter": ",", "header": "userId,movieId,rating,timestamp", "comments": ""} if name == "ratings.csv" else {"delimiter": "\t"}
    np.savetxt(tmp_path / name, rows, fmt="%d", **head)
    whole = run(tmp_path / "whole", tmp_path / name)
    assert whole[0] == "begins" and whole[-2].startswith("after 157 batches: mean log loss 0.") and whole[-1].startswith("digest ")
    with begun(tmp_path / "killed", tmp_path / name) as job:
        for line in job.stdout:
            if line.startswith("after 100 batches"):
                job.kill()
    assert job.returncode == -signal.SIGKILL
    resumed = run(tmp_path / "killed", tmp_path / name)
    # It may have come to the next commit before it was killed.
    assert resumed[0] in ("goes on after 100 batches", "goes on after 150 batches")
    assert resumed[-2:] == whole[-2:]
    assert run(tmp_path / "killed", tmp_path / name) == ["goes on after 157 batches", whole[-1]]
