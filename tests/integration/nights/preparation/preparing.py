"""A small shop, and what is done to it, for tests of the preparation of data sets."""

from __future__ import annotations

import asyncio
import datetime as dt
from pathlib import Path

import sqlalchemy as sa

from fast_api_service.catalogue import erasure
from fast_api_service.catalogue.repository import CatalogueStore, Change
from fast_api_service.postgres.write_pool import Writable
from recsys.artifacts import ArtifactStore
from recsys.events.event import parse
from recsys.events.postgres_log import PostgresLog
from recsys.settings import Settings
from recsys.steps import import_raw
from recsys.steps.context import Context
from recsys.storage.engine import url_of
from recsys.tracking import Tracker
from tests.integration import connected

DAY_MS = 86_400_000
START_MS = 1_433_000_000_000
LATE_MS = START_MS + 31 * 3_600_000  # the last event that write_shop writes


def write_shop(folder: Path, *, n_items: int = 8, first_day: int = 0, part: int = 1) -> Path:
    """Four users view and buy items 0 … n_items, one event an hour, from `first_day` on."""
    folder.mkdir(parents=True, exist_ok=True)
    lines, properties = ["timestamp,visitorid,event,itemid,transactionid"], ["timestamp,itemid,property,value"]
    for i in range(4 * n_items):
        at = START_MS + first_day * DAY_MS + i * 3_600_000
        event, order = ("transaction", str(i)) if i % 4 == 0 else ("view", "")
        lines.append(f"{at},{100 + i % 4},{event},{i % n_items},{order}")
    for item in range(n_items):
        at = START_MS + first_day * DAY_MS
        properties += [
            f"{at},{item},categoryid,{item % 2 + 5}",
            f"{at},{item},available,1",
            f"{at},{item},790,n{item}.5",
        ]
        properties += [f'{at},{item},888,say "hi" \\ é']
    (folder / f"events_{part}.csv").write_text("\n".join(lines) + "\n")
    (folder / f"item_properties_part{part}.csv").write_text("\n".join(properties) + "\n")
    (folder / "category_tree.csv").write_text("categoryid,parentid\n5,1\n6,1\n1,\n")
    return folder


def context(engine: sa.Engine, folder: Path) -> Context:
    """What steps need, all in one folder."""
    settings = Settings(artifact_root=str(folder / "artifacts"), local_dir=folder, _env_file=None)
    tracker = Tracker(f"sqlite:///{folder / 'mlflow.db'}", str(folder / "mlflow"))
    return Context(settings, engine, ArtifactStore(settings.artifact_root), tracker)


def load(ctx: Context, path: Path, **kwargs: object) -> None:
    """Import a shop."""
    quarantine = ctx.settings.local_dir / "quarantine"
    import_raw.run("retailrocket", path, engine=ctx.engine, quarantine_dir=quarantine, **kwargs)


def keys_of(ctx: Context, table: sa.Table) -> dict[str, int]:
    key, id_ = list(table.c)[:2]
    with ctx.engine.connect() as connection:
        return {row[1]: row[0] for row in connection.execute(sa.select(key, id_))}


def put_objects(ctx: Context, *changes: Change, delete: int | None = None, erase_user: int | None = None) -> list[str]:
    """What the shop says by API; what became of each object."""

    async def say() -> list[str]:
        writes = Writable(url_of(ctx.engine))
        await writes.open()
        store = CatalogueStore(writes)
        outcomes = await store.put(changes) if changes else []
        if delete is not None:
            assert await store.delete("item", delete) == (delete, True)
        if erase_user is not None:
            await erasure.erase(writes, erase_user)
        await writes.close()
        return [outcome.result or outcome.reason for outcome in outcomes]

    return asyncio.run(say())


def post(ctx: Context, *rows: tuple[str, str | None, str, str, int], **more: object) -> None:
    """Put events (id, user, item, type, milliseconds) into the log as the service does."""
    samples = [
        {"event_id": name, "user_id": user, "session_id": "s", "item_id": item, "event_type": kind}
        | {"timestamp": dt.datetime.fromtimestamp(ms / 1000, dt.UTC)}
        | more
        for name, user, item, kind, ms in rows
    ]
    last = dt.datetime.fromtimestamp(max(row[4] for row in rows) / 1000, dt.UTC)
    events, rejected = parse([{k: v for k, v in one.items() if v is not None} for one in samples], last)
    assert not rejected

    connected.run(
        url_of(ctx.engine), lambda connections: PostgresLog(connections).append([event for _, event in events])
    )
