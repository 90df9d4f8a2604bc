"""DeepFM on replayed events, by the updater's own trainer: each event is predicted before it is learned."""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recsys.candidates.deepfm import DeepFm
from recsys.candidates.deepfm_serving import write_for_serving
from recsys.evaluation.metrics import Values
from recsys.events.event import Event
from recsys.settings import UpdaterSettings
from recsys.types import Catalogue, Interactions
from recsys.updater.examples import Known
from recsys.updater.trainer import Trainer
from recsys.updater.validation import COLUMNS

logger = logging.getLogger(__name__)

FROZEN, UPDATED, REPLAY, RETRAINED = "frozen", "updated, without replay buffer", "updated", "trained anew each period"
_UPDATED_COLUMNS = [COLUMNS.index(name) for name in ("auc", "logloss", "mean", "target")]
_FROZEN_COLUMNS = [COLUMNS.index(name) for name in ("frozen_auc", "frozen_logloss", "frozen_mean", "target")]


@dataclass(frozen=True)
class Progressive:
    """How one model predicted each replayed event, in order, and what it cost to learn them."""

    system: str
    auc: Values  # (n_events,): share of sampled items below the event's own
    logloss: Values
    predicted: Values  # mean probability of the event's item and the sampled ones, which weigh the same
    observed: Values
    seconds: float  # of processor time, for what was learned after the night


def progressive(
    events: Interactions,
    cut_at: int,
    starts: Sequence[int],
    catalogue: Catalogue,
    weight_by_type: Mapping[str, float],
    folder: Path,
    params: Mapping[str, Any],
) -> list[Progressive]:
    """The model of the night before `cut_at`: frozen, updated without and with replay, trained anew by period.

    `events` have positive weights; `starts`: instants in microseconds, the first one `cut_at`; `params`: of `DeepFm`.
    """
    _train(events, cut_at, catalogue, folder / "night", params)
    known = stream(events.between(cut_at, events.cut_at), catalogue)
    found: list[Progressive] = []
    for system, share in ((UPDATED, 0.0), (REPLAY, UpdaterSettings().replay_share)):
        judged, seconds = _learned(folder / "night", known, weight_by_type, UpdaterSettings(replay_share=share))
        if not found:
            found.append(_of(FROZEN, judged[:, _FROZEN_COLUMNS], 0.0))
        found.append(_of(system, judged[:, _UPDATED_COLUMNS], seconds))
    parts, total = [judged[: _first(known, starts[1]), _FROZEN_COLUMNS]] if len(starts) > 1 else [], 0.0
    for place, start in enumerate(starts[1:], 1):
        at = folder / f"period-{place}"
        total += _train(events, start, catalogue, at, params)
        last = _first(known, starts[place + 1]) if place + 1 < len(starts) else len(known)
        part = known[_first(known, start) : last]
        parts.append(_learned(at, part, weight_by_type, UpdaterSettings())[0][:, _FROZEN_COLUMNS])
    return [*found, _of(RETRAINED, np.concatenate(parts), total)] if parts else found


def stream(events: Interactions, catalogue: Catalogue) -> list[Known]:
    """Events as the updater gets them from the log."""
    at = catalogue.positions(events.item_key)
    categories = np.stack([catalogue.category_key, catalogue.parent_category_key], axis=1)[at]
    epoch = dt.datetime.fromtimestamp(0, dt.UTC)
    label = [None] * len(events) if events.label is None else events.label.tolist()
    columns = (events.user_key, events.item_key, events.event_type, events.occurred_at, categories)
    return [
        Known(
            _event(str(user), str(item), events.event_types[kind], epoch + dt.timedelta(microseconds=moment), of_event),
            user,
            item,
            category,
            parent,
        )
        for user, item, kind, moment, (category, parent), of_event in zip(
            *(one.tolist() for one in columns), label, strict=True
        )
    ]


def _event(user: str, item: str, kind: str, at: dt.datetime, label: float | None) -> Event:
    return Event("", None, None, user, None, item, kind, at, label, b"{}", b"{}", None, b"")


def _first(known: Sequence[Known], start: int) -> int:
    """Position of the first event at `start` (microseconds) or later."""
    instant = dt.datetime.fromtimestamp(0, dt.UTC) + dt.timedelta(microseconds=start)
    return sum(one.event.occurred_at < instant for one in known)


def _train(events: Interactions, cut_at: int, catalogue: Catalogue, folder: Path, params: Mapping[str, Any]) -> float:
    """Train as at night on what was before `cut_at`, write what is served; seconds of processor time to train."""
    begin = time.process_time()
    model = DeepFm(**params).fit(events.before(cut_at), catalogue)
    seconds = time.process_time() - begin
    folder.mkdir()
    write_for_serving(model, folder)
    return seconds


def _learned(
    folder: Path, known: Sequence[Known], weight_by_type: Mapping[str, float], options: UpdaterSettings
) -> tuple[Any, float]:
    """What the trainer noted of each event, (n, len(COLUMNS)), and the seconds of processor time that it took."""
    trainer = Trainer(folder, weight_by_type, options)
    begin = time.process_time()
    judged = []
    for number, start in enumerate(range(0, len(known), options.batch_events), 1):
        trainer.learn(known[start : start + options.batch_events], number)
        judged.append(trainer.judged)
        trainer.committed()
    logger.info("%s: %d events learned", folder.name, len(known))
    return np.concatenate(judged), time.process_time() - begin


def _of(system: str, judged: Any, seconds: float) -> Progressive:
    auc, logloss, predicted, observed = judged.astype(np.float64).T
    return Progressive(system, auc, logloss, predicted, observed, seconds)
