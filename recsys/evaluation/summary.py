"""An evaluation in plain words: which system is best and by how much, where the two stages lose, what bounds them."""

from __future__ import annotations

from collections.abc import Sequence

from recsys.evaluation.report import ALL, AS_LEARNED, HEADLINE, MEAN, TWO_STAGE, Row

_NAME = "NDCG@10"


def summary(rows: Sequence[Row], calibration: Sequence[Row] = ()) -> list[str]:
    """Sentences for each task. `rows` as `report.rows_of` gives them, `calibration` as `calibration.rows_of`."""
    lines = []
    for task in dict.fromkeys(row["task"] for row in rows):
        means = [row for row in rows if row["cut"] == MEAN and row["task"] == task]
        ranked = {row["segment"]: row for row in means if row["system"] == TWO_STAGE}
        lines.append(f"{task}: {_best([row for row in means if row['segment'] == ALL])}")
        if ranked and all(row.get("best_stage") for row in ranked.values()):
            lines.append(f"{task}: {_segments(ranked)}")
        if ALL in ranked and ranked[ALL].get("pool_recall") is not None:
            lines.append(f"{task}: {_ceiling(ranked[ALL])}")
        lines += [
            f"{task}: {_probabilities(row)}"
            for row in calibration
            if (row["task"], row["segment"]) == (task, ALL) and row["system"] != AS_LEARNED
        ]
    return lines


def _best(means: Sequence[Row]) -> str:
    """Over all users."""
    best = max(means, key=lambda row: row[HEADLINE])
    low, high = best[f"{HEADLINE}_low"], best[f"{HEADLINE}_high"]
    text = f"{best['system']} is best, {_NAME} {best[HEADLINE]:.4f} (95 % interval {low:.4f} to {high:.4f})"
    single = best.get("best_stage")
    if single is None:
        return f"{text}."
    if best["system"] != single:
        share = best["difference"] / max(best[HEADLINE] - best["difference"], 1e-12)
        more = f"{_difference(best)}, {share:+.0%}" if share < 10 else _difference(best)
        return f"{text}, above {single}, the best single stage, by {more}: {_verdict(best)}."
    ranked = next((row for row in means if row["system"] == TWO_STAGE), None)
    return (
        f"{text}." if ranked is None else f"{text}; {TWO_STAGE} differs by {_difference(ranked)}: {_verdict(ranked)}."
    )


def _segments(ranked: dict[str, Row]) -> str:
    parts = {name: row for name, row in ranked.items() if name != ALL} or ranked
    losing = [
        f"{name} (to {row['best_stage']} by {_difference(row)}: {_verdict(row)})"
        for name, row in parts.items()
        if row["difference"] < 0
    ]
    if not losing:
        return f"{TWO_STAGE} loses to its best stage in no segment of {', '.join(parts)}."
    return f"{TWO_STAGE} loses to its best stage in: {'; '.join(losing)}."


def _ceiling(row: Row) -> str:
    text = f"its candidates hold {row['pool_recall']:.0%} of what a user goes for; no order of them can find more."
    if row.get("missed") is None:
        return text
    missed = [f"{row['missed']:.0%} of all labels"]
    missed += [
        f"{row[f'missed_{name}_items']:.0%} of those on {name} items"
        for name in ("new", "tail")
        if row.get(f"missed_{name}_items") is not None
    ]
    unknown = f"{row['unknown_items']:.0%} are on items that nobody knew before"
    return f"{text} Missed are {', '.join(missed)}; {unknown}."


def _probabilities(row: Row) -> str:
    return (
        f"{row['system']} says {row['predicted']:.2%} on average where {row['observed']:.2%} came true; expected"
        f" calibration error {row['ece']:.2%}."
    )


def _difference(row: Row) -> str:
    return f"{row['difference']:+.4f} ({row['difference_low']:+.4f} to {row['difference_high']:+.4f})"


def _verdict(row: Row) -> str:
    """Whether the interval says which one is better."""
    return "shown" if row["difference_low"] > 0 or row["difference_high"] < 0 else "not shown by these users"
