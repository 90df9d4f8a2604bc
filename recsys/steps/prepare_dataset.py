"""Prepare a data set from raw tables and posted events: give keys, write it, bring the catalogue up to date."""

from __future__ import annotations

import datetime as dt
import logging
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa

from recsys.artifacts import version_of
from recsys.data import checks
from recsys.data.dataset import Dataset, instant, microseconds
from recsys.data.keys import KnownKeys
from recsys.data.posted import AFTER_GAP, MIN_AFTER_GAP, NO_WEIGHT, end_of_posted
from recsys.data.prepare import prepare
from recsys.data.raw import Declared, RawTables
from recsys.errors import EmptyResultError, ImportUnderWayError, InputError
from recsys.settings import Settings
from recsys.steps.context import Context, step
from recsys.storage import keys
from recsys.storage.engine import migrate
from recsys.storage.raw_snapshot import RawSnapshot, raw_snapshot
from recsys.storage.tables import training_runs
from recsys.types import Task

logger = logging.getLogger(__name__)

STEP = "prepare_dataset"
KIND = "dataset"
CODE_VERSION = 3  # raise it when the same raw tables come to mean another data set
MEMORY_LIMIT = "2GB"  # DuckDB's; beyond it, it spills
DAY_MS = 86_400_000
_NOT_CONTENT = ("completed_at", "path")  # an import that found everything loaded changes them
_ENTITIES = {"items": "item", "users": "user", "categories": "category"}


