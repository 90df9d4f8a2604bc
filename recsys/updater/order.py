"""The order in which the events of an update are learned."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from recsys.events.event import Event
from recsys.events.kafka.message import key_of


def in_order(events: Sequence[Event]) -> list[Event]:
    """Events by time, but those of one user in the order of the log.

    The interleaving of Kafka partitions is not deterministic: an updater that resumes the updates of another reads the
    same events, perhaps interleaved differently, and must learn them in the same order.
    """
    latest_by_key: dict[bytes, dt.datetime] = {}
    placed: list[tuple[dt.datetime, bytes, Event]] = []
    for event in events:
        key = key_of(event)
        at = latest_by_key[key] = max(event.occurred_at, latest_by_key.get(key, event.occurred_at))
        placed.append((at, key, event))
    placed.sort(key=lambda one: one[:2])
    return [event for _, _, event in placed]
