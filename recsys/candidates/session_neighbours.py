"""What follows a user's last events, by the sessions of others: `recsys.session_index`, built at night."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from recsys.candidates.base import (
    Best,
    best_of_sparse,
    known_history,
    load_model,
    ranked,
    require_finite,
    save_model,
    scored,
    seen_positions,
    usable_history,
)
from recsys.candidates.covisitation import last_events
from recsys.candidates.neighbourhood import entries, strongest
from recsys.decay import decay
from recsys.keys import KeyIndex, Positions, runs
from recsys.parameters import Count, Finite, Positive
from recsys.session_index import Formula, Rows, SessionIndex, Sessions, neighbours_scores
from recsys.types import Candidates, Catalogue, Interactions, Keys, Scores

ROWS_PER_BLOCK = 2048
LEAST_IDF = 0.01  # of an item that is in every session


@dataclass
class SessionNeighbours(Formula):
    """The formula of `recsys.session_index` over a user's last `max_events` events, whatever their sessions.

    Made at night: a session of n events (the last `max_session_events` of it), a days before the newest event, weighs
    n^-length_power · 2^(-a / half_life_days). The trend of an item in n sessions, r of them in the last `recent_days`,
    is (1 + n)^popularity_power · (1 + r)^recent_power. Weights of events matter only in being positive.
    """

    half_life_days: Positive = 100.0
    max_session_events: Count = 100
    max_events: Count = 50
    walk_reach: Count = 2  # places in a session that a step of the walk goes, each way
    n_walk: Count = 100  # items kept that the walk from an item leads to
    popularity_power: Finite = -0.35
    recent_power: Finite = 0.3
    recent_days: Positive = 14.0
    name: ClassVar[str] = "session_neighbours"

    def fit(self, interactions: Interactions, catalogue: Catalogue) -> Self:
        """As the protocol says."""
        history = usable_history(interactions, catalogue)
        items = KeyIndex.of(history.item_key)
        index = self._index(history, items, catalogue)
        require_finite(self.name, trend=index.trend, idf=index.idf, walk=index.walk_score, weight=index.parts[0].weight)
        self._set(interactions.cut_at, *self._last_events(history, items), index)
        return self

    def with_histories(self, interactions: Interactions) -> Self:
        """As the protocol says."""
        model, history = copy(self), known_history(interactions, self.items)
        model._set(interactions.cut_at, *self._last_events(history, self.items), self.index)
        return model

    def _last_events(self, history: Interactions, items: KeyIndex) -> tuple[KeyIndex, Rows]:
        """The users, and the items of their last events as positions in `items`."""
        recent = last_events(history, self.max_events)
        starts, _ = runs(recent.user_key)
        lengths = np.diff(starts, append=len(recent))
        return KeyIndex(recent.user_key[starts]), Rows.of(lengths, items.positions(recent.item_key))

    def _set(self, cut_at: int, users: KeyIndex, events: Rows, index: SessionIndex) -> None:
        self.cut_at, self.users, self.events, self.index = cut_at, users, events, index
        self.items = KeyIndex(index.item_keys)

    def _index(self, history: Interactions, items: KeyIndex, catalogue: Catalogue) -> SessionIndex:
        sessions, age_days = self._sessions(history, items)
        n_sessions = np.diff(sessions.by_item.starts)
        idf = np.maximum(np.log(len(age_days) / np.maximum(n_sessions, 1)), LEAST_IDF).astype(np.float32)
        of_item = np.repeat(np.arange(len(items)), n_sessions)
        n_recent = np.bincount(of_item, age_days[sessions.by_item.values] <= self.recent_days, minlength=len(items))
        trend = (1.0 + n_sessions) ** self.popularity_power * (1.0 + n_recent) ** self.recent_power
        trend = np.where(catalogue.offers(items.keys), trend, 0.0).astype(np.float32)
        walk = self._walk(sessions.items, len(items))
        walk_to = Rows(walk.indptr.astype(np.int64), walk.indices.astype(np.int32))
        return SessionIndex(items.keys, idf, trend, walk_to, walk.data, (sessions,), self._formula)

    @property
    def _formula(self) -> Formula:
        return Formula(**{field.name: getattr(self, field.name) for field in fields(Formula)})

    def _sessions(self, history: Interactions, items: KeyIndex) -> tuple[Sessions, NDArray[Any]]:
        """The sessions in the order of their last events, and the age of each in days, (n_sessions,)."""
        _, session = np.unique(history.session_id, return_inverse=True)
        newest = np.zeros(session.max() + 1, dtype=np.int64)
        np.maximum.at(newest, session, history.occurred_at)
        place = np.empty_like(newest)
        place[np.argsort(newest, kind="stable")] = np.arange(len(newest))
        order = np.argsort(place[session], kind="stable")
        from_end = runs(place[session][order[::-1]])[1][::-1]
        order = order[from_end < self.max_session_events]
        lengths = np.bincount(place[session][order], minlength=len(newest))
        age_days = (newest.max() - np.sort(newest)) / 86_400e6
        weight = (lengths**-self.length_power * decay(age_days, self.half_life_days)).astype(np.float32)
        rows = Rows.of(lengths, items.positions(history.item_key[order]))
        return Sessions.of(rows, weight, len(items)), age_days

    def _walk(self, sessions: Rows, n_items: int) -> sp.csr_matrix:
        """Probability of going from item (row) to item in two steps, the `n_walk` greatest: CSR (n_items, n_items).

        A step goes to an item at most `walk_reach` places away in a session, with probability ∝ Σ 1 / distance.
        """
        session = np.repeat(np.arange(len(sessions.starts) - 1), np.diff(sessions.starts))
        beside = sp.csr_matrix((n_items, n_items), dtype=np.float32)
        for distance in range(1, self.walk_reach + 1):
            first, later = sessions.values[:-distance], sessions.values[distance:]
            pair = (session[distance:] == session[:-distance]) & (first != later)
            weight = np.full(int(pair.sum()), 1.0 / distance, dtype=np.float32)
            beside = beside + sp.csr_matrix((weight, (first[pair], later[pair])), shape=beside.shape)
        beside = (beside + beside.T).tocsr()
        total = np.asarray(beside.sum(axis=1)).ravel()
        beside.data /= np.repeat(np.maximum(total, np.finfo(np.float32).tiny), np.diff(beside.indptr))
        blocks = [self._second_step(beside, start) for start in range(0, n_items, ROWS_PER_BLOCK)]
        return sp.vstack(blocks, format="csr")

    def _second_step(self, beside: sp.csr_matrix, start: int) -> sp.csr_matrix:
        """The rows from `start` on."""
        two = (beside[start : start + ROWS_PER_BLOCK] @ beside).tocoo()
        elsewhere = two.row + start != two.col
        away = (two.data[elsewhere], (two.row[elsewhere], two.col[elsewhere]))
        return strongest(sp.csr_matrix(away, shape=two.shape, dtype=np.float32), self.n_walk)

    def _scores_of(self, user: int) -> tuple[Positions, Scores]:
        """Item positions and scores for the user at a position."""
        clicks = self.events.values[self.events.starts[user] : self.events.starts[user + 1]][::-1]
        keys, scores = neighbours_scores(self.index, self.items.keys[clicks])
        return np.searchsorted(self.items.keys, keys), scores

    def _matrix(self, users: Positions) -> sp.csr_matrix:
        """Scores of some users, CSR float32 (n, n_items)."""
        found = [self._scores_of(int(user)) for user in users]
        starts = np.cumsum([0, *(len(items) for items, _ in found)])
        values, columns = (np.concatenate(part) for part in ([s for _, s in found], [i for i, _ in found]))
        return sp.csr_matrix((values, columns, starts), shape=(len(users), len(self.items)))

    def candidates(self, user_keys: Keys, n: int, *, seen: Any | None = None) -> Candidates:
        at = self.users.positions(user_keys)
        mask = seen_positions(seen, self.items, len(user_keys))

        def best(rows: Positions) -> Best:
            scores = self._matrix(at[rows])
            if mask is not None:
                scores = scores - scores.multiply(mask[rows])
            return best_of_sparse(scores.tocsr(), n)

        return ranked(user_keys, n, at >= 0, self.items, best)

    def scores(self, user_keys: Keys, item_keys: Keys) -> Scores:
        """(n,) and (n, k) → (n, k); 0 where a known item is not among those that may follow."""

        def score(users: Positions, items: Positions) -> Scores:
            distinct, row = np.unique(users, return_inverse=True)
            return entries(self._matrix(distinct), row, items)

        return scored(user_keys, item_keys, self.users, self.items, score)

    def save(self, folder: Path) -> None:
        users = {"user_keys": self.users.keys, "user_starts": self.events.starts, "user_events": self.events.values}
        save_model(folder, self, self.cut_at, users | self.index.arrays())

    @classmethod
    def load(cls, folder: Path) -> Self:
        params, cut_at, arrays = load_model(folder, cls.name)
        model = cls(**params)
        users, events = KeyIndex(arrays["user_keys"]), Rows(arrays["user_starts"], arrays["user_events"])
        model._set(cut_at, users, events, SessionIndex.of_arrays(arrays, model._formula))
        return model
