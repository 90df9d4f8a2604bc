"""B6 as the service answers it: its own cascade, with what a night makes of the training sessions, asked by guests."""

from __future__ import annotations

import datetime as dt
import tempfile
import time
from pathlib import Path

import numpy as np

from recsys.candidates.als import Als
from recsys.candidates.covisitation import Covisitation
from recsys.candidates.popular import Popular
from recsys.serving import cascade, fold_in
from recsys.serving.catalogue import CategoryTree, ItemDictionary
from recsys.serving.config import DEFAULT, ServingConfig
from recsys.serving.core import StoredList
from recsys.serving.neighbours import NeighbourIndex
from recsys.serving.recent import EventMeaning, Events
from recsys.serving.snapshot import ALL_ITEMS, ListVersion, Publication, Query, Snapshot, UserState
from recsys.session_index import SessionIndex
from recsys.types import Catalogue, Interactions

N_NEIGHBOURS = 50  # in the i2i lists
N_POPULAR = 100  # in the default list
GAP_MS = 30_000  # between two clicks


def snapshot_of(history: Interactions, catalogue: Catalogue, sessions: SessionIndex | None) -> Snapshot:
    """What a worker holds of a night that knew these events: a default list, i2i lists, ALS, and `sessions`."""
    keys = catalogue.item_key
    with tempfile.TemporaryDirectory() as folder:
        Als().fit(history, catalogue).save(Path(folder))
        factors, fold = fold_in.read(Path(folder))
    near = Covisitation().fit(history, catalogue).similar(keys, N_NEIGHBOURS)
    there = zip(near.owner_key.tolist(), near.item_key, near.score, near.item_key >= 0, strict=True)
    neighbours = {key: (found[is_item], score[is_item]) for key, found, score, is_item in there}
    items = ItemDictionary("integer")
    for key in keys.tolist():
        items.add(key, str(key), None, True)
    top, score = Popular().fit(history, catalogue).top(N_POPULAR)
    return Snapshot(
        publication=_publication(),
        items=items,
        categories=CategoryTree("integer", {}, {}),
        lists={"default": {ALL_ITEMS: StoredList.of(top.tolist(), score.tolist(), [0] * len(top))}},
        user_id_type="integer",
        neighbours={"i2i": NeighbourIndex.of_lists(neighbours)},
        meaning=EventMeaning({"view": 1.0}, bought=()),
        factors=factors,
        fold_in=fold,
        sessions=sessions,
    )


def _publication() -> Publication:
    now = dt.datetime.now(dt.UTC)
    lists = {kind: ListVersion(1, kind, "", "", "", now, None, None, (kind,)) for kind in ("default", "i2i")}
    return Publication(1, 1, now, "published", "", models={}, checks={}, lists=lists)


def answer(
    snapshot: Snapshot, clicks: list[int], top_k: int, excluded: set[int], config: ServingConfig = DEFAULT
) -> tuple[list[int], float]:
    """The items for a guest with these clicks, newest first, and the seconds of processor time that it took."""
    times = [-GAP_MS * ago for ago in range(len(clicks))]
    user = UserState(recent=Events(clicks, ["view"] * len(clicks), times))
    begin = time.thread_time()
    picks = cascade.recommend(snapshot, user, Query(top_k, excluded=excluded), config)
    return [pick.item_key for pick in picks], time.thread_time() - begin


def rank_of(target: int, found: list[int]) -> float:
    """Place of the target, 1 for the best; infinite where it is not there."""
    return float(found.index(target) + 1) if target in found else np.inf
