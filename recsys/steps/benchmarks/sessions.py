"""B6: the next click of a session, all items ranked; HR@20 and MRR@20.

Measured twice: *all clicks*, nothing masked; *new items*, prefixes whose target is not in them, the prefix masked.
Training sessions have no times: they are spread evenly, in their order, at the rate of RetailRocket's sessions.
Intervals are over sessions, whose prefixes stay together (each prefix for itself where the test names no session).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recsys.candidates.covisitation import Covisitation
from recsys.candidates.session_neighbours import SessionNeighbours
from recsys.errors import InputError
from recsys.evaluation.bootstrap import Floats, relative_interval
from recsys.serving.snapshot import Snapshot
from recsys.session_index import SessionIndex, neighbours_scores
from recsys.settings import Settings
from recsys.steps.benchmarks import published, served
from recsys.steps.benchmarks.result import Result
from recsys.types import MICROSECONDS_PER_DAY, Catalogue, Interactions, Keys, Scores

TRAINING, TEST = "train_sessions.parquet", "test.parquet"
TOP_K = 20
PER_DAY = 963  # training sessions of RetailRocket in a day
WEEK = 7 * PER_DAY
N_POPULAR = 500  # items that popularity ranks
MOST_CLICKS = 50  # of a prefix, the newest
DECAY = 0.6  # of a click in co-visitation
REACH = 10  # clicks that a rule looks ahead
PER_BLOCK = 500  # prefixes between two extensions of the index
QUICK_PREFIXES, QUICK_SESSIONS = 500, 20_000
RULES, POPULAR, NEIGHBOURS = "rules of the last item", "popularity", "session neighbours"
SERVED = "as served"

Clicks = NDArray[np.int32]  # item keys
Answers = Callable[[Clicks], tuple[Keys, Scores]]  # clicks, newest first → item keys ascending, and their scores > 0


@dataclass(frozen=True)
class Split:
    """Training sessions, oldest first, and the prefixes of the test in time order, each with the click after it."""

    training: Sequence[Clicks]
    prefixes: Sequence[Clicks]
    targets: Clicks  # (n_prefixes,)
    session: NDArray[np.int64] | None  # (n_prefixes,): of the prefix; None where the file names none

    @classmethod
    def read(cls, folder: Path) -> Self:
        """`train_sessions.parquet` (items) and `test.parquet` (prefix, target, and session_id); InputError."""
        try:
            training = pd.read_parquet(folder / TRAINING, columns=["items"])["items"].tolist()
            test = pd.read_parquet(folder / TEST)
            prefixes, targets = test["prefix"].tolist(), test["target"].to_numpy(np.int32)
        except (OSError, ValueError, KeyError) as error:
            raise InputError(
                f"{folder} is no folder with {TRAINING} (items) and {TEST} (prefix, target): {error}"
            ) from error
        if not training or not prefixes:
            raise InputError(f"{folder} has {len(training)} training sessions and {len(prefixes)} prefixes")
        session = np.unique(test["session_id"], return_inverse=True)[1] if "session_id" in test else None
        return cls(training, prefixes, targets, session)

    def first(self, n_prefixes: int, n_sessions: int) -> Split:
        """The first prefixes, and the last training sessions."""
        session = None if self.session is None else self.session[:n_prefixes]
        return Split(self.training[-n_sessions:], self.prefixes[:n_prefixes], self.targets[:n_prefixes], session)

    @cached_property
    def is_new(self) -> NDArray[np.bool_]:
        """Whether the target is not in the prefix, (n_prefixes,)."""
        return np.array([target not in prefix for prefix, target in zip(self.prefixes, self.targets, strict=True)])

    @cached_property
    def events(self) -> Interactions:
        """The training sessions as events: a user for each, its clicks a microsecond apart."""
        n_clicks = np.array([len(session) for session in self.training])
        session = np.repeat(np.arange(len(n_clicks)), n_clicks)
        item = np.concatenate(self.training).astype(np.int32)
        place = np.arange(len(item)) - np.repeat(np.cumsum(n_clicks) - n_clicks, n_clicks)
        at = session * (MICROSECONDS_PER_DAY // PER_DAY) + place
        n, end = len(item), int(at[-1]) + 1
        ones, nan = np.ones(n, np.float32), np.full(n, np.nan)
        user = session.astype(np.int32)
        return Interactions(user, item, np.zeros(n, np.int8), ones, at, session, nan, ("view",), end)

    @cached_property
    def catalogue(self) -> Catalogue:
        """All items of the training sessions, on offer."""
        keys = np.unique(self.events.item_key)
        nowhere = np.full(len(keys), -1, dtype=np.int32)
        return Catalogue(keys, np.ones(len(keys), dtype=bool), nowhere, nowhere, np.zeros(len(keys), dtype=np.int64))

    def sessions_before(self, start: int) -> list[Clicks]:
        """The sessions of the test all of whose prefixes stand before `start`: the longest prefix and its target."""
        whole: dict[int, Clicks] = {}
        last: dict[int, int] = {}
        for row, session in enumerate(self.session.tolist() if self.session is not None else ()):
            last[session] = row
            if len(self.prefixes[row]) >= len(whole.get(session, ())):
                whole[session] = np.append(self.prefixes[row], self.targets[row])
        return [whole[session] for session in sorted(last, key=last.__getitem__) if last[session] < start]


@dataclass(frozen=True)
class Measured:
    """What one system answered to every prefix."""

    system: str
    rank: Floats  # (n,): of the target, 1 for the best; infinite where it is not ranked
    rank_of_new: Floats  # the same with the prefix masked; NaN where the target is in it
    rank_of_other: Floats  # of another prefix's target, drawn at random, nothing masked
    seconds: Floats  # processor time of one answer


def measured(system: str, split: Split, answers: Sequence[Answers], seed: int) -> Measured:
    """Ask one system. One of `answers` is for all prefixes, several are for `PER_BLOCK` prefixes each."""
    others = np.random.default_rng(seed).permutation(split.targets)
    ranks = np.full((3, len(others)), np.nan)
    seconds = np.zeros(len(others))
    rows = zip(split.prefixes, split.targets.tolist(), others.tolist(), split.is_new, strict=True)
    for row, (prefix, target, other, is_new) in enumerate(rows):
        clicks = prefix[::-1][:MOST_CLICKS].astype(np.int32)
        ask = answers[row // PER_BLOCK if len(answers) > 1 else 0]
        begin = time.thread_time()
        keys, scores = ask(clicks)
        seconds[row] = time.thread_time() - begin
        ranks[0, row], ranks[2, row] = (rank_of(key, keys, scores, prefix[:0]) for key in (target, other))
        if is_new:
            ranks[1, row] = rank_of(target, keys, scores, prefix)
    return Measured(system, ranks[0], ranks[1], ranks[2], seconds)


def as_served(system: str, split: Split, snapshot: Snapshot, seed: int) -> Measured:
    """Ask the service's cascade with its defaults: of all clicks nothing is excluded, of new items the prefix is."""
    others = np.random.default_rng(seed).permutation(split.targets)
    ranks = np.full((3, len(others)), np.nan)
    seconds = np.zeros(len(others))
    rows = zip(split.prefixes, split.targets.tolist(), others.tolist(), split.is_new, strict=True)
    for row, (prefix, target, other, is_new) in enumerate(rows):
        clicks = prefix[::-1][:MOST_CLICKS].tolist()
        found, seconds[row] = served.answer(snapshot, clicks, TOP_K, set())
        ranks[0, row], ranks[2, row] = (served.rank_of(key, found) for key in (target, other))
        if is_new:
            found, _ = served.answer(snapshot, clicks, TOP_K, set(prefix.tolist()))
            ranks[1, row] = served.rank_of(target, found)
    return Measured(system, ranks[0], ranks[1], ranks[2], seconds)


