"""What is asked, in keys, and what is known of who asks."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from typing import Final, NamedTuple

from recsys.serving.config import Surface
from recsys.serving.eligibility import Restriction
from recsys.serving.recent import N_FOLLOWED, History, Recent
from recsys.serving.snapshot import Snapshot, StoredList

Score = Callable[[Sequence[int]], Sequence[float] | None]  # item keys → probabilities; None when it failed


class Query(NamedTuple):
    """What is asked, in keys."""

    top_k: int
    category_key: int | None = None
    excluded: Set[int] = frozenset()
    context_keys: Sequence[int] = ()  # the product or the cart
    candidate_keys: Sequence[int] | None = None  # rank these and no others
    surface: Surface = "homepage"
    now_ms: float = 0  # milliseconds since the epoch
    restriction: Restriction | None = None  # the request's filters; those of the surface are added to them


class UserState(NamedTuple):
    """What is known of who asks."""

    ranked: StoredList | None = None
    personal: StoredList | None = None
    recent: Sequence[Recent] = ()  # the latest events and older ones that tell what was bought, newest first
    seq: Sequence[Recent] | None = None  # what is followed in their place; what was bought is still told by `recent`
    history: History | None = None  # what was done before the lists were made; it is not followed
    score: Score | None = None  # of items for this user, by the model; None where there is none

    @classmethod
    def stored(cls, snapshot: Snapshot, user_key: int | None, recent: Sequence[Recent]) -> UserState:
        """What the lists in service hold for a user, None for somebody whom the catalogue does not know."""
        if user_key is None:
            return cls(recent=recent)
        history, done = None, snapshot.list_of("history", user_key)
        if done is not None:
            history = History(done.item_keys, done.scores, done.sources, snapshot.publication.lists["history"].sources)
        ranked, personal = snapshot.list_of("ranked", user_key), snapshot.list_of("personal", user_key)
        return cls(ranked, personal, recent, history=history)

    @property
    def followed(self) -> Sequence[Recent]:
        """The events that call their neighbours."""
        return self.recent[:N_FOLLOWED] if self.seq is None else self.seq


NOBODY: Final = UserState()
