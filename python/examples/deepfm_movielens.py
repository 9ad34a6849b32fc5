"""DeepFM on MovieLens ratings, through a store; kill it whenever you like: the same command goes on from the last commit.

    python deepfm_movielens.py --store /tmp/ratings --data ml-latest-small/ratings.csv

The data is MovieLens' ratings.csv or u.data. Without --data it trains on generated ratings (synthetic: users and films with hidden tastes). --crash-after N kills it after N batches.
"""

import argparse
import os
import signal

import numpy as np
import torch
from torch import nn

import embedrock
from embedrock.torch import Embedding, TableOptimizer, commit, resume

DIM, BATCH = 16, 512


def ratings(path):
    """User, film, and whether the rating was 4 or better, in the order of time."""
    if path is None:
        draw = np.random.default_rng(0)
        users, films = draw.integers(0, 2_000, 200_000), draw.zipf(1.2, 200_000) % 5_000
        tastes = draw.normal(size=(2_000, 4)), draw.normal(size=(5_000, 4))
        liked = (tastes[0][users] * tastes[1][films]).sum(1) + draw.normal(size=200_000) > 0
        return users, films, liked.astype(np.float32)
    csv = path.endswith(".csv")
    rows = np.loadtxt(path, delimiter="," if csv else None, skiprows=1 if csv else 0)
    rows = rows[np.argsort(rows[:, 3], kind="stable")]
    return rows[:, 0].astype(np.int64), rows[:, 1].astype(np.int64), (rows[:, 2] >= 4).astype(np.float32)


class DeepFM(nn.Module):
    def __init__(self, store):
        super().__init__()
        first = embedrock.Initializer.uniform(0.05)
        schemas = [
            embedrock.TableSchema(name, 1 + DIM, optimizer=embedrock.Optimizer.adagrad(0.05), initializer=first)
            for name in ("user", "film")
        ]
        self.rows = Embedding({schema.name: store.create_table(schema) for schema in schemas}, store=store)
        self.deep = nn.Sequential(nn.Linear(2 * DIM, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, users, films):
        rows = torch.stack(list(self.rows({"user": users, "film": films}).values()), 1)
        weights, vectors = rows[..., 0], rows[..., 1:]
        pairs = (vectors.sum(1) ** 2 - (vectors**2).sum(1)).sum(1) / 2
        return weights.sum(1) + pairs + self.deep(vectors.flatten(1)).squeeze(1)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--store", required=True)
    arguments.add_argument("--data")
    arguments.add_argument("--crash-after", type=int)
    given = arguments.parse_args()
    users, films, liked = (torch.from_numpy(column) for column in ratings(given.data))
    torch.manual_seed(0)
    store = embedrock.Store(given.store, memory_budget=256 << 20)
    model = DeepFM(store)
    optimizers = [TableOptimizer(model), torch.optim.Adagrad(model.deep.parameters(), lr=0.05)]
    resumed = resume(model, *optimizers)
    done, losses = (0, []) if resumed is None else (resumed.extra["batches"], resumed.extra["losses"])
    print("begins" if resumed is None else f"goes on from commit {resumed.commit}, after {done} batches")
    for batch in range(done, len(users) // BATCH):
        part = slice(batch * BATCH, (batch + 1) * BATCH)
        for optimizer in optimizers:
            optimizer.zero_grad()
        # Each batch is predicted before it is learned from.
        loss = nn.functional.binary_cross_entropy_with_logits(model(users[part], films[part]), liked[part])
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        losses.append(loss.item())
        if batch % 50 == 49:
            commit(model, *optimizers, extra={"batches": batch + 1, "losses": losses})
            print(f"batch {batch + 1}: log loss {np.mean(losses[-50:]):.4f} over the last 50", flush=True)
        if given.crash_after == batch + 1:
            os.kill(os.getpid(), signal.SIGKILL)
    commit(model, *optimizers, extra={"batches": len(users) // BATCH, "losses": losses})
    print(f"{len(losses)} batches, mean log loss {np.mean(losses):.6f}, digest {store.digest()}")


if __name__ == "__main__":
    main()
