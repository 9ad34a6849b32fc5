"""A table over several processes, each with its part in a store of its own; rows and dense weights are committed together.

    until torchrun --standalone --nproc-per-node 2 examples/sharded.py --root /tmp/job; do sleep 1; done

Kill a rank with kill -9: all are started again, and go on from the job's last commit. The data are generated. With --kill-at STEP
--kill-rank RANK a rank kills itself there. (torchrun's own --max-restarts keeps the addresses of ranks that died, with PyTorch 2.15 and
gloo, and the new ones may try these: so torchrun is started anew.)
"""

import argparse
import os
import signal

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

import embedrock
from embedrock.torch import TableOptimizer
from embedrock.torch.sharded import Job, ShardedEmbedding

KEYS, DIM, BATCH, COMMIT_EVERY = 20_000, 16, 256, 5


class Model(nn.Module):
    def __init__(self, rows):
        super().__init__()
        self.rows = rows
        torch.manual_seed(0)
        self.deep = nn.Sequential(nn.Linear(4 * DIM, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, keys):
        return self.deep(self.rows(keys).flatten(1)).squeeze(1)


def average_gradients(dense):
    """In one piece, in the order of the parameters. DistributedDataParallel reorders its buckets after a process's first batch, so that
    more than two ranks would add in another order after a restart, and the last bits would differ."""
    grads = [parameter.grad for parameter in dense.parameters()]
    flat = torch.cat([grad.flatten() for grad in grads])
    dist.all_reduce(flat)
    for grad, part in zip(grads, (flat / dist.get_world_size()).split([grad.numel() for grad in grads])):
        grad.copy_(part.view_as(grad))


def batch(step, rank):
    draw = np.random.default_rng([step, rank])
    keys = draw.zipf(1.2, (BATCH, 4)) % KEYS
    return torch.from_numpy(keys), torch.from_numpy((keys.sum(1) % 3 == 0).astype(np.float32))


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--root", required=True)
    arguments.add_argument("--steps", type=int, default=20)
    arguments.add_argument("--kill-at", type=int)
    arguments.add_argument("--kill-rank", type=int, default=0)
    arguments.add_argument("--kill-in-commit", action="store_true", help="between the ranks' commits and the job's record")
    given = arguments.parse_args()
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    with Job(given.root, memory_budget=128 << 20, seed=7) as job:
        schema = embedrock.TableSchema("rows", DIM, optimizer=embedrock.Optimizer.adagrad(0.05), initializer=embedrock.Initializer.uniform(0.05))
        model = Model(ShardedEmbedding(job.store.create_table(schema), store=job.store))
        optimizers = [TableOptimizer(model), torch.optim.Adagrad(model.deep.parameters(), lr=0.05)]
        resumed = job.resume(model, *optimizers)
        first = 0 if resumed is None else resumed.extra["steps"]
        print(f"rank {rank} begins at step {first}", flush=True)
        for step in range(first, given.steps):
            dies = step == given.kill_at and rank == given.kill_rank
            if dies and not given.kill_in_commit:
                os.kill(os.getpid(), signal.SIGKILL)
            keys, labels = batch(step, rank)
            for optimizer in optimizers:
                optimizer.zero_grad()
            nn.functional.binary_cross_entropy_with_logits(model(keys), labels).backward()
            average_gradients(model.deep)
            for optimizer in optimizers:
                optimizer.step()
            if dies:
                job.store.commit(b"prepared, and never the job's")
                os.kill(os.getpid(), signal.SIGKILL)
            if step % COMMIT_EVERY == COMMIT_EVERY - 1:
                job.commit(model, *optimizers, extra={"steps": step + 1})
        digest, dense = job.digest(), sum(float(weight.detach().double().sum()) for weight in model.deep.parameters())
        if rank == 0:
            print(f"digest {digest} dense {dense!r} at commit {job.last.number}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
