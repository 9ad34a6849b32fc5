"""DeepFM on MovieLens through a store, committed every 50 batches.

    timeout --signal KILL 20 python deepfm_movielens.py /tmp/ratings ml-latest-small/ratings.csv
    python deepfm_movielens.py /tmp/ratings ml-latest-small/ratings.csv

Kill it whenever you like: the same command goes on from the last commit, and ends as if it had never been killed. The second argument is
MovieLens' ratings.csv or u.data.
"""

import sys

import numpy as np
import torch
from torch import nn

from embedrock import Initializer, Optimizer, Store, TableSchema
from embedrock.torch import Embedding, TableOptimizer, commit, resume

DIM, BATCH = 16, 512


class DeepFM(nn.Module):
    def __init__(self, store):
        super().__init__()
        learned = {"optimizer": Optimizer.adagrad(0.05), "initializer": Initializer.uniform(0.05)}
        tables = {name: store.create_table(TableSchema(name, 1 + DIM, **learned)) for name in ("user", "film")}
        self.rows = Embedding(tables, store=store)
        self.deep = nn.Sequential(nn.Linear(2 * DIM, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, users, films):
        rows = torch.stack(list(self.rows({"user": users, "film": films}).values()), 1)
        weights, vectors = rows[..., 0], rows[..., 1:]
        pairs = (vectors.sum(1) ** 2 - (vectors**2).sum(1)).sum(1) / 2
        return weights.sum(1) + pairs + self.deep(vectors.flatten(1)).squeeze(1)


path, data = sys.argv[1:]
csv = data.endswith(".csv")
rows = np.loadtxt(data, delimiter="," if csv else None, skiprows=int(csv), usecols=range(4))
ratings = torch.from_numpy(rows[np.argsort(rows[:, 3], kind="stable")])  # user, film, stars, and time, which orders them
torch.manual_seed(0)
with Store(path, memory_budget=256 << 20) as store:
    model = DeepFM(store)
    optimizers = TableOptimizer(model), torch.optim.Adagrad(model.deep.parameters(), lr=0.05)
    resumed = resume(model, *optimizers)
    losses = resumed.extra if resumed else []
    print(f"goes on after {len(losses)} batches" if resumed else "begins", flush=True)
    for first in range(len(losses) * BATCH, len(ratings), BATCH):
        users, films, stars, _ = ratings[first : first + BATCH].T
        # Each batch is predicted before it is learned from.
        loss = nn.functional.binary_cross_entropy_with_logits(model(users.long(), films.long()), (stars >= 4).float())
        model.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        losses.append(loss.item())
        if len(losses) % 50 == 0 or first + BATCH >= len(ratings):
            commit(model, *optimizers, extra=losses)
            print(f"after {len(losses)} batches: mean log loss {np.mean(losses):.6f}", flush=True)
    print(f"digest {store.digest()}")
