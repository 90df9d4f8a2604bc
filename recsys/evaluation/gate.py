"""May a new model replace the one that serves? A pure decision over figures that were measured before.

A segment is refused when the challenger's mean is worse than the reference's by more than the bound *and* the
paired bootstrap says that the loss is no accident of the few held-out users. Without a champion the reference is
popularity. Broken lists are refused whatever their accuracy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from recsys.evaluation import segments
from recsys.evaluation.bootstrap import interval
from recsys.evaluation.metrics import Labels, Values, accuracy, item_coverage, top_item_share
from recsys.types import Candidates, Catalogue, Interactions, Keys

METRIC = "ndcg@10"


@dataclass(frozen=True)
class Bounds:
    """How bad is too bad. Shares are in [0, 1]."""

    max_relative_loss: float = 0.05  # per segment, against the reference
    min_users: int = 50  # smaller segments are reported, not judged
    min_item_coverage: float = 0.01  # of the catalogue's available items, in the first 10 places of all lists
    max_top_item_share: float = 0.95  # of all first 10 places, by the most recommended 1 % of the items


@dataclass(frozen=True)
class ListFacts:
    """What is true of a set of lists whatever the labels are."""

    n_lists: int
    n_empty: int
    n_not_finite: int  # lists with a NaN or infinite score beside an item
    n_unavailable: int  # places that hold an item which the catalogue does not offer
    item_coverage: float
    top_item_share: float
    n_places: int  # min(10, length of the lists) · n_lists: how many items could be covered at all
    n_items: int  # available items


@dataclass(frozen=True)
class GateDecision:
    """`reasons` says, for a refusal, everything that speaks against the model; empty when accepted.

    `judged` and `not_judged`: segment → users; a segment with too few users is in the second and decides nothing.
    """

    accepted: bool
    reasons: tuple[str, ...]
    compared_with: str  # "champion" or "popularity"
    means: dict[str, dict[str, float]] = field(default_factory=dict)  # segment → users, challenger, reference
    bounds: Bounds = Bounds()
    judged: dict[str, int] = field(default_factory=dict)
    not_judged: dict[str, int] = field(default_factory=dict)

    @property
    def reason(self) -> str:
        """One line for people: what was compared, over how many users, and what was not."""
        parts = list(self.reasons)
        if self.judged and not parts:
            loss = f"no loss of more than {self.bounds.max_relative_loss:.0%} against {self.compared_with} was shown"
            parts.append(f"{loss} over {_counted(self.judged)}")
        elif self.not_judged and not parts:
            n = self.not_judged.get("all", max(self.not_judged.values()))
            parts.append(
                f"judged on {n} users: too few (fewer than {self.bounds.min_users}), accepted without judgement"
            )
        if self.not_judged and (self.judged or self.reasons):
            parts.append(f"not judged, fewer than {self.bounds.min_users} users: {_counted(self.not_judged)}")
        return "; ".join([*parts, *([] if self.reasons else ["lists are sound"])])


def segment_values(
    lists: Keys, labels: Labels, history: Interactions, catalogue: Catalogue, metric: str = METRIC
) -> dict[str, Values]:
    """The metric per user, for all and for each segment of users and of items: name → (users with labels there,).

    `lists` (n_users, k) has the rows of `labels`. A segment of items counts only labels on such items. Segments
    come in the same order with the same users whatever the lists are, so two models can be paired.
    """
    values = accuracy(lists, labels)[metric]
    result = {"all": values}
    result |= {name: values[mask] for name, mask in segments.users(history, labels.user_key).items()}
    for name, keys in segments.items(history, catalogue).items():
        part = labels.of_items(keys)
        rows = np.isin(labels.user_key, part.user_key)
        result[name] = accuracy(lists[rows], part)[metric]
    return result


def list_facts(lists: Candidates, catalogue: Catalogue) -> ListFacts:
    """Count what must never happen in `lists`, and how much of the available catalogue they use."""
    filled = lists.item_key >= 0
    offered = catalogue.item_key[catalogue.available]
    on_offer = np.isin(lists.item_key, offered)
    n_owners, k = lists.item_key.shape
    return ListFacts(
        n_lists=n_owners,
        n_empty=int((~filled.any(axis=1)).sum()),
        n_not_finite=int((filled & ~np.isfinite(lists.score)).any(axis=1).sum()),
        n_unavailable=int((filled & ~on_offer).sum()),
        item_coverage=item_coverage(np.where(on_offer, lists.item_key, -1), len(offered)),
        top_item_share=top_item_share(lists.item_key, len(offered)),
        n_places=min(10, k) * n_owners,
        n_items=len(offered),
    )


def decide(
    challenger: Mapping[str, Values],
    champion: Mapping[str, Values] | None,
    popularity: Mapping[str, Values],
    facts: ListFacts,
    bounds: Bounds,
    *,
    seed: int = 0,
) -> GateDecision:
    """Compare per-user metrics of the same held-out users (`segment_values`) and check the lists.

    Raises KeyError when a segment of the challenger is missing in the reference.
    """
    reference = popularity if champion is None else champion
    compared_with = "popularity" if champion is None else "champion"
    reasons = _list_reasons(facts, bounds)
    means: dict[str, dict[str, float]] = {}
    judged: dict[str, int] = {}
    not_judged: dict[str, int] = {}
    for name, values in challenger.items():
        other = reference[name]
        if not np.isfinite(values).all():
            reasons.append(f"{METRIC} of {name} is not a number")
            continue
        if not len(values):
            continue
        means[name] = {"users": len(values), "challenger": float(values.mean()), compared_with: float(other.mean())}
        (not_judged if len(values) < bounds.min_users else judged)[name] = len(values)
        if len(values) < bounds.min_users or values.mean() >= (1 - bounds.max_relative_loss) * other.mean():
            continue
        if interval(values - other, seed=seed)[1] < 0:
            reasons.append(
                f"{METRIC} of {name} is {values.mean():.4f}, {compared_with} has {other.mean():.4f}:"
                f" more than {bounds.max_relative_loss:.0%} worse over {len(values)} users"
            )
    if not means:
        reasons.append("no held-out user has a label: nothing to judge the model by")
    return GateDecision(not reasons, tuple(reasons), compared_with, means, bounds, judged, not_judged)


def _counted(segments: Mapping[str, int]) -> str:
    return ", ".join(f"{n} users" if name == "all" else f"{name} {n}" for name, n in segments.items())


def _list_reasons(facts: ListFacts, bounds: Bounds) -> list[str]:
    reasons = []
    if not facts.n_lists:
        reasons.append("there are no lists")
    if facts.n_empty:
        reasons.append(f"{facts.n_empty} of {facts.n_lists} lists are empty")
    if facts.n_not_finite:
        reasons.append(f"{facts.n_not_finite} of {facts.n_lists} lists hold a score that is not a number")
    if facts.n_unavailable:
        reasons.append(f"{facts.n_unavailable} places hold an item that is not available")
    reachable = min(1.0, facts.n_places / max(facts.n_items, 1))  # ten lists cannot cover a million items
    if facts.n_lists and facts.item_coverage < bounds.min_item_coverage * reachable:
        reasons.append(
            f"the lists use {facts.item_coverage:.2%} of the catalogue, less than {bounds.min_item_coverage:.2%}"
        )
    if (
        facts.n_items >= 200
        and facts.n_places > facts.n_items * 0.05
        and facts.top_item_share > bounds.max_top_item_share
    ):
        reasons.append(
            f"1 % of the items take {facts.top_item_share:.1%} of the places, more than {bounds.max_top_item_share:.1%}"
        )
    return reasons
