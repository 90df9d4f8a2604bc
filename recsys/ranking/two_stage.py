"""The two stages: candidates of fitted generators, features as of a cutoff, a ranker.

All functions work in chunks of users, so that memory does not grow with their number.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys import log
from recsys.errors import EmptyResultError, ModelError
from recsys.evaluation.metrics import Labels
from recsys.evaluation.pools import NO_LABELS, PoolCount
from recsys.keys import pairs_of
from recsys.ranking.affinity import OwnItems, affinity
from recsys.ranking.frame import Frame, PairFeatures, feature_frame
from recsys.ranking.pool import Pool, build_pool
from recsys.ranking.ranker import Examples, Ranker, RankerParams, refit, train
from recsys.ranking.windows import is_held_out, is_validation
from recsys.types import NO_ITEM, CandidateGenerator, Keys, Lists, Scores

logger = logging.getLogger(__name__)

USERS_PER_CHUNK = 1_000
CANDIDATES_PER_GENERATOR = 200


@dataclass(frozen=True)
class Stage:
    """The candidate stage as of a cutoff: generators fitted on the events before it, features, masked items."""

    generators: Sequence[CandidateGenerator]
    features: PairFeatures
    seen: Callable[[Keys], Any | None] = lambda user_keys: None  # user keys → CSR for `candidates`, rows as given
    n_candidates: int | Mapping[str, int] = CANDIDATES_PER_GENERATOR  # of each generator, or by its name
    leave_out: Sequence[str] = ()  # categorical features
    own: OwnItems | None = None  # of the users, for `affinity`

    def pools(self, user_keys: Keys, chunk: int = USERS_PER_CHUNK) -> Iterator[tuple[slice, Pool]]:
        """Candidates of `user_keys` (n,) in chunks, each with its slice of users."""
        pace = log.Pace()
        for start in range(0, len(user_keys), chunk):
            if pace.is_due():
                logger.info("candidates and features: %d of %d users are done", start, len(user_keys))
            part = slice(start, min(start + chunk, len(user_keys)))
            users = user_keys[part]
            yield part, build_pool(self.generators, users, self.n_candidates, self.seen(users))

    def frame(self, pool: Pool) -> Frame:
        """The features of a pool's rows."""
        more = affinity(self.generators, self.own, pool) if self.own is not None else None
        return feature_frame(pool, self.features, self.leave_out, more)


def examples_of(
    stage: Stage,
    labels: Labels,
    *,
    max_negatives: int | None,
    max_rows: int | None = None,
    seed: int = 0,
    chunk: int = USERS_PER_CHUNK,
) -> Examples:
    """Labelled candidates of the users in `labels`: per user all positives and at most `max_negatives` negatives.

    Left out are users without a positive among their candidates and, in random order, those beyond `max_rows`.
    Raises TooFewLabelsError when no user is left.
    """
    parts, _ = _examples(stage, labels, max_negatives, max_rows, seed, chunk)
    return Examples.concatenate(parts)


def _examples(
    stage: Stage, labels: Labels, max_negatives: int | None, max_rows: int | None, seed: int, chunk: int
) -> tuple[list[Examples], PoolCount]:
    """The examples of each chunk that has any, and what the candidates of all users that were looked at hold."""
    rng = np.random.default_rng(seed)
    users = rng.permutation(labels.user_key)
    parts: list[Examples] = []
    n_rows, count = 0, NO_LABELS
    for part, pool in stage.pools(users, chunk):
        if max_rows is not None and n_rows >= max_rows:
            break
        label = _labelled(pool, labels)
        n_labels = labels.n_labels[np.searchsorted(labels.user_key, pool.user_key)]
        count += PoolCount.of(n_labels, np.bincount(pool.row_of_user[label], minlength=len(n_labels)))
        rows = sample_rows(pool, label, max_negatives, rng)
        if not len(rows):
            continue
        kept = _only(pool, rows)
        user = pool.row_of_user[rows]
        parts.append(Examples(stage.frame(kept), label[rows], user + part.start, pool.user_key[user]))
        n_rows += len(rows)
    return parts, count


