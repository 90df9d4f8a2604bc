"""Plots that trainings log: each function takes arrays and gives a matplotlib figure, without a display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from recsys.evaluation.calibration import Reliability


def learning_curve(
    curves: Mapping[str, Sequence[float]], *, y_label: str, x_label: str = "epoch", title: str = "Learning curve"
) -> Figure:
    """One line per named curve over epochs or iterations (counted from 1)."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, values in curves.items():
        axes.plot(np.arange(1, len(values) + 1), values, marker="o" if len(values) < 40 else None, label=name)
    axes.set(xlabel=x_label, ylabel=y_label, title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def feature_importance(importance: Mapping[str, float], *, top: int = 30) -> Figure:
    """Horizontal bars of the `top` most important features, the greatest on top."""
    best = sorted(importance.items(), key=lambda pair: pair[1])[-top:]
    figure = Figure(figsize=(8, 0.5 + 0.26 * len(best)), layout="constrained")
    axes = figure.subplots()
    axes.barh([name for name, _ in best], [value for _, value in best])
    axes.set(xlabel="importance", title="Feature importance")
    axes.grid(axis="x", alpha=0.3)
    return figure


def popularity_curve(recommended: Mapping[str, NDArray[np.int32]], n_items: int) -> Figure:
    """Share of all recommendations that go to the most recommended x % of the catalogue, per source.

    `recommended`: source → item keys of its lists, any shape, -1 where padded. The diagonal is an even
    spread over all `n_items` items.
    """
    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.subplots()
    for name, keys in recommended.items():
        _, counts = np.unique(keys[keys >= 0], return_counts=True)
        if counts.size:
            shares = np.cumsum(np.sort(counts)[::-1]) / counts.sum()
            x = np.concatenate([[0.0], np.arange(1, len(shares) + 1) / n_items, [1.0]])
            axes.plot(100 * x, np.concatenate([[0.0], shares, [1.0]]), label=name)
    axes.plot([0, 100], [0, 1], color="grey", linestyle=":", label="even")
    axes.set(xlabel="most recommended items, % of the catalogue", ylabel="share of recommendations")
    axes.set_title("Concentration on popular items")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def coverage_curve(recommended: Mapping[str, NDArray[np.int32]], n_items: int) -> Figure:
    """Share of the catalogue that appears in at least one list, by list length; one line per source.

    `recommended`: source → item keys (n_owners, k), best first, -1 where padded.
    """
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name, keys in recommended.items():
        first_position = np.full(int(keys.max(initial=0)) + 1, keys.shape[1], dtype=np.int64)
        for position in range(keys.shape[1] - 1, -1, -1):
            column = keys[:, position]
            first_position[column[column >= 0]] = position
        new_at = np.bincount(first_position, minlength=keys.shape[1] + 1)[: keys.shape[1]]
        axes.plot(np.arange(1, keys.shape[1] + 1), 100 * np.cumsum(new_at) / n_items, label=name)
    axes.set(xlabel="list length", ylabel="% of the catalogue", title="Item coverage")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def comparison(
    values: Mapping[str, float],
    *,
    metric: str,
    intervals: Mapping[str, tuple[float, float]],
    level: float = 0.95,
    title: str = "",
) -> Figure:
    """Bars of one metric per source, with intervals (low, high) of a level where given."""
    figure = Figure(figsize=(7, 0.8 + 0.35 * len(values)), layout="constrained")
    axes = figure.subplots()
    names = list(values)[::-1]
    heights = np.array([values[name] for name in names])
    axes.barh(names, heights)
    known = [(place, name) for place, name in enumerate(names) if name in intervals]
    if known:
        bounds = np.abs(
            np.array([intervals[name] for _, name in known]) - heights[[place for place, _ in known]][:, None]
        )
        axes.errorbar(
            [values[name] for _, name in known],
            [place for place, _ in known],
            xerr=bounds.T,
            fmt="none",
            capsize=3,
            ecolor="black",
        )
    axes.set(xlabel=f"{metric}, {level:.0%} intervals" if known else metric, title=title or f"{metric} by source")
    axes.grid(axis="x", alpha=0.3)
    return figure


def differences(values: Mapping[str, tuple[float, float, float]], *, metric: str, reference: str) -> Figure:
    """A point for each source, its difference to `reference` with the interval: (difference, low, high)."""
    figure = Figure(figsize=(7, 0.8 + 0.35 * len(values)), layout="constrained")
    axes = figure.subplots()
    names = list(values)[::-1]
    middle, low, high = np.array([values[name] for name in names]).reshape(-1, 3).T
    axes.errorbar(middle, np.arange(len(names)), xerr=[middle - low, high - middle], fmt="o", capsize=3)
    axes.axvline(0, color="grey", linestyle=":")
    axes.set_yticks(np.arange(len(names)), names)
    axes.set(xlabel=f"difference in {metric} to {reference}", title=f"{metric}, paired by users")
    axes.grid(axis="x", alpha=0.3)
    return figure


def reliability_diagram(curves: Mapping[str, Mapping[str, Reliability]]) -> Figure:
    """What came true by what was predicted, on logarithmic axes; a panel per name of `curves`, a line per curve in it.

    On the diagonal, probabilities come true; below it they are too high. Bins in which nothing came true have no place
    on such an axis and are left out.
    """
    figure = Figure(figsize=(6 * max(len(curves), 1), 5), layout="constrained")
    panels = figure.subplots(1, max(len(curves), 1), squeeze=False)[0]
    for axes, (title, by_name) in zip(panels, curves.items(), strict=False):
        for name, bins in by_name.items():
            shown = (bins.observed > 0) & (bins.predicted > 0)
            axes.plot(bins.predicted[shown], bins.observed[shown], marker="o", markersize=3, label=name)
        low = min((float(bins.predicted[bins.predicted > 0].min(initial=1)) for bins in by_name.values()), default=1e-3)
        axes.plot([low, 1], [low, 1], color="grey", linestyle=":", label="comes true")
        axes.set(xscale="log", yscale="log", xlabel="predicted", ylabel="observed", title=f"Calibration: {title}")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    return figure
