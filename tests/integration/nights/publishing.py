"""A publisher for tests that kill it: edition after edition, each with lists that tell it from all others.

`python -m tests.integration.nights.publishing URL` publishes until it is ended.
"""

from __future__ import annotations

import sys
import time

import sqlalchemy as sa

from recsys.storage.engine import engine_of, with_patience
from recsys.storage.tables import publications
from tests.integration import serving_shop as shop

ITEMS = sorted(set(range(1, 61)) - shop.UNAVAILABLE)
OWNERS = range(61, 81)  # users (ids 561 to 580) who do nothing, so that they get their lists as they are
LENGTH = 20


def items_of(edition: int, owner: int) -> list[int]:
    """Item keys of an owner's list in an edition, best first."""
    start = (edition * 7 + owner) % len(ITEMS)
    return (ITEMS[start:] + ITEMS[:start])[:LENGTH]


def publish(engine: sa.Engine, model: str) -> int:
    """Publish the next edition; its number."""
    with engine.connect() as connection:
        last = connection.execute(sa.select(sa.func.max(publications.c.publication_id))).scalar_one() or 0
    edition = int(last) + 1
    lists = {"default": {0: ITEMS[:10]}, "personal": {owner: items_of(edition, owner) for owner in OWNERS}}
    shop.publish(engine, f"edition-{edition}-{time.time_ns()}", lists, {"deepfm": model, "edition": f"e/{edition}"})
    return edition


def main() -> None:
    url, model = sys.argv[1:]
    engine = engine_of(url)
    while True:
        print(with_patience(lambda: publish(engine, model), 120), flush=True)
        time.sleep(0.5)


if __name__ == "__main__":
    main()