def sample_rows(
    pool: Pool, label: NDArray[np.bool_], max_negatives: int | None, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Positions of rows, ascending: all positives and up to `max_negatives` random others per user with a positive."""
    user = pool.row_of_user
    n_positive = np.bincount(user[label], minlength=len(pool.user_key))
    lottery = np.where(label, -1.0, rng.random(len(pool)))
    order = np.lexsort((lottery, user))  # positives first within each user
    place = np.arange(len(pool)) - pool.starts[user[order]]
    limit = np.where(n_positive > 0, n_positive + (len(pool) if max_negatives is None else max_negatives), 0)
    return np.sort(order[place < limit[user[order]]])


@dataclass(frozen=True)
class WindowExamples:
    """The examples of one label window; they need neither generators nor features."""

    training: Examples | None  # of training users, negatives sampled; None: no label among the candidates
    validation: Examples | None  # of validation users, whole pools
    pool: PoolCount = NO_LABELS  # of both, those without an example included


def window_examples(
    stage: Stage, labels: Labels, params: RankerParams, *, hold_out: bool = False, max_rows: int | None = None
) -> WindowExamples:
    """The labelled candidates of one window, users split by a hash of their key, the same in every window.

    With `hold_out` a tenth of the users is held out for the gate. `max_rows`: of each part.
    """
    validates = is_validation(labels.user_key)
    trains = ~validates & ~is_held_out(labels.user_key) if hold_out else ~validates
    training, validation = (labels.of_users(labels.user_key[part]) for part in (trains, validates))

    def examples(part: Labels, max_negatives: int | None) -> tuple[Examples | None, PoolCount]:
        parts, count = _examples(stage, part, max_negatives, max_rows, params.seed, USERS_PER_CHUNK)
        return Examples.concatenate(parts) if parts else None, count

    to_train, of_trained = examples(training, params.max_negatives)
    to_validate, of_validated = examples(validation, None)
    return WindowExamples(to_train, to_validate, of_trained + of_validated)


def train_on(windows: Sequence[WindowExamples], params: RankerParams) -> Ranker:
    """Train on the training users of all windows, validate on the validation users of all windows.

    Raises TooFewLabelsError when no window has training or validation examples.
    """
    return train(*_parts(windows), params)


def refit_on(windows: Sequence[WindowExamples], params: RankerParams, found: Mapping[str, Any]) -> Ranker:
    """Train as an earlier training has found best, by its report, on other windows."""
    return refit(*_parts(windows), params, found)


def _parts(windows: Sequence[WindowExamples]) -> tuple[Examples, Examples]:
    training = Examples.concatenate([window.training for window in windows if window.training])
    validation = Examples.concatenate([window.validation for window in windows if window.validation])
    return training, validation


Watch = Callable[[slice, Pool, Scores], None]  # positions of users, their candidates, the ranker's scores (n_rows,)


def rank(
    ranker: Ranker,
    stage: Stage,
    user_keys: Keys,
    n: int,
    *,
    chunk: int = USERS_PER_CHUNK,
    watch: Watch | None = None,
) -> Lists:
    """The best `n` candidates of each user, best first, each with the generator that ranked it best.

    `Lists.source` are positions in `stage.generators`. `watch` is shown each chunk with its scores. Users without
    candidates get an empty list. Raises ModelError when all scores are equal or one is not finite, EmptyResultError
    when no user has a candidate.
    """
    lists = Lists(
        user_keys,
        np.full((len(user_keys), n), NO_ITEM, dtype=np.int32),
        np.full((len(user_keys), n), np.nan, dtype=np.float32),
        np.zeros((len(user_keys), n), dtype=np.int16),
    )
    least, greatest, n_rows = np.inf, -np.inf, 0
    names = [generator.name for generator in stage.generators]
    for part, pool in stage.pools(user_keys, chunk):
        if not len(pool):
            continue
        scores = ranker.score(stage.frame(pool))
        least, greatest, n_rows = min(least, scores.min()), max(greatest, scores.max()), n_rows + len(scores)
        _write_best(lists, part, pool, scores, _source(pool, names))
        if watch is not None:
            watch(part, pool, scores)
    if not n_rows:
        raise EmptyResultError(f"none of the generators {names} has a candidate for any of {len(user_keys)} users")
    if n_rows > 1 and least == greatest:
        raise ModelError("the ranker gives every candidate the same score; keep the previous one and train again")
    return lists


def _write_best(lists: Lists, part: slice, pool: Pool, scores: Scores, source: NDArray[np.int16]) -> None:
    """Write the best of the pool into rows `part` of `lists`; ties are ordered by key."""
    user = pool.row_of_user
    order = np.lexsort((-scores, user))
    place = np.arange(len(order)) - pool.starts[user[order]]
    kept = place < lists.item_key.shape[1]
    chosen, row, column = order[kept], user[order][kept] + part.start, place[kept]
    lists.item_key[row, column] = pool.item_key[chosen]
    lists.score[row, column] = scores[chosen]
    lists.source[row, column] = source[chosen]


def _source(pool: Pool, names: Sequence[str]) -> NDArray[np.int16]:
    """The generator that ranks a row best, of those that proposed it, (n_rows,)."""
    ranks = np.stack([np.where(pool.columns[f"{n}_found"] > 0, pool.columns[f"{n}_rank"], np.inf) for n in names])
    return ranks.argmin(axis=0).astype(np.int16)


def _labelled(pool: Pool, labels: Labels) -> NDArray[np.bool_]:
    wanted = pairs_of(labels.user_key[labels.row], labels.item_key)
    return np.isin(pairs_of(pool.user_key[pool.row_of_user], pool.item_key), wanted)


def _only(pool: Pool, rows: NDArray[np.int64]) -> Pool:
    """The pool reduced to `rows` (ascending); columns keep their values, computed over the whole pool."""
    starts = np.searchsorted(rows, pool.starts)
    return Pool(pool.user_key, starts, pool.item_key[rows], {n: v[rows] for n, v in pool.columns.items()})
