"""Builds the input of the model in service from requests: users with their events and features, and items."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from starlette.types import Scope

from fast_api_service.batching import MicroBatcher
from fast_api_service.errors import ApiError
from fast_api_service.postgres.away import DatabaseAwayError
from fast_api_service.recommend import service
from fast_api_service.recommend.repository import UserRow
from fast_api_service.runtime.in_service import InService
from fast_api_service.runtime.model_loader import INLINE, LoadedModel, category_of
from fast_api_service.runtime.state import State
from recsys.features.deepfm_fields import Floats
from recsys.serving.config import ServingConfig, Surface
from recsys.serving.ids import ExternalId, JsonType, to_external
from recsys.serving.model_state import Asker, Moment
from recsys.serving.scorer import Scorer
from recsys.serving.snapshot import Score, Snapshot, UserState

log = logging.getLogger(__name__)
MODEL_PART, USERS_PART = "model", "users"  # parts that may be missing
_READING_SHARE = 0.6  # of the time until the deadline; the rest is for scoring
_INLINE_USERS = 50


class Pairs(NamedTuple):
    """Pairs of one request."""

    askers: list[Asker]
    asker_of_pair: NDArray[np.int32]  # positions in `askers`, (n_pairs,)
    item_keys: NDArray[np.int64]  # -1 for unknown items, (n_pairs,)


class Scored(NamedTuple):
    """Probabilities of pairs, and which users and items have no row in the model."""

    probabilities: list[float]
    is_unknown_user: NDArray[np.bool_]  # by asker: no row of their own in the model, and no events
    is_known_by_events: NDArray[np.bool_]  # by asker: events, and no row of their own
    is_unknown_item: NDArray[np.bool_]  # by pair: no row of its own in the model


def in_service(state: State) -> tuple[InService, LoadedModel]:
    """The current state and its model; ApiError 503 `model_unavailable` if one is missing."""
    now = state.now
    if now is None or now.model is None:
        problem = state.problem if now is None else state.models.problem
        raise ApiError(503, "model_unavailable", f"no model is loaded, /recommend goes on without: {problem}", 5)
    return now, now.model


def ids_of(values: Sequence[ExternalId], json_type: JsonType, entity: str) -> list[ExternalId]:
    """Ids in the catalogue's JSON type; InputError for one that does not fit."""
    own = int if json_type == "integer" else str
    if set(map(type, values)) == {own}:
        return list(values)
    return [value if type(value) is own else to_external(value, json_type, entity) for value in values]


async def read_users(
    scope: Scope, state: State, snapshot: Snapshot, user_ids: Sequence[ExternalId], deadline_ms: float | None
) -> tuple[Sequence[UserRow], list[str]]:
    """Keys and recent events of users, and the parts that could not be read in time."""
    settings = state.settings
    limit_ms = settings.deadline_ms if len(user_ids) <= _INLINE_USERS else settings.batch_deadline_ms
    timeout_s = service.time_left_s(scope, min(deadline_ms or limit_ms, limit_ms)) * _READING_SHARE
    try:
        read = await state.database.reads.users([(str(user_id), None) for user_id in user_ids], timeout_s)
    except DatabaseAwayError:
        missing = service.degraded(snapshot, USERS_PART, service.RECENT_EVENTS)
        return [UserRow(None)] * len(user_ids), missing
    return read, service.degraded(snapshot)


def askers(config: ServingConfig, users: Sequence[UserRow], features: Mapping[str, int]) -> list[Asker]:
    """Users as input of the model."""
    use_latest = config.use_latest_events
    return [Asker(user.user_key, user.recent if use_latest else (), features) for user in users]


async def score(now: InService, model: LoadedModel, pairs: Pairs) -> Scored:
    """Probabilities of pairs, batched with those of concurrent requests; many pairs are scored in a thread, so that
    other requests are not blocked."""

    if len(pairs.item_keys) <= INLINE and len(pairs.askers) <= _INLINE_USERS:
        model.batcher = model.batcher or _batcher()
        batched: Scored = await model.batcher.get(_Job(now, model, pairs))
        return batched
    [found] = await asyncio.to_thread(_scored, now, model.scorer, [pairs])
    return found


class _Job(NamedTuple):
    now: InService
    model: LoadedModel
    pairs: Pairs


async def _score_jobs(jobs: Sequence[_Job]) -> list[Scored]:
    found = _scored(jobs[0].now, jobs[0].model.scorer, [job.pairs for job in jobs])
    await asyncio.sleep(0)  # let other tasks run before the next batch
    return found


