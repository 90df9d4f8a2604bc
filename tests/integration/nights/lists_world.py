"""A small shop with lists of every kind, for tests of publications, in this process and in others.

All lists of one edition carry its number as their first score, so a reader can tell editions apart.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import sqlalchemy as sa

from recsys.storage import lists as list_store
from recsys.storage import publications
from recsys.storage.engine import engine_of, with_patience
from recsys.storage.lists import ListVersion
from recsys.storage.publications import Publication
from recsys.storage.tables import items
from recsys.types import Lists

N_ITEMS = 60
LENGTH = 20
KINDS = ("default", "personal", "similar")
READ = sa.text(
    """
    select p.publication_id, (p.models ->> 'edition')::int as edition, m.key as kind, l.scores[1]::int as found,
           cardinality(l.item_keys) as length
    from publication_pointer join publications p using (publication_id), jsonb_each_text(p.manifest) m
    left join lists l on l.list_version_id = m.value::bigint and l.owner_key = :owner
    """
)


def add_items(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(
            sa.insert(items), [{"item_key": key, "item_id": f"item {key}"} for key in range(1, N_ITEMS + 1)]
        )


def execute(engine: sa.Engine, statement: str, **values: object) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text(statement), values)


def partitions(engine: sa.Engine) -> set[int]:
    with engine.connect() as connection:
        names = connection.scalars(sa.text("select relname from pg_class where relname ~ '^lists_[0-9]+$'"))
        return {int(name.removeprefix("lists_")) for name in names}


def make(edition: int, n_owners: int = 200, n_items: int = N_ITEMS, block: int = 50) -> Iterator[Lists]:
    """Lists for the owners 0 … n_owners − 1 in blocks; the same for the same edition."""
    rng = np.random.default_rng(edition)
    for start in range(0, n_owners, block):
        owner = np.arange(start, min(start + block, n_owners), dtype=np.int32)
        item = (1 + np.argsort(rng.random((len(owner), n_items)), axis=1)[:, :LENGTH]).astype(np.int32)
        score = np.tile(edition - np.arange(item.shape[1], dtype=np.float32) / 100, (len(owner), 1))
        yield Lists(owner, item, score.astype(np.float32), np.zeros(item.shape, dtype=np.int16))


def write(engine: sa.Engine, kind: str, edition: int, version: str | None = None, **world: int) -> ListVersion:
    return list_store.write(
        engine,
        kind,
        version or f"edition-{edition}",
        lambda: make(edition, **world),
        dataset=f"dataset/{edition}",
        made_by="test",
        sources=["als"],
    )


def publish(engine: sa.Engine, edition: int, fence: int | None = None, **world: int) -> Publication:
    """Write and publish all kinds of an edition."""
    if fence is None:
        fence = publications.read_fence(engine)
    manifest = {kind: write(engine, kind, edition, **world).list_version_id for kind in KINDS}
    return publications.publish(engine, manifest, fence, dataset=f"dataset/{edition}", models={"edition": str(edition)})


def contents(engine: sa.Engine, version: ListVersion) -> list[tuple[object, ...]]:
    """All stored rows of a version."""
    with engine.connect() as connection:
        rows = connection.execute(
            sa.text(
                "select owner_key, item_keys, scores::float8[], sources from lists"
                " where list_version_id = :id order by owner_key"
            ),
            {"id": version.list_version_id},
        )
        return [tuple(row) for row in rows]


def read_for_ever(url: str) -> None:
    """Read what the pointer points to, over and over; a line per look that was not whole, a dot per new publication."""
    engine = engine_of(url)
    last = None
    rng = np.random.default_rng(0)
    with engine.connect() as connection:
        print("reading", flush=True)
        while True:
            rows = connection.execute(READ, {"owner": int(rng.integers(0, 200))}).all()
            connection.rollback()
            wrong = [tuple(row) for row in rows if (row.found, row.length) != (row.edition, LENGTH)]
            if wrong or {row.kind for row in rows} != set(KINDS):
                print(f"torn: {rows}", flush=True)
            if rows and rows[0].publication_id != last:
                last = rows[0].publication_id
                print(f"saw {last}", flush=True)


def main() -> None:
    what, url, *rest = sys.argv[1:]
    if what == "read":
        read_for_ever(url)
    engine = engine_of(url)
    if what == "write":
        kind, edition, n_owners = rest
        print("writing", flush=True)
        write(engine, kind, int(edition), n_owners=int(n_owners))
    elif what == "publish":
        print("publishing", flush=True)
        publish(engine, int(rest[0]))
    elif what == "patient":
        first, n, patience_s = rest
        print("publishing", flush=True)
        for edition in range(int(first), int(first) + int(n)):
            with_patience(lambda edition=edition: publish(engine, edition), float(patience_s))
            print(f"published {edition}", flush=True)


if __name__ == "__main__":
    main()
