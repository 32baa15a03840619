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
# # Reading a study
#
# `lcia study configs/studies/orders.yaml` trains three tasks in all six orders under two lower bounds of beta, 40 steps
# per task. It leaves `runs/orders/summary.json`, of which `docs/results/orders-study.json` is a shortened copy. Any
# finished study's `summary.json` can be read in its place.

# %%
import json
from pathlib import Path

# %matplotlib inline
import matplotlib.pyplot as plt

import lcia
from lcia.metrics.matrix import AccuracyMatrix, from_json, metrics
from lcia.report import study_tables
from lcia.report.wording import clock, corrected, difference, number, with_spread

SUMMARY = Path(lcia.__file__).parents[1] / "docs/results/orders-study.json"
summary = json.loads(SUMMARY.read_text(encoding="utf-8"))
tables = study_tables.from_record(summary)
matrices = {name: from_json(run["matrix"]) for name, run in summary["runs"].items()}
plt.rcParams.update({"figure.dpi": 70, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False})

print(f"{len(matrices)} runs in {clock(summary['wall_seconds'])};", end=" ")
print(", ".join(f"{count} trainings {what}" for what, count in summary["stages"].items()))
print(*summary["warnings"], sep="\n")

# %% [markdown]
# Runs that begin with the same tasks share those trainings. The warnings come first for a reason: 40 steps are few, and
# what was not learnt cannot be forgotten.

# %% [markdown]
# ## Methods
#
# Mean and standard deviation over the orders, in percent.

# %%
METRICS = ("avg_acc", "new_acc", "forgetting")


def of(label: str) -> list[AccuracyMatrix]:
    """The matrices of a label's runs."""
    return [matrices[name] for name, mine in tables.labels.items() if mine == label]


def values(label: str, metric: str) -> list[float]:
    return [metrics(matrix)[metric].value for matrix in of(label)]


print(f"{'':26}", *(f"{metric:>14}" for metric in METRICS))
for label, row in tables.methods.items():
    print(f"{label:26}", *(f"{with_spread(row[metric]):>14}" for metric in METRICS))
    # The tables follow from the matrices.
    assert all(abs(row[metric].mean - sum(values(label, metric)) / len(of(label))) < 1e-9 for metric in METRICS)

# %% [markdown]
# ## Differences
#
# Each run minus the reference's run in the same order: mean, 95 % interval of the bootstrap, p of the paired t test
# after Holm's correction, and Cohen's d. A star: below 0.05 with six pairs or more.

# %%
print(f"minus {tables.reference}")
for metric, compared in tables.comparisons.items():
    for label, each in compared.items():
        effect = f"p {corrected(each):9} d {number(each.d, 2):>6}, {each.n} pairs"
        print(f"{metric:11} {label:26} {difference(each):22} {effect}")
print(study_tables.reach(next(iter(tables.comparisons.values()))))

# %% [markdown]
# ## The order as a random factor
#
# `between` is the standard deviation of the orders' means of avg_acc, `within` that of seeds in one order. One seed
# each leaves `within` unknown, so an effect of the order cannot be told from one of the seeds here.

# %%
for label, effect in tables.effects.items():
    print(f"{label}: {effect.orders} orders, mean {effect.mean:.1f}, between {effect.between:.1f}, ", end="")
    print(f"within {number(effect.within)}; worst: {effect.worst} ({effect.worst_mean:.1f})")

# %% [markdown]
# ## What is learnt against what is forgotten
#
# A small point for each run, a large one for each mean. Best is up and to the left.

# %%
figure, axes = plt.subplots(figsize=(6.4, 4), layout="constrained")
for place, label in enumerate(tables.methods):
    points = values(label, "forgetting"), values(label, "new_acc")
    axes.plot(*points, "o", color=f"C{place}", markersize=4, alpha=0.5)
    axes.plot(*(sum(column) / len(column) for column in points), "o", color=f"C{place}", markersize=10, label=label)
axes.set(xlabel="forgetting in percent", ylabel="new_acc in percent")
axes.legend()
plt.show()

# %% [markdown]
# ## The response to the bound
#
# One line for each order, from one setting to the next. In this study the higher bound lowers `new_acc` and
# `forgetting` in every order. In `avg_acc` the two nearly cancel, and the order matters more.

# %%
orders = list(dict.fromkeys(matrix.tasks for matrix in matrices.values()))
settings = [label.rpartition(", ")[2] for label in tables.methods]


def response(metric: str, order: tuple[str, ...]) -> list[float]:
    """The metric in one order under each setting."""
    return [metrics(m)[metric].value for label in tables.methods for m in of(label) if m.tasks == order]


print(f"{' to '.join(settings):36}", *(f"{metric:>16}" for metric in METRICS))
for order in orders:
    columns = (" to ".join(f"{value:.1f}" for value in response(metric, order)) for metric in METRICS)
    print(f"{' > '.join(order):36}", *(f"{column:>16}" for column in columns))

# %%
figure, panels = plt.subplots(1, len(METRICS), figsize=(11, 3.6), layout="constrained")
for panel, metric in zip(panels, METRICS, strict=True):
    for order in orders:
        panel.plot(settings, response(metric, order), "o-", label=" > ".join(order), linewidth=1, markersize=4)
    panel.set(title=f"{metric} in percent", xlim=(-0.3, len(settings) - 0.7))
figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
plt.show()
