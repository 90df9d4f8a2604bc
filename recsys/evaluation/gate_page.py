"""The gate's decision on one page: the verdict first, then what it is based on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from recsys.evaluation.comparison import LEVEL, Comparison, percent
from recsys.evaluation.gate import ALL, POPULARITY, GateDecision, ListFacts, Outcome

_WORDS = {Outcome.UNJUDGED: "not judged, too few users"}


@dataclass(frozen=True)
class Setting:
    """In which comparison a decision was made, in words."""

    challenger: str
    window: str
    users: str


def page(
    decision: GateDecision,
    setting: Setting,
    popularity: Mapping[str, float],
    facts: ListFacts,
    overlap: float | None = None,
) -> str:
    """Markdown. `popularity`: its mean by segment; `overlap`: of the judged lists and those that would serve."""
    bounds = decision.bounds
    rows = [_row(decision, name, found, popularity) for name, found in decision.compared.items()]
    parts = [
        f"# {decision.verdict}",
        _table(
            ("", ""),
            [
                ("new ranker", setting.challenger),
                ("compared with", decision.against),
                ("label window", setting.window),
                ("users", setting.users),
                ("bound", f"{bounds.max_relative_loss:.0%} less NDCG@10 is too much, at {LEVEL:.0%}, two-sided"),
            ],
        ),
        *([_needed(decision)] if decision.outcome in (Outcome.CANNOT_TELL, Outcome.NOT_LOWER) else []),
        "## NDCG@10 by segment",
        _table(("segment", "users", "new", "champion", "popularity", "difference", "interval", "shows"), rows),
        "## Lists",
        _facts(facts, overlap),
        *(["## Also", "\n".join(f"- {note}" for note in decision.notes)] if decision.notes else []),
    ]
    return "\n\n".join(parts) + "\n"


def _row(decision: GateDecision, name: str, found: Comparison, popularity: Mapping[str, float]) -> Sequence[str]:
    shown = decision.of(name)
    return (
        name,
        str(found.n_users),
        f"{found.challenger:.4f}",
        "" if decision.against == POPULARITY else f"{found.reference:.4f}",
        f"{popularity[name]:.4f}" if name in popularity else "",
        percent(found.difference),
        f"{percent(found.low)} to {percent(found.high)}",
        _WORDS.get(shown, str(shown)),
    )


def _needed(decision: GateDecision) -> str:
    found, bounds = decision.compared[ALL], decision.bounds
    needed = max(found.n_needed(bounds.max_relative_loss), bounds.min_users)
    return (
        f"About {needed} users with labels would tell; there are {found.n_users}. Longer label windows "
        "(RECSYS_LABEL_WINDOW_DAYS) have more, a wider bound (RECSYS_GATE_MAX_RELATIVE_LOSS) needs fewer."
    )


def _facts(facts: ListFacts, overlap: float | None) -> str:
    rows = [
        ("lists", str(facts.n_lists)),
        ("empty", str(facts.n_empty)),
        ("with a score that is not a number", str(facts.n_not_finite)),
        ("places with an item that is not available", str(facts.n_unavailable)),
        ("share of the catalogue in the first 10 places", f"{facts.item_coverage:.1%}"),
        ("share of the places that 1 % of the items take", f"{facts.top_item_share:.1%}"),
    ]
    if overlap is not None:
        rows.append(("first 10 places that the ranker as it would serve has, too", f"{overlap:.0%}"))
    return _table(("", ""), rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