@step
def run(as_of: str | None = None, force: bool = False, *, ctx: Context | None = None) -> dict[str, Any]:
    """Prepare everything strictly before `as_of` (ISO 8601, UTC unless it says otherwise; all when None).

    The cut-off is never later than just after the last event, and rows of erased users are left out. The same raw
    tables, posted events and cut-off give the same data set, found again unless `force`; `force` also accepts a data
    set that lost much against the former one.
    Raises InputError for an unreadable `as_of`, ImportUnderWayError for an unfinished import, EmptyResultError (and
    records the refusal) when the data cannot be true.
    """
    ctx = ctx or Context.open()
    migrate(ctx.engine)
    with raw_snapshot(ctx.engine) as snapshot, ctx.engine.begin() as connection:
        keys.lock(connection)
        imports = _finished_imports(snapshot)
        n_events, last_seq, last_ms = snapshot.events()
        if last_ms is None:
            raise EmptyResultError("there are no raw events; run `recsys import SOURCE PATH` first")
        declared = _declared(imports, ctx.settings)
        asked = _parse(as_of)
        posted = _posted(snapshot, declared, last_ms, asked, ctx.settings.label_window_days)
        cut_at = min(asked, (max(last_ms, posted.last_ms) + 1) * 1000)
        erased = keys.erased(connection)
        ingredients = {
            "cut_at": cut_at,
            "imports": [{k: v for k, v in row.items() if k not in _NOT_CONTENT} for row in imports],
            "events": [n_events, last_seq],
            "posted": [posted.n, posted.position],  # of those that may count: what is left out changes nothing
            "told": snapshot.told(-(-cut_at // 1000)),
            "declared": asdict(declared),
            "erased": sorted(erased),
            "code": CODE_VERSION,
        }
        version = version_of(instant(cut_at), ingredients)
        former = ctx.newest(STEP)

        def make(folder: Path, meta: dict[str, Any]) -> None:
            dataset = _prepare(folder, snapshot, declared, cut_at, connection, erased, _complete_until(imports), posted)
            _check(ctx, dataset, None if force else former)
            # Before the artifact is there: a run that is killed in between gives the same keys again.
            _store(ctx, dataset)
            meta.update(as_of=dataset.meta.as_of_at.isoformat(), source=dataset.meta.source, n_rows=dataset.meta.n_rows)
            meta.update(n_events_from=dataset.meta.n_events_from)

        ref = f"{KIND}/{version}"
        try:
            _, made = ctx.store.get_or_make(KIND, version, make, made_by=STEP, force=force)
        except EmptyResultError as error:
            ctx.record(STEP, ref, None, as_of=cut_at, status="refused", reason=str(error))
            raise
    told = ctx.dataset(ref)[1].meta
    left_out = dict(told.n_posted_left_out) | ({AFTER_GAP: posted.n_after_gap} if posted.n_after_gap else {})
    counts = {f"n_{name}": n for name, n in told.n_rows.items()} | {"n_posted": told.n_events_from.get("posted", 0)}
    ctx.record(STEP, ref, ref, as_of=cut_at, metrics=counts | {"n_posted_left_out": sum(left_out.values())})
    _tell(left_out)
    return {
        "dataset": ref,
        "as_of": instant(cut_at).isoformat(),
        "made": made,
        "n_rows": dict(told.n_rows),
        "n_events_from": dict(told.n_events_from),
        "n_posted_left_out": left_out,
    }


class _Posted(NamedTuple):
    """What the log holds for a data set."""

    n: int
    position: int
    last_ms: int  # 0: no event of a type that counts
    before_ms: int  # later ones are left out
    n_after_gap: int


def _posted(snapshot: RawSnapshot, declared: Declared, last_ms: int, asked: int, gap_days: float) -> _Posted:
    """`last_ms`: the last imported event; `asked`: the cut-off that was asked for, in microseconds."""
    before_ms = -(-asked // 1000)
    islands = snapshot.islands(declared.event_types, last_ms, before_ms, int(gap_days * DAY_MS))
    end, n_after_gap = end_of_posted(islands)
    before_ms = before_ms if end is None else end
    n, position, last = snapshot.posted(declared.event_types, before_ms)
    return _Posted(n, position, last or 0, before_ms, n_after_gap)


def _tell(left_out: dict[str, int]) -> None:
    """Say what of the log is not in the data set, and how to have it in."""
    for reason, n in left_out.items():
        mend = ""
        if reason.startswith(NO_WEIGHT):
            mend = "; to count them, give the type a weight (RECSYS_EVENT_WEIGHTS)"
        elif reason == AFTER_GAP:
            mend = f"; they count once they are {MIN_AFTER_GAP:,}"
        logger.info("posted events left out, %s: %d%s", reason, n, mend)


def _prepare(
    folder: Path,
    snapshot: RawSnapshot,
    declared: Declared,
    cut_at: int,
    connection: sa.Connection,
    erased: frozenset[str],
    complete_until: int | None,
    posted: _Posted,
) -> Dataset:
    known = KnownKeys(**{entity: keys.known_keys(connection, entity) for entity in _ENTITIES})
    with tempfile.TemporaryDirectory(prefix="recsys-raw-") as raw_folder:
        before_ms = -(-cut_at // 1000)
        raw = RawTables(**snapshot.export(Path(raw_folder), before_ms, min(before_ms, posted.before_ms)))
        return prepare(
            folder,
            raw,
            declared,
            cut_at,
            known=known,
            erased=erased,
            complete_until=complete_until,
            memory_limit=MEMORY_LIMIT,
        )


def _check(ctx: Context, dataset: Dataset, former: str | None) -> None:
    found = checks.problems(dataset, now=dt.datetime.now(dt.UTC))
    if former is not None and ctx.store.exists(former):
        found += checks.losses(dataset, ctx.dataset(former)[1])
    checks.require(found)


def _store(ctx: Context, dataset: Dataset) -> None:
    """Give the keys; the rest of the catalogue follows unless a later data set has brought it further."""
    with ctx.engine.begin() as connection:
        newest = not _is_older(connection, dataset.meta.as_of)
        keys.store_id_types(connection, dataset.meta.id_types)
        for entity in ("categories", "items", "users"):
            n_written = keys.store(connection, entity, dataset.table(entity), update=newest)
            logger.info("%s: %d rows written", entity, n_written)


def _parse(as_of: str | None) -> int:
    if as_of is None:
        return 2**62
    try:
        at = dt.datetime.fromisoformat(as_of)
    except ValueError:
        raise InputError(f"as_of {as_of!r} is no instant; write it as 2011-12-09T12:50:00+00:00") from None
    return microseconds(at if at.tzinfo else at.replace(tzinfo=dt.UTC))


def _finished_imports(snapshot: RawSnapshot) -> list[dict[str, Any]]:
    imports = snapshot.imports()
    unfinished = [row["path"] for row in imports if row["status"] != "complete"]
    if unfinished:
        raise ImportUnderWayError(
            f"the import of {', '.join(unfinished)} is not finished; wait for it, or, if it was killed, run it again: "
            "it goes on where it was"
        )
    return imports


def _declared(imports: list[dict[str, Any]], settings: Settings) -> Declared:
    """What the newest import declares, the settings first."""
    if not imports:
        raise EmptyResultError("nothing has been imported; run `recsys import SOURCE PATH` first")
    said = imports[-1]
    bought = tuple(_first(settings.bought_event_types, said["bought_event_types"]))
    return Declared(
        source=said["source"],
        event_weights=said["event_weights"] | (settings.event_weights or {}),
        label_event_types=tuple(_first(settings.label_event_types, said["label_event_types"])),
        bought_event_types=bought,
        id_types={entity: said[f"{entity}_id_type"] for entity in _ENTITIES.values()},
        task=Task(settings.task) if bought else Task.ALL,  # where nothing counts as bought, there is nothing to mask
    )


def _first(of_settings: list[str] | None, of_source: list[str]) -> list[str]:
    """An empty list in the settings is an answer, too."""
    return of_source if of_settings is None else of_settings


def _complete_until(imports: list[dict[str, Any]]) -> int | None:
    """Milliseconds; the latest that an import declares."""
    said = [dt.datetime.fromisoformat(row["complete_until"]) for row in imports if row["complete_until"]]
    return microseconds(max(said)) // 1000 if said else None


def _is_older(connection: sa.Connection, cut_at: int) -> bool:
    """Whether a later data set has been prepared: then the catalogue of the service stays as it is."""
    done = (training_runs.c.step == STEP) & (training_runs.c.status == "succeeded")
    query = sa.select(sa.func.max(training_runs.c.as_of)).where(done)
    latest = connection.execute(query).scalar_one()
    return latest is not None and microseconds(latest) > cut_at