def rank_of(target: int, keys: Keys, scores: Scores, masked: Clicks) -> float:
    """Place of the target among ascending keys by their scores, 1 for the best; infinite without one. Ties by key."""
    at = int(np.searchsorted(keys, target))
    if at == len(keys) or keys[at] != target or scores[at] <= 0:
        return np.inf
    better = (scores > scores[at]) | ((scores == scores[at]) & (keys < target))
    return 1 + float((better & ~np.isin(keys, masked)).sum())


def run(loaded: Settings, path: Path, quick: bool) -> Result:
    """Measure all systems on the pair of files in the folder `path`."""
    split = Split.read(path)
    if quick:
        split = split.first(QUICK_PREFIXES, QUICK_SESSIONS)
    params = loaded.generator_params.get(SessionNeighbours.name, {})
    index = SessionNeighbours(**params).fit(split.events, split.catalogue).index
    found = [measured(name, split, answers, loaded.seed) for name, answers in systems(split, index).items()]
    snapshot = served.snapshot_of(split.events, split.catalogue, index)
    found.append(as_served(SERVED, split, snapshot, loaded.seed))
    found.append(as_served(f"{SERVED} without the index", split, replace(snapshot, sessions=None), loaded.seed))
    n_bytes = sum(values.nbytes for values in index.arrays().values())
    data = (
        f"{len(split.training):,} training sessions, {len(split.catalogue):,} items, {len(split.prefixes):,} prefixes; "
        f"index of {n_bytes / 2**20:.0f} MiB."
    )
    result = Result("B6: the next click of a session", data, params={SessionNeighbours.name: params})
    result.tables = {
        "All clicks": [_row(one, found, "rank", split, loaded.seed) for one in found],
        "New items": [_row(one, found, "rank_of_new", split, loaded.seed) for one in found],
        "Time of an answer": [_times(one) for one in found],
        "Published on other splits of the same log": published.SESSIONS,
    }
    result.checks = [_shuffled(found), *_leaked(split, index, loaded.seed)]
    result.metrics = {
        f"{one.system}.{name}{metric}": value
        for one in found
        for name, ranks in (("", one.rank), ("new.", one.rank_of_new))
        for metric, value in (("hr@20", _mean(hits(ranks))), ("mrr@20", _mean(reciprocal(ranks))))
    }
    result.headline = {name: round(result.metrics[f"{SERVED}.{name}"], 4) for name in ("hr@20", "new.hr@20")}
    return result


