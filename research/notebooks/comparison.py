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
# # All models on one shop
#
# Every candidate generator alone, what they bring to the pool together, and the two stages: measured by the functions
# of `recsys evaluate` (protocol B4), with the settings of this installation. Online Retail where `RECSYS_DATA_DIR`
# holds it (half an hour), else a generated shop; `make notebooks QUICK=--quick` takes the generated one, one cut, a
# small ranker and no networks.

# %%
# %matplotlib inline
import os
import warnings
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import display

from recsys import settings
from recsys.candidates import registry
from recsys.candidates.registry import NETWORKS
from recsys.evaluation import calibration, plots, report, report_tables
from recsys.evaluation.metrics import overlap
from recsys.evaluation.summary import summary
from recsys.ranking.ranker import RankerParams
from recsys.steps.benchmarks.next_item import QUICK_RANKER
from recsys.steps.evaluate import TWO_STAGE, Plan, measure
from recsys.types import Task
from research.notebooks.data import shop

# %% tags=["parameters"]
QUICK = bool(os.environ.get("NOTEBOOK_QUICK"))
CUTS = 1 if QUICK else 4

# %%
warnings.filterwarnings("ignore", message="IProgress not found")  # bars of implicit, which are off
data, loaded = shop(QUICK), settings.load()
skipped = NETWORKS if QUICK else ()
plan = Plan(
    generators=[name for name in loaded.generators if name not in skipped],
    generator_params=loaded.generator_params,
    ranker=RankerParams(**({"seed": loaded.seed} | loaded.ranker_params | (QUICK_RANKER if QUICK else {}))),
    cuts=CUTS,
    days=loaded.label_window_days,
    training_windows=2 if QUICK else loaded.n_label_windows,
    tasks=(Task.DISCOVERY,),
    seed=loaded.seed,
)
print(f"{data.meta.source}: {data.meta.n_rows}; the pool: {', '.join(plan.generators)}")

# %% [markdown]
# ## Measuring
#
# The two stages with the generators that feed them, then the generators that do not, for their own rows alone: they
# are in no pool, and their ranker is thrown away.

# %%
outcome = measure(data, plan)
outside = [name for name in registry.NAMES if name not in (*plan.generators, *skipped, "recent")]
small = replace(plan.ranker, **QUICK_RANKER)
others = measure(data, replace(plan, generators=outside, ranker=small, training_windows=1))
measured = outcome.measured + [one for one in others.measured if one.source != TWO_STAGE]
rows = report.rows_of(measured, seed=plan.seed)
means = [row for row in rows if row["cut"] == report.MEAN and row["segment"] == report.ALL]
for line in summary(rows, calibration.rows_of(outcome.predicted)):
    print("-", line)

# %% [markdown]
# ## Accuracy
#
# NDCG@10 of new items, mean of the cuts, with 95 % intervals by users drawn whole; then each system's difference to
# the best single stage, paired by users. Overlapping bars may still differ surely: the second figure says it.

# %%
for figure in report_tables.figures(means).values():
    display(figure)

# %% [markdown]
# ## Accuracy and coverage
#
# Whoever proposes the same few items to everybody can be accurate and yet sell nothing of the long tail. To the upper
# right is better; popularity stands at the left edge.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.2), layout="constrained")
for axis, measure_name, label in (
    (left, "item_coverage", "share of the catalogue in anybody's first ten"),
    (right, "novelty@5", "novelty of the first five, bits"),
):
    for row in means:
        axis.scatter(
            row[measure_name], row[report.HEADLINE], color="tab:red" if row["system"] == TWO_STAGE else "tab:blue"
        )
        axis.annotate(
            row["system"], (row[measure_name], row[report.HEADLINE]), xytext=(4, 3), textcoords="offset points"
        )
    axis.set(xlabel=label, ylabel="NDCG@10")
    axis.grid(alpha=0.3)
plt.show()
newest = [one for one in measured if one.ground.cut_at == measured[0].ground.cut_at]
display(plots.popularity_curve({one.source: one.lists for one in newest}, newest[0].ground.n_items))

# %% [markdown]
# ## What each generator brings to the pool
#
# Recall of the pool is the ceiling of the ranker. `unique` is the share of the pool's hits that no other generator
# found: near 0, a generator may go without loss. Newest cut.

# %%
pool = pd.DataFrame(outcome.rankers[-1]["pool"]).set_index("generator")
figure, (left, right) = plt.subplots(1, 2, figsize=(12, 3.8), layout="constrained")
pool.filter(like="recall@").T.plot(ax=left, marker="o", ylabel="recall", xlabel="candidates of each generator")
pool["unique"].dropna().plot.barh(ax=right, xlabel="share of the pool's hits that it alone finds", ylabel="")
plt.show()
pool.round(4)

# %% [markdown]
# ## Who proposes the same
#
# The share of the first ten that two systems have in common, newest cut. Two rows that are alike are one opinion: the
# second of them costs time and brings little.

# %%
newest = [one for one in measured if one.ground.cut_at == max(each.ground.cut_at for each in measured)]
names = [one.source for one in newest]
common = np.array([[overlap(one.lists, other.lists) for other in newest] for one in newest])
figure, axis = plt.subplots(figsize=(7, 6), layout="constrained")
image = axis.imshow(common, vmin=0, vmax=1, cmap="Blues")
axis.set_xticks(range(len(names)), names, rotation=60, ha="right")
axis.set_yticks(range(len(names)), names)
for (row, column), value in np.ndenumerate(common):
    axis.text(column, row, f"{value:.2f}", ha="center", va="center", color="white" if value > 0.6 else "black")
figure.colorbar(image, label="share of the first ten in common")
plt.show()

# %% [markdown]
# ## Who is served well
#
# Light users have at most 20 distinct items before the cut. A system that wins on average and loses on light users
# should not serve them alone.

# %%
by_segment = pd.DataFrame([row for row in rows if row["cut"] == report.MEAN and row["segment"] != report.ALL])
table = by_segment.pivot_table(index="system", columns="segment", values=report.HEADLINE, sort=False)
table.plot.barh(figsize=(8, 4), xlabel="NDCG@10", ylabel="").invert_yaxis()
plt.show()
table.round(4)

# %% [markdown]
# ## What it costs
#
# Seconds to fit and to write the lists at one cut; the two stages include all their generators, features and the
# ranker.

# %%
seconds = pd.Series({row["system"]: row["seconds"] for row in means}).clip(lower=0.01)
figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
axis.scatter(seconds, [row[report.HEADLINE] for row in means])
for row in means:
    axis.annotate(
        row["system"], (seconds[row["system"]], row[report.HEADLINE]), xytext=(4, 3), textcoords="offset points"
    )
axis.set(xscale="log", xlabel="seconds at one cut", ylabel="NDCG@10")
axis.grid(alpha=0.3)
plt.show()
pd.DataFrame(means).set_index("system")[["ndcg@10", "recall@10", "item_coverage", "gini", "seconds"]].round(4)
