"""What titles say as of a cut: how near an item is to the words of the user's own items, and whether its words are
in fashion. New items have no past, but they have a title.

A title is a bag of words, weighted by the logarithm of their rarity and scaled to length 1 (TF-IDF, Salton &
Buckley 1988). A user is the sum of the titles of their events, decayed, scaled to length 1.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import ibis
import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from recsys import columns as col
from recsys.data.dataset import TITLE, instant
from recsys.data.engine_functions import latest
from recsys.decay import decay
from recsys.features.history import AGE_DAYS, SLOW_HALF_LIFE_DAYS, events_before
from recsys.keys import positions

MAX_WORDS = 20_000  # the most frequent ones; a word that a single item has says nothing
MAX_WORDS_PER_ITEM = 16
SHORT_DAYS, LONG_DAYS = 14, 56  # fashion: share of the events of the last days over that of the longer window
_SMOOTHING = 1e-4  # share of a word that nobody bought
_USERS_AT_ONCE = 512
_WORD = re.compile(r"[^\W_]{3,}")

Floats = NDArray[np.float32]


class TitleWords:
    """Titles, users' profiles and words' trends as of one cut; `names` are the columns that it adds."""

    names = ("item_title_trend", "pair_title_similarity")

    def __init__(self, con: ibis.BaseBackend, at: int) -> None:
        """`con` holds the tables of a data set; `at`: microseconds."""
        cut = ibis.timestamp(instant(at))
        rows = con.table("item_properties").filter(lambda t: (t.property == TITLE) & (t.occurred_at < cut))
        titles = con.to_pyarrow(rows.group_by(col.ITEM_KEY).agg(title=latest(rows.value, rows.occurred_at)))
        keys = titles[col.ITEM_KEY].to_numpy()
        order = np.argsort(keys)
        self.item_key: NDArray[np.int32] = keys[order]
        self.titles = bags([titles["title"][int(i)].as_py() for i in order])
        self._words, self._weights = _padded(self.titles)
        events = events_before(con, at).select(col.USER_KEY, col.ITEM_KEY, col.WEIGHT, AGE_DAYS)
        table = con.to_pyarrow(events.filter(events[col.ITEM_KEY].isin(rows[col.ITEM_KEY]))) if len(keys) else None
        self._learn(table)

    def _learn(self, events: Any | None) -> None:
        """Profiles of users and trends of items, from the events on items with a title."""
        n_items, n_words = self.titles.shape
        if events is None:
            self.user_key = np.zeros(0, dtype=np.int32)
            self.profiles = sp.csr_matrix((0, n_words), dtype=np.float32)
            self.trend = np.full(n_items, np.nan, dtype=np.float32)
            return
        age = events[AGE_DAYS].to_numpy()
        item = positions(self.item_key, events[col.ITEM_KEY].to_numpy())
        self.user_key, user = np.unique(events[col.USER_KEY].to_numpy(), return_inverse=True)
        weight = events[col.WEIGHT].to_numpy() * decay(age, SLOW_HALF_LIFE_DAYS)
        history = sp.csr_matrix((weight.astype(np.float32), (user, item)), shape=(len(self.user_key), n_items))
        self.profiles = _scaled(history @ self.titles)
        self.trend = _trend(self.titles, item, age)

    def join(self, user_key: NDArray[np.int64], item_key: NDArray[np.int64]) -> dict[str, Floats]:
        """The columns of `names` for pairs (n,), NaN where item (or user) has no title to go by."""
        if not len(self.item_key):
            return {name: np.full(len(item_key), np.nan, dtype=np.float32) for name in self.names}
        item = positions(self.item_key, item_key)
        trend = np.where(item >= 0, self.trend[item], np.nan).astype(np.float32)
        return {"item_title_trend": trend, "pair_title_similarity": self._similarity(user_key, item)}

    def _similarity(self, user_key: NDArray[np.int64], item: NDArray[np.int64]) -> Floats:
        result = np.full(len(item), np.nan, dtype=np.float32)
        if not len(self.user_key):  # nobody has an event on an item with a title
            return result
        users, place = np.unique(user_key, return_inverse=True)
        profile = positions(self.user_key, users)
        order = np.argsort(place, kind="stable")
        bounds = np.searchsorted(place[order], np.arange(0, len(users) + _USERS_AT_ONCE, _USERS_AT_ONCE))
        for block, (first, last) in enumerate(pairwise(bounds)):
            rows = order[first:last]
            start = block * _USERS_AT_ONCE
            own = profile[start : start + _USERS_AT_ONCE]
            dense = self.profiles[np.maximum(own, 0)].toarray()  # (users, n_words)
            at = place[rows] - start
            products = dense[at[:, None], self._words[item[rows]]] * self._weights[item[rows]]
            known = (item[rows] >= 0) & (own[at] >= 0)
            result[rows] = np.where(known, products.sum(axis=1), np.nan)
        return result


def bags(titles: Sequence[str]) -> sp.csr_matrix:
    """TF-IDF of titles, rows of length 1 (or 0 without a known word): (n_items, n_words)."""
    bags = [sorted(set(_WORD.findall(title.lower())))[:MAX_WORDS_PER_ITEM] for title in titles]
    words, counts = np.unique(np.array([word for bag in bags for word in bag], dtype=str), return_counts=True)
    frequent = np.argsort(-counts, kind="stable")[:MAX_WORDS]
    frequent = frequent[counts[frequent] > 1]
    column = {str(words[i]): place for place, i in enumerate(frequent)}
    pairs = [(row, column[word]) for row, bag in enumerate(bags) for word in bag if word in column]
    rows, columns = (np.array([pair[i] for pair in pairs], dtype=np.int64) for i in (0, 1))
    rarity = np.log(len(titles) / counts[frequent]) + 1e-6
    values = rarity[columns].astype(np.float32) if len(columns) else np.zeros(0, dtype=np.float32)
    return _scaled(sp.csr_matrix((values, (rows, columns)), shape=(len(titles), max(len(frequent), 1))))


def _padded(titles: sp.csr_matrix) -> tuple[NDArray[np.int32], Floats]:
    """Words and weights of each title as (n_items, MAX_WORDS_PER_ITEM), weight 0 where there are fewer."""
    n_items = titles.shape[0]
    words = np.zeros((n_items, MAX_WORDS_PER_ITEM), dtype=np.int32)
    weights = np.zeros((n_items, MAX_WORDS_PER_ITEM), dtype=np.float32)
    filled = np.arange(MAX_WORDS_PER_ITEM) < np.diff(titles.indptr)[:, None]
    words[filled], weights[filled] = titles.indices, titles.data
    return words, weights


def _trend(titles: sp.csr_matrix, item: NDArray[np.int64], age: NDArray[np.float64]) -> Floats:
    """Per item the mean over its words of log(share of short window / share of long window), (n_items,)."""
    n_items = titles.shape[0]
    has = titles.astype(bool).astype(np.float32)
    shares = []
    for days in (SHORT_DAYS, LONG_DAYS):
        counts = np.bincount(item[age <= days], minlength=n_items)
        shares.append(has.T @ counts / max(counts.sum(), 1) + _SMOOTHING)
    n_words = np.diff(titles.indptr)
    trend = (has @ np.log(shares[0] / shares[1])) / np.maximum(n_words, 1)
    return np.where(n_words > 0, trend, np.nan).astype(np.float32)


def _scaled(matrix: sp.csr_matrix) -> sp.csr_matrix:
    """Rows scaled to length 1; empty ones stay."""
    matrix = matrix.tocsr().astype(np.float32)
    length = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
    return (sp.diags((1 / np.maximum(length, 1e-12)).astype(np.float32)) @ matrix).tocsr()