def systems(split: Split, index: SessionIndex) -> dict[str, Sequence[Answers]]:
    """The answers of each system by name; the one that knows the test's earlier sessions only where these have ids."""
    found: dict[str, Sequence[Answers]] = {
        f"{POPULAR} of all time": [popularity(split.training)],
        f"{POPULAR} of the last week": [popularity(split.training[-WEEK:])],
        RULES: [last_item_rules(split.training)],
        "co-visitation": [covisitation(split)],
        NEIGHBOURS: [partial(neighbours_scores, index)],
    }
    if split.session is not None:
        starts = range(0, len(split.prefixes), PER_BLOCK)
        extended = [index.extended([one.tolist() for one in split.sessions_before(start)]) for start in starts]
        found[f"{NEIGHBOURS} with those of the test so far"] = [partial(neighbours_scores, one) for one in extended]
    return found


def popularity(sessions: Sequence[Clicks]) -> Answers:
    """The most clicked items, whatever the clicks."""
    keys, n_clicks = np.unique(np.concatenate(sessions), return_counts=True)
    best = np.sort(np.argsort(-n_clicks, kind="stable")[:N_POPULAR])
    answer = keys[best].astype(np.int32), n_clicks[best].astype(np.float32)
    return lambda clicks: answer


def last_item_rules(sessions: Sequence[Clicks]) -> Answers:
    """Σ 1 / distance of what came after the last item within a session."""
    after: dict[int, dict[int, float]] = {}
    for session in sessions:
        keys = session.tolist()
        for place, key in enumerate(keys):
            of_key = after.setdefault(key, {})
            for distance, later in enumerate(keys[place + 1 : place + 1 + REACH], 1):
                of_key[later] = of_key.get(later, 0.0) + 1 / distance

    def answer(clicks: Clicks) -> tuple[Keys, Scores]:
        found = sorted(after.get(int(clicks[0]), {}).items())
        return np.array([key for key, _ in found], np.int32), np.array([value for _, value in found], np.float32)

    return answer


