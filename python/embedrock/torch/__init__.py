"""Tables as PyTorch modules, trained beside dense parameters and committed together with them.

>>> import torch, tempfile, embedrock
>>> from embedrock.torch import EmbeddingBag, TableOptimizer, commit, resume
>>> store = embedrock.Store(tempfile.mkdtemp(), memory_budget=64 << 20)
>>> schema = embedrock.TableSchema("user", 4, optimizer=embedrock.Optimizer.adagrad(0.1))
>>> model = torch.nn.Sequential(EmbeddingBag(store.create_table(schema), store=store), torch.nn.Linear(4, 1))
>>> dense, tables = torch.optim.Adagrad(model.parameters(), lr=0.1), TableOptimizer(model)
>>> resume(model, dense, tables) is None  # nothing was committed yet
True
>>> model(torch.tensor([[7, 42], [7, 43]])).sum().backward()
>>> dense.step(); tables.step()
>>> str(commit(model, dense, tables))  # rows, dense parameters, both optimizers and the random generator: from one point
'1.1'
"""

from .exchange import import_embedding
from .modules import Embedding, EmbeddingBag
from .training import Prefetched, Resumed, TableOptimizer, commit, commit_in_background, resume

__all__ = [
    "Embedding",
    "EmbeddingBag",
    "Prefetched",
    "Resumed",
    "TableOptimizer",
    "commit",
    "commit_in_background",
    "import_embedding",
    "resume",
]
