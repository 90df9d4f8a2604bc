"""May a new model replace the one that serves? A pure decision over figures that were measured before.

Against a champion a model has to show that it is not worse by more than the bound: the lower end of the interval of
the relative difference lies above it. Where the interval holds the bound nobody can tell, and the champion stays,
but for a refit of its own recipe that is not lower (research/decisions/0029). Without a champion it must not be shown
to be worse than popularity. A segment refuses when a loss beyond the bound is shown there. Broken lists are refused
whatever their accuracy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from recsys.evaluation import segments
from recsys.evaluation.comparison import Comparison, PerUser, compare
from recsys.evaluation.metrics import Labels, Values, accuracy, item_coverage, top_item_share
from recsys.types import Candidates, Catalogue, Interactions, Keys

METRIC = "ndcg@10"
ALL = "all"
POPULARITY = "popularity"


@dataclass(frozen=True)
class Bounds:
    """How bad is too bad. Shares are in [0, 1]."""

    max_relative_loss: float = 0.1  # against the champion, and in each segment
    max_loss_to_popularity: float = 0.0  # where there is no champion
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


class Outcome(StrEnum):
    """What a comparison shows, of all users or of a segment, and what becomes of the model."""

    NOT_WORSE = "not worse"  # than the bound: accepted
    NOT_LOWER = "not lower"  # nobody can tell, and a refit of the champion's recipe: accepted
    UNJUDGED = "unjudged"  # the first model, and too few users: accepted
    CANNOT_TELL = "cannot tell"  # the champion stays
    WORSE = "worse"  # by more than the bound: the champion stays
    BROKEN = "broken"  # lists that nobody may see: the champion stays


@dataclass(frozen=True)
class GateDecision:
    """`verdict` is one sentence, `notes` say what else a reader must know of it."""

    outcome: Outcome
    verdict: str
    against: str  # an artifact, or popularity
    compared: dict[str, Comparison] = field(default_factory=dict)  # by segment; those without users are left out
    bounds: Bounds = Bounds()
    notes: tuple[str, ...] = ()

    @property
    def accepted(self) -> bool:
        return self.outcome in (Outcome.NOT_WORSE, Outcome.NOT_LOWER, Outcome.UNJUDGED)

    @property
    def n_judged(self) -> int:
        """How many users the verdict is based on; 0 where they are too few."""
        return self.compared[ALL].n_users if ALL in self.compared and self.of(ALL) is not Outcome.UNJUDGED else 0

    def of(self, segment: str) -> Outcome:
        """What the comparison of a segment shows."""
        return _shown(self.compared[segment], segment, self.against, self.bounds)

    @property
    def reason(self) -> str:
        """One line for people: the verdict, then what was not judged, then the other segments."""
        named = [name for name in self.compared if name != ALL]
        parts = [self.verdict]
        for outcome, words in (
            (Outcome.UNJUDGED, f"not judged, fewer than {self.bounds.min_users} users"),
            (Outcome.CANNOT_TELL, "cannot tell for"),
            (Outcome.NOT_WORSE, "not worse for"),
        ):
            if found := [f"{name} ({self.compared[name].n_users})" for name in named if self.of(name) is outcome]:
                parts.append(f"{words}: {', '.join(found)}")
        return "; ".join([*parts, *self.notes, *([] if self.outcome is Outcome.BROKEN else ["lists are sound"])])


def segment_values(
    lists: Keys, labels: Labels, history: Interactions, catalogue: Catalogue, metric: str = METRIC
) -> dict[str, PerUser]:
    """The metric per user, for all and for each segment of users and of items, by name.

    `lists` (n_users, k) has the rows of `labels`. A segment of items counts only labels on such items. Segments
    come in the same order with the same users whatever the lists are, so two models can be paired.
    """
    values, users = accuracy(lists, labels)[metric], labels.user_key
    result = {ALL: PerUser(users, values)}
    result |= {name: PerUser(users[mask], values[mask]) for name, mask in segments.users(history, users).items()}
    for name, keys in segments.items(history, catalogue).items():
        part = labels.of_items(keys)
        rows = np.isin(users, part.user_key)
        result[name] = PerUser(part.user_key, accuracy(lists[rows], part)[metric])
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
    champion_name: str = "the champion",
    same_recipe: bool = False,
    broken: Sequence[str] = (),
    notes: Sequence[str] = (),
    seed: int = 0,
) -> GateDecision:
    """Compare per-user metrics (n,) of the same users, by segment (`segment_values`), and check the lists.

    `same_recipe`: the challenger is made as the champion was, of newer data. `broken`: what else is wrong with it.
    Raises KeyError when a segment of the challenger is missing in the reference.
    """
    reference, against = (popularity, POPULARITY) if champion is None else (champion, champion_name)
    wrong = [*broken, *list_reasons(facts, bounds)]
    compared: dict[str, Comparison] = {}
    for name, values in challenger.items():
        if not np.isfinite(values).all():
            wrong.append(f"{METRIC} of {name} is not a number")
        elif len(values):
            compared[name] = compare(values, reference[name], seed=seed)
    if not wrong and ALL not in compared:
        wrong.append("no user has a label: nothing to judge the model by")
    if wrong:
        outcome, verdict = Outcome.BROKEN, f"refused: {'; '.join(wrong)}"
    elif champion is None:
        outcome, verdict = _without_champion(compared, bounds)
    else:
        outcome, verdict = _against_champion(compared, bounds, against, same_recipe)
    return GateDecision(outcome, verdict, against, compared, bounds, tuple(notes))


def _bound(segment: str, against: str, bounds: Bounds) -> float:
    """The relative loss that refuses."""
    if segment == ALL and against == POPULARITY:
        return bounds.max_loss_to_popularity
    return bounds.max_relative_loss


def _shown(found: Comparison, segment: str, against: str, bounds: Bounds) -> Outcome:
    """What the interval shows of a loss beyond the bound; UNJUDGED for fewer than `min_users`."""
    bound = _bound(segment, against, bounds)
    if found.n_users < bounds.min_users:
        return Outcome.UNJUDGED
    if found.low > -bound:
        return Outcome.NOT_WORSE
    return Outcome.WORSE if found.high < -bound else Outcome.CANNOT_TELL


def _without_champion(compared: Mapping[str, Comparison], bounds: Bounds) -> tuple[Outcome, str]:
    found, bound = compared[ALL], bounds.max_loss_to_popularity
    accepted = "accepted, as there is no champion to compare with"
    if found.n_users < bounds.min_users:
        few = f"{found.n_users} users are too few (fewer than {bounds.min_users}) to compare it with popularity"
        return Outcome.UNJUDGED, f"unjudged: {few}; {accepted}"
    if worse := _worse(compared, POPULARITY, bounds):
        return Outcome.WORSE, worse
    than = f"more than {bound:.0%} worse" if bound else "worse"
    shown = f"not shown to be {than} than popularity over {found.n_users} users ({found})"
    return Outcome.NOT_WORSE, f"{accepted}: {shown}"


def _against_champion(
    compared: Mapping[str, Comparison], bounds: Bounds, against: str, same_recipe: bool
) -> tuple[Outcome, str]:
    found, bound = compared[ALL], bounds.max_relative_loss
    if worse := _worse(compared, against, bounds):
        return Outcome.WORSE, worse
    if _shown(found, ALL, against, bounds) is Outcome.NOT_WORSE:
        shown = f"not more than {bound:.0%} worse than {against} over {found.n_users} users ({found})"
        return Outcome.NOT_WORSE, f"accepted: {shown}"
    needed = max(found.n_needed(bound), bounds.min_users)
    what = (
        f"{found.n_users} users, about {needed} needed to tell whether it is {bound:.0%} worse than {against} ({found})"
    )
    if same_recipe and found.difference >= 0:
        return Outcome.NOT_LOWER, f"accepted, as the champion's recipe on newer data that is not lower: {what}"
    return Outcome.CANNOT_TELL, f"cannot tell: {what}; the champion stays"


def _worse(compared: Mapping[str, Comparison], against: str, bounds: Bounds) -> str:
    """Where a loss beyond the bound is shown, of all users or of a segment; empty where nowhere."""
    losses = [
        f"by {-found.difference:.0%} {'' if name == ALL else f'for {name}, '}over {found.n_users} users ({found})"
        for name, found in compared.items()
        if _shown(found, name, against, bounds) is Outcome.WORSE
    ]
    return f"refused: worse than {against} {', '.join(losses)}" if losses else ""


def list_reasons(facts: ListFacts, bounds: Bounds) -> list[str]:
    """What is wrong with lists, whatever their accuracy; empty when they are sound."""
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