def covisitation(split: Split) -> Answers:
    """Co-visitation of the clicked items, one d clicks ago counting DECAY^d; never the clicked items themselves."""
    model = Covisitation().fit(split.events, split.catalogue)

    def answer(clicks: Clicks) -> tuple[Keys, Scores]:
        at = model.items.positions(clicks)
        ago = np.flatnonzero(at >= 0)
        own = np.zeros(len(model.items), np.float32)
        np.maximum.at(own, at[ago], DECAY**ago)
        rows = np.flatnonzero(own)
        scores = (model.near[rows].T @ own[rows]).astype(np.float32)
        found = np.flatnonzero(scores)
        return model.items.keys[found], scores[found]

    return answer


def hits(ranks: Floats) -> Floats:
    """1 where the target is among the first TOP_K, else 0; NaN stays."""
    return np.where(np.isnan(ranks), np.nan, ranks <= TOP_K)


def reciprocal(ranks: Floats) -> Floats:
    """1 / rank among the first TOP_K, else 0; NaN stays."""
    return hits(ranks) / ranks


def _row(one: Measured, found: Sequence[Measured], ranks: str, split: Split, seed: int) -> dict[str, Any]:
    """Figures with intervals, and paired differences to the rules."""
    rules = next(other for other in found if other.system == RULES)
    row: dict[str, Any] = {"system": one.system, "prefixes": int((~np.isnan(getattr(one, ranks))).sum())}
    for title, value_of in (("HR@20", hits), ("MRR@20", reciprocal)):
        values, reference = (value_of(getattr(each, ranks)) for each in (one, rules))
        low, high = _interval(values, split.session, seed)
        row |= {title: _mean(values), f"{title} low": low, f"{title} high": high}
        low, high = _interval(values - reference, split.session, seed)
        row |= {f"{title} - rules": _mean(values - reference), f"{title} from": low, f"{title} to": high}
    return row


def _times(one: Measured) -> dict[str, Any]:
    p50, p99 = np.quantile(one.seconds, (0.5, 0.99)) * 1e3
    return {"system": one.system, "p50 ms": float(p50), "p99 ms": float(p99)}


def _mean(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _interval(values: Floats, session: NDArray[np.int64] | None, seed: int) -> tuple[float, float]:
    """95 % interval of the mean over prefixes, by drawing whole sessions: the sum of their values over their number."""
    known = np.flatnonzero(~np.isnan(values))
    group = known if session is None else session[known]
    _, group = np.unique(group, return_inverse=True)
    n = np.bincount(group).astype(np.float64)
    low, high = relative_interval(np.bincount(group, values[known]).astype(np.float64), n, seed=seed, level=0.95)
    return 1 + low, 1 + high


def _shuffled(found: Sequence[Measured]) -> tuple[str, bool]:
    """With every prefix asked about another one's target nothing may be better than popularity, but for chance."""
    other = {one.system: _mean(hits(one.rank_of_other)) for one in found}
    level = max(value for name, value in other.items() if name.startswith(POPULAR))
    error = 3 * np.sqrt(max(level, 1e-4) / len(found[0].rank))
    text = f"targets shuffled over prefixes, HR@20: session neighbours {other[NEIGHBOURS]:.4f}, popularity {level:.4f}"
    return text, other[NEIGHBOURS] <= level + error


def _leaked(split: Split, index: SessionIndex, seed: int) -> list[tuple[str, bool]]:
    """With the sessions of the prefixes themselves in the index the figures must rise, or no leak would be seen."""
    if split.session is None:
        return []
    part = split.first(PER_BLOCK, len(split.training))
    whole = part.sessions_before(len(part.prefixes))
    indexes = {"as it is": index, "leaked": index.extended([one.tolist() for one in whole for _ in range(3)])}
    clean, leaked = (
        _mean(reciprocal(measured(name, part, [partial(neighbours_scores, one)], seed).rank_of_new))
        for name, one in indexes.items()
    )
    text = f"a leak planted, the sessions of {len(part.prefixes)} prefixes in the index: MRR@20 of new items "
    return [(f"{text}{leaked:.4f}, without {clean:.4f}", leaked > clean + 0.05)]
