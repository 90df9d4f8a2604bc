"""The next click in a session: protocol B6 on RetailRocket's sessions, beside plain rows.

    RECSYS_DATA_DIR=… python -m research.benchmarks.session_neighbours [--validation]

For each test prefix all items are ranked; HR@20 and MRR@20 of the next click, twice: *all clicks*, nothing masked; and
*new items*, prefixes whose target is not in them, with the prefix masked. p50 and p99 are of one answer, scores of all
items that it finds, in one thread; p99 also of its CPU time, which says more on a busy machine. With --validation the
last week of the training sessions takes the place of the test: parameters are chosen there. The sessions have no times
in training; they are spread evenly over the months before the test, in their order. Rows: what was clicked after
the last item, by 1 / distance; popularity of the last week; this project's co-visitation, a click d ago counting
0.6^d; session neighbours, once with defaults and once with the sessions of the test's week that were over before
(`extended`, every 500 prefixes).
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recsys.candidates.covisitation import Covisitation
from recsys.candidates.session_neighbours import SessionNeighbours
from recsys.session_index import neighbours_scores
from recsys.types import MICROSECONDS_PER_DAY, Catalogue, Interactions

TOP_K = 20
N_DAYS = 131  # of the training sessions
WEEK = 6_700  # sessions in the last of them
LEAST_PREFIX = 2  # as in the test
MOST_CLICKS = 50  # of a prefix
DECAY = 0.6
PER_BLOCK = 500  # prefixes between two extensions
Answer = tuple[NDArray[np.int32], NDArray[np.float32]]  # item keys ascending, scores > 0
Answers = Callable[[NDArray[np.int32]], Answer]  # from clicks, newest first


def events_of(sessions: Sequence[NDArray[np.int32]], n_days: float) -> Interactions:
    """A user for each session, sessions evenly spaced and their clicks a microsecond apart."""
    n_clicks = np.array([len(session) for session in sessions])
    session = np.repeat(np.arange(len(sessions)), n_clicks)
    item = np.concatenate(sessions).astype(np.int32)
    place = np.arange(len(item)) - np.repeat(np.cumsum(n_clicks) - n_clicks, n_clicks)
    at = (session * (n_days * MICROSECONDS_PER_DAY / len(sessions))).astype(np.int64) + place
    n = len(item)
    ones, nan = np.ones(n, np.float32), np.full(n, np.nan)
    cut_at = int(at[-1]) + 1
    return Interactions(session.astype(np.int32), item, np.zeros(n, np.int8), ones, at, session, nan, ("view",), cut_at)


def catalogue_of(events: Interactions) -> Catalogue:
    keys = np.unique(events.item_key)
    nowhere = np.full(len(keys), -1, dtype=np.int32)
    return Catalogue(keys, np.ones(len(keys), dtype=bool), nowhere, nowhere, np.zeros(len(keys), dtype=np.int64))


def last_item_rules(sessions: Sequence[NDArray[np.int32]]) -> Answers:
    """Σ 1 / distance of what came after the last item, within a session."""
    after: dict[int, dict[int, float]] = {}
    for session in sessions:
        keys = session.tolist()
        for place, key in enumerate(keys):
            of_key = after.setdefault(key, {})
            for distance, later in enumerate(keys[place + 1 : place + 11], 1):
                of_key[later] = of_key.get(later, 0.0) + 1 / distance

    def answer(clicks: NDArray[np.int32]) -> Answer:
        found = sorted(after.get(int(clicks[0]), {}).items())
        return np.array([key for key, _ in found], np.int32), np.array([value for _, value in found], np.float32)

    return answer


def popularity(sessions: Sequence[NDArray[np.int32]]) -> Answers:
    """Clicks of the last week."""
    keys, n_clicks = np.unique(np.concatenate(sessions[-WEEK:]), return_counts=True)
    best = np.sort(np.argsort(-n_clicks, kind="stable")[:500])
    return lambda clicks: (keys[best].astype(np.int32), n_clicks[best].astype(np.float32))


def covisitation(events: Interactions) -> Answers:
    model = Covisitation().fit(events, catalogue_of(events))

    def answer(clicks: NDArray[np.int32]) -> Answer:
        at = model.items.positions(clicks)
        ago = np.flatnonzero(at >= 0)
        own = np.zeros(len(model.items), np.float32)
        np.maximum.at(own, at[ago], DECAY**ago)
        rows = np.flatnonzero(own)
        scores = (model.near[rows].T @ own[rows]).astype(np.float32)
        found = np.flatnonzero(scores)
        return model.items.keys[found], scores[found]

    return answer


def rank_of(target: int, answer: Answer, masked: NDArray[np.int32]) -> float:
    """Place of the target in the ranking, 1 for the best; infinite where it is not ranked. Ties by key."""
    keys, scores = answer
    at = int(np.searchsorted(keys, target))
    if at == len(keys) or keys[at] != target or scores[at] <= 0:
        return np.inf
    allowed = ~np.isin(keys, masked)
    better = (scores > scores[at]) | ((scores == scores[at]) & (keys < target))
    return 1 + float((better & allowed).sum())


def row(name: str, prefixes: Sequence[NDArray[np.int32]], targets: NDArray[np.int32], answers: list[Answers]) -> None:
    """Print a row. One of `answers` is for all prefixes, several are for `PER_BLOCK` prefixes each."""
    ranks, new_ranks, seconds, cpu_seconds = [], [], [], []
    for number, (prefix, target) in enumerate(zip(prefixes, targets.tolist(), strict=True)):
        clicks = prefix[::-1][:MOST_CLICKS]
        begin, cpu_begin = time.perf_counter(), time.thread_time()
        answer = answers[number // PER_BLOCK if len(answers) > 1 else 0](clicks)
        seconds.append(time.perf_counter() - begin)
        cpu_seconds.append(time.thread_time() - cpu_begin)
        ranks.append(rank_of(target, answer, prefix[:0]))
        if target not in prefix:
            new_ranks.append(rank_of(target, answer, prefix))
    figures = [figure for each in (ranks, new_ranks) for figure in hit_rate_and_mrr(np.array(each))]
    p50, p99 = np.quantile(seconds, [0.5, 0.99]) * 1e3
    cpu_p99 = np.quantile(cpu_seconds, 0.99) * 1e3
    print(
        f"{name:32s}" + "".join(f"{figure:8.4f}" for figure in figures) + f"{p50:9.2f}{p99:8.2f}{cpu_p99:8.2f}",
        flush=True,
    )


def hit_rate_and_mrr(ranks: NDArray[np.float64]) -> tuple[float, float]:
    return float((ranks <= TOP_K).mean()), float(np.where(ranks <= TOP_K, 1 / ranks, 0.0).mean())


def split(folder: Path, validation: bool) -> tuple[list[NDArray[np.int32]], pd.DataFrame]:
    """Training sessions, and prefixes with targets in time order (columns prefix, target, session)."""
    sessions = pd.read_parquet(folder / "train_sessions.parquet")["items"].tolist()
    if not validation:
        return sessions, pd.read_parquet(folder / "test.parquet").rename(columns={"session_id": "session"})
    rows = [
        (session[:end], int(session[end]), number)
        for number, session in enumerate(sessions[-WEEK:])
        for end in range(len(session) - 1, LEAST_PREFIX - 1, -1)
    ]
    return sessions[:-WEEK], pd.DataFrame(rows, columns=["prefix", "target", "session"])


def sessions_so_far(examples: pd.DataFrame) -> list[list[NDArray[np.int32]]]:
    """For each block of prefixes, the sessions all of whose prefixes came before: the longest prefix and its target."""
    whole: dict[int, NDArray[np.int32]] = {}
    last_row: dict[int, int] = {}
    columns = [examples[name] for name in ("session", "prefix", "target")]
    for number, (session, prefix, target) in enumerate(zip(*columns, strict=True)):
        last_row[session] = number
        if len(prefix) >= len(whole.get(session, ())):
            whole[session] = np.append(prefix, target)
    in_order = sorted(last_row, key=lambda session: last_row[session])
    return [
        [whole[session] for session in in_order if last_row[session] < start]
        for start in range(0, len(examples), PER_BLOCK)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--validation", action="store_true", help="on the last week of training")
    parser.add_argument("--only-neighbours", action="store_true", help="without the plain rows")
    args = parser.parse_args()
    sessions, examples = split(Path(os.environ["RECSYS_DATA_DIR"]) / "retailrocket-sessions", args.validation)
    prefixes, targets = examples["prefix"].tolist(), examples["target"].to_numpy(np.int32)
    events = events_of(sessions, N_DAYS * (len(sessions) / (len(sessions) + WEEK * args.validation)))
    print(f"{len(sessions):,} sessions, {len(prefixes):,} prefixes")
    print("HR and MRR of all clicks, of new items; p50, p99 and p99 of CPU time in ms")
    if not args.only_neighbours:
        row("rules of the last item", prefixes, targets, [last_item_rules(sessions)])
        row("popularity of the last week", prefixes, targets, [popularity(sessions)])
        row("co-visitation", prefixes, targets, [covisitation(events)])
    begin = time.perf_counter()
    index = SessionNeighbours().fit(events, catalogue_of(events)).index
    fitted_s = time.perf_counter() - begin
    row("session neighbours", prefixes, targets, [partial(neighbours_scores, index)])
    blocks = sessions_so_far(examples)
    extended = [index.extended(so_far) for so_far in blocks]
    row("with the week's sessions so far", prefixes, targets, [partial(neighbours_scores, each) for each in extended])
    n_bytes = sum(values.nbytes for values in index.arrays().values())
    print(f"fitted in {fitted_s:.1f} s, {n_bytes / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