def _batcher() -> MicroBatcher[_Job, Scored]:
    def has_same_state(jobs: Sequence[_Job], job: _Job) -> bool:
        return jobs[0].now is job.now

    return MicroBatcher(_score_jobs, INLINE, size=lambda job: len(job.pairs.item_keys), may_join=has_same_state)


def _scored(now: InService, scorer: Scorer, batch: Sequence[Pairs]) -> list[Scored]:
    """One call of the network: with a hundred pairs, the overhead of each operation exceeds its computation."""
    askers = [asker for one in batch for asker in one.askers]
    users, pairs = (
        list(accumulate(map(len, each), initial=0))
        for each in ([one.askers for one in batch], [one.item_keys for one in batch])
    )
    of_pair = np.concatenate([one.asker_of_pair + first for one, first in zip(batch, users, strict=False)])
    rows = scorer.state.item_rows(np.concatenate([one.item_keys for one in batch]), category_of(now.snapshot))
    found = shown(scorer.probabilities(askers, of_pair.astype(np.int32, copy=False), rows, moment(now)))
    is_unknown_user, is_known_by_events = without_row(scorer, askers)
    is_unknown_item = rows[:, 0] == 0
    return [
        Scored(
            found[pair:next_pair],
            is_unknown_user[user:next_user],
            is_known_by_events[user:next_user],
            is_unknown_item[pair:next_pair],
        )
        for (user, next_user), (pair, next_pair) in zip(pairwise(users), pairwise(pairs), strict=True)
    ]


def without_row(scorer: Scorer, askers: Sequence[Asker]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which users have no row of their own in the model: masks of those without events, and of those with events."""
    keys = [asker.user_key for asker in askers]
    has_none = scorer.state.user_rows(keys) == 0
    has_events = scorer.state.has_history(keys) | np.array([len(asker.recent) > 0 for asker in askers], dtype=bool)
    return has_none & ~has_events, has_none & has_events


def shown(probabilities: Floats) -> list[float]:
    """Rounded to six decimals, the precision of float32."""
    rounded: list[float] = probabilities.astype(np.float64).round(6).tolist()
    return rounded


def moment(now: InService) -> Moment:
    """The current time, and the weights of events."""
    return Moment(time.time() * 1000, now.snapshot.meaning.under(now.config).weights)


class Feats(NamedTuple):
    """The features of a request, and what is reported in its response."""

    given: Mapping[str, Any]
    warnings: list[str]
    degraded: list[str]
    rescored_by: list[str]  # the model's artifact, if it scored

    def lack_model(self) -> None:
        """Report that the response is made without the model, once."""
        if MODEL_PART not in self.degraded:
            self.degraded.append(MODEL_PART)


def rescoring(now: InService, user: UserState, user_key: int | None, surface: Surface, feats: Feats) -> UserState:
    """The user with a function that scores items by the model, where the surface is configured to `rescore`.

    Features that cannot be used are added to the warnings. `model` is added to the degraded parts if there is no model,
    or it fails, and the cascade fuses instead; and while the previous publication's model scores.
    """
    config, loaded = now.config.by_surface[surface], now.model
    if config.blend != "rescore" or "lists" not in config.sources:
        if feats.given:
            feats.warnings.append(f"user_feats: not used, surface {surface} is not rescored by the model (see /config)")
        return user
    if loaded is None:
        feats.lack_model()
        if feats.given:
            feats.warnings.append("user_feats: not used, no model is loaded")
        return user
    if not now.is_own_model:
        feats.lack_model()
    features, more = loaded.scorer.read_features(feats.given)
    feats.warnings.extend(more)
    at = moment(now)
    seen = user.recent
    if user.seq is not None:  # viewed just now, in this order
        seen = [event._replace(occurred_ms=int(at.now_ms) - place) for place, event in enumerate(user.seq)]
    asker = Asker(user_key, seen if now.config.use_latest_events else (), features)
    return user._replace(score=_score_of(loaded, now.snapshot, asker, at, feats))


def _score_of(loaded: LoadedModel, snapshot: Snapshot, asker: Asker, now: Moment, feats: Feats) -> Score:
    def probabilities(item_keys: Sequence[int]) -> Sequence[float] | None:
        try:
            rows = loaded.scorer.state.item_rows(item_keys, category_of(snapshot))
            of_pair = np.zeros(len(item_keys), dtype=np.int32)
            found = shown(loaded.scorer.probabilities([asker], of_pair, rows, now))
        except Exception:  # any error: the lists can do without
            log.exception("the model %s could not score", loaded.served_as)
            feats.lack_model()
            return None
        feats.rescored_by.append(loaded.artifact)
        return found

    return probabilities
