# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Two tasks in this process
#
# The same stages as `lcia run`, without Ray: data, groups, tuning, answers, matrix. The stream is short, so that
# the notebook ends within a minute; its figures show how to read the results, not how good a method is.

# %%
import os
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
warnings.filterwarnings("ignore")

from transformers.utils import logging

from lcia.config.load import parse
from lcia.config.run import RunConfig
from lcia.local import LocalExecutor
from lcia.metrics.matrix import metrics
from lcia.run import complete, prepare
from lcia.store.folders import Store

logging.disable_progress_bar()
folder = TemporaryDirectory()
executor = LocalExecutor(Store(str(Path(folder.name) / "store")))

# %% [markdown]
# ## Two configurations
#
# They differ by the strategy alone. Every key that is not given here has its default.

# %%
stream = {
    "benchmark": {"kind": "minicoin", "tasks": ["VQAv2", "OCR-VQA"], "train_size": 200, "test_size": 40},
    "training": {"max_steps": 40},
}
sequential = parse(RunConfig, {"name": "sequential", "strategy": {"kind": "sequential"}, **stream}, "sequential")
kronecker = parse(RunConfig, {"name": "kronecker", "strategy": {"kind": "kronecker"}, **stream}, "kronecker")

# %% [markdown]
# ## Groups
#
# `prepare` writes the data to the store, collects the instructions and makes the plan. Both tasks ask with the same
# line, so the second joins the group of the first and continues its adapter.

# %%
prepared = prepare([sequential, kronecker], executor)
for placement in prepared[0].plan.placements:
    decision = "opens" if placement.is_new else "joins"
    print(f"{placement.task} {decision} g{placement.group}; similarity to the groups before: {placement.similarities}")
for row, route in prepared[0].plan.routes:
    print(f"after task {row + 1}, {route.task!r} is answered by g{route.group}: {route.instruction!r}")

# %% [markdown]
# ## Tuning and answers
#
# `complete` trains what the store does not hold, lets the adapters answer the tests and fills the matrices.

# %%
outcomes = complete(prepared, executor)

# %% [markdown]
# ## Matrix
#
# Row j, column i: accuracy in percent on task i after training task j. Tasks that are still to come are not asked.

# %%
for outcome in outcomes:
    print(f"{outcome.config.name:14}", *(f"{task:>10}" for task in outcome.matrix.tasks))
    for label, scores in outcome.matrix.rows():
        print(f"  {label:12}", *(f"{score:10.1f}" if score == score else f"{'':10}" for score in scores))

# %% [markdown]
# ## Metrics
#
# A positive forgetting is bad. What a run leaves undefined says why.

# %%
for outcome in outcomes:
    print(outcome.config.name)
    for name, metric in metrics(outcome.matrix).items():
        print(f"  {name:16}", f"{metric.value:6.1f}" if metric.value is not None else f"undefined: {metric.reason}")

# %% [markdown]
# ## The same again trains nothing
#
# Stages are found by content: a second pass only reads.

# %%
again = complete(prepare([sequential, kronecker], executor), executor)
assert [o.matrix.scores.tolist()[-1] for o in again] == [o.matrix.scores.tolist()[-1] for o in outcomes]
folder.cleanup()
