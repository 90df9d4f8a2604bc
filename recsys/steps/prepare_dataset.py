"""Prepare a data set from raw tables and posted events: assign keys, write it, update the catalogue."""

from __future__ import annotations

import datetime as dt
import logging
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from recsys import columns as col
from recsys.artifacts import split_ref, version_of
from recsys.data import checks
from recsys.data.dataset import Dataset, instant, microseconds
from recsys.data.keys import KnownKeys
from recsys.data.posted import AFTER_GAP, MIN_AFTER_GAP, NO_WEIGHT, end_of_posted
from recsys.data.prepare import Prepared, prepare
from recsys.data.raw import Declared, RawTables
from recsys.data.rekey import moved, rewrite
from recsys.errors import ArtifactError, EmptyResultError, ImportUnderWayError, InputError, ShopReplacedError
from recsys.instants import LATEST_AHEAD, instant_of
from recsys.serving.ids import digest_of
from recsys.settings import Settings
from recsys.steps.context import Context, step
from recsys.storage import keys, raw_tables
from recsys.storage.raw_snapshot import RawSnapshot, raw_snapshot
from recsys.storage.tables import event_settings, training_runs
from recsys.types import Task

logger = logging.getLogger(__name__)

STEP = "prepare_dataset"
KIND = "dataset"
CODE_VERSION = 4  # increment it when the same raw tables give another data set
MEMORY_LIMIT = "2GB"  # of DuckDB, which spills to disk beyond it
DAY_MS = 86_400_000
FUTURE = "they lie in the future"
_NOT_CONTENT = ("completed_at", "path")  # changed by an import that finds everything loaded
_ENTITIES = {"items": "item", "users": "user", "categories": "category"}


@step
def run(as_of: str | None = None, force: bool = False, *, ctx: Context | None = None) -> dict[str, Any]:
    """Prepare all events strictly before `as_of` (ISO 8601, UTC by default; all when None).

    The cutoff is at most just after the last event, and rows of erased users are left out. The result is deterministic
    for given raw tables, posted events and cutoff: an existing data set is reused unless `force`; `force` also accepts
    one that lost much data against the previous one.
    Raises InputError for an unreadable `as_of`, ImportUnderWayError for an unfinished import, EmptyResultError (and
    records the refusal) when the data are implausible.
    """
    ctx = ctx or Context.open()
    with tempfile.TemporaryDirectory(prefix="recsys-raw-") as raw_folder:
        plan = _read(ctx, Path(raw_folder), as_of, force=force)  # the only read of the tables: computing takes minutes
        ref, cut_at = f"{KIND}/{plan.version}", plan.cut_at

        def make(folder: Path, meta: dict[str, Any]) -> None:
            if plan.raw is None:
                raise ArtifactError(f"{ref} was deleted meanwhile; prepare it again")
            prepared = prepare(
                folder,
                plan.raw,
                plan.declared,
                cut_at,
                known=plan.known,
                erased=plan.erased,
                complete_until=plan.complete_until,
                memory_limit=MEMORY_LIMIT,
            )
            _check(ctx, prepared.dataset, None if force else plan.former)
            # Before the artifact exists: if the run is killed in between, the next one assigns the same keys.
            meta.update(_described(_store(ctx, prepared, plan)))

        try:
            _, made = ctx.store.get_or_make(KIND, plan.version, make, made_by=STEP, force=force)
        except EmptyResultError as error:
            ctx.record(STEP, ref, None, as_of=cut_at, status="refused", reason=str(error))
            raise
    _store_event_settings(ctx, plan)
    if made:
        _forget_erased(ctx, ref, plan.erased)
    posted = plan.posted
    meta = ctx.dataset(ref)[1].meta
    left_out = dict(meta.n_posted_left_out) | ({AFTER_GAP: posted.n_after_gap} if posted.n_after_gap else {})
    counts = {f"n_{name}": n for name, n in meta.n_rows.items()} | {"n_posted": meta.n_events_from.get("posted", 0)}
    n_left_out = dict(meta.n_left_out) | ({FUTURE: plan.n_future} if plan.n_future else {})
    counts |= {"n_posted_left_out": sum(left_out.values()), "n_left_out": sum(n_left_out.values())}
    ctx.record(STEP, ref, ref, as_of=cut_at, metrics=counts)
    _log_left_out(left_out)
    for reason, n in n_left_out.items():
        logger.warning("events left out, %s: %d", reason, n)
    notes = checks.notices(ctx.dataset(ref)[1], max_user_share=ctx.settings.max_user_share)
    for note in notes:
        logger.warning("%s", note)
    return {
        "dataset": ref,
        "as_of": instant(cut_at).isoformat(),
        "made": made,
        "n_rows": dict(meta.n_rows),
        "n_events_from": dict(meta.n_events_from),
        "n_posted_left_out": left_out,
        "n_left_out": n_left_out,
        "notes": notes,
    }


class _Plan(NamedTuple):
    """The inputs of a data set, from one snapshot of the tables."""

    version: str
    cut_at: int
    import_id: int  # of the newest import
    declared: Declared
    posted: _Posted
    erased: frozenset[str]
    complete_until: int | None
    former: str | None
    known: KnownKeys
    raw: RawTables | None  # None: the data set exists
    n_future: int  # raw events left out because they are in the future


def _read(ctx: Context, folder: Path, as_of: str | None, *, force: bool) -> _Plan:
    """Read the tables, and export the inputs into `folder` if the data set does not exist yet."""
    with raw_snapshot(ctx.engine) as snapshot:
        imports = _finished_imports(snapshot)
        latest_ms = microseconds(dt.datetime.now(dt.UTC) + LATEST_AHEAD) // 1000
        n_events, last_seq, last_ms, n_future = snapshot.events(latest_ms)
        if last_ms is None:
            found = f"all {n_future:,} raw events are in the future" if n_future else "there are no raw events"
            raise EmptyResultError(f"{found}; run `recsys import SOURCE PATH` first")
        declared = _declared(imports, ctx.settings)
        requested = min(_parse(as_of), (latest_ms + 1) * 1000)
        posted = _posted(snapshot, declared, last_ms, requested, ctx.settings.label_window_days)
        cut_at = min(requested, (max(last_ms, posted.last_ms) + 1) * 1000)
        with ctx.engine.begin() as connection:  # after the snapshot: erasures before it are seen
            erased = keys.erased(connection)
        before_ms = -(-cut_at // 1000)
        ingredients = {
            "cut_at": cut_at,
            "imports": [{k: v for k, v in row.items() if k not in _NOT_CONTENT} for row in imports],
            "events": [n_events, last_seq],
            "posted": [posted.n, posted.position],  # only those that may count: the others do not matter
            "told": snapshot.posted_items(before_ms),
            "declared": asdict(declared),
            "erased": sorted(erased),
            "code": CODE_VERSION,
        }
        version = version_of(instant(cut_at), ingredients)
        raw = None
        if force or not ctx.store.exists(f"{KIND}/{version}"):
            raw = RawTables(**snapshot.export(folder, before_ms, min(before_ms, posted.before_ms)))
    with ctx.engine.begin() as connection:
        known = KnownKeys(**{entity: keys.known_keys(connection, entity) for entity in _ENTITIES})
    return _Plan(
        version=version,
        cut_at=cut_at,
        import_id=imports[-1]["import_id"],
        declared=declared,
        posted=posted,
        erased=erased,
        complete_until=_complete_until(imports),
        former=ctx.newest(STEP),
        known=known,
        raw=raw,
        n_future=n_future,
    )


class _Posted(NamedTuple):
    """The posted events of a data set."""

    n: int
    position: int
    last_ms: int  # 0: no event of a declared type
    before_ms: int  # exclusive end
    n_after_gap: int


def _posted(snapshot: RawSnapshot, declared: Declared, last_ms: int, requested: int, gap_days: float) -> _Posted:
    """`last_ms`: the last imported event; `requested`: the requested cutoff, in microseconds."""
    before_ms = -(-requested // 1000)
    islands = snapshot.islands(declared.event_types, last_ms, before_ms, int(gap_days * DAY_MS))
    end, n_after_gap = end_of_posted(islands)
    before_ms = before_ms if end is None else end
    n, position, last = snapshot.posted(declared.event_types, before_ms)
    return _Posted(n, position, last or 0, before_ms, n_after_gap)


def _log_left_out(left_out: dict[str, int]) -> None:
    """Log which posted events are not in the data set, and how to include them."""
    for reason, n in left_out.items():
        fix = ""
        if reason.startswith(NO_WEIGHT):
            fix = "; to count them, give the type a weight (RECSYS_EVENT_WEIGHTS)"
        elif reason == AFTER_GAP:
            fix = f"; they count once there are {MIN_AFTER_GAP:,}"
        logger.info("posted events left out, %s: %d%s", reason, n, fix)


def _check(ctx: Context, dataset: Dataset, former: str | None) -> None:
    found = checks.problems(dataset, now=dt.datetime.now(dt.UTC))
    if former is not None and ctx.store.exists(former):
        found += checks.losses(dataset, ctx.dataset(former)[1])
    checks.require(found)


def _store(ctx: Context, prepared: Prepared, plan: _Plan) -> Dataset:
    """Store the keys, and the rest of the catalogue unless a later data set has updated it already.

    Returns the data set, rewritten if its new ids got other keys meanwhile, or users were erased.
    """

    def same_shop(connection: sa.Connection) -> None:
        """Locks for a short time, during which `import --replace` waits."""
        there = sa.select(sa.func.count()).where(raw_tables.imports.c.import_id == plan.import_id)
        if not connection.execute(there).scalar_one():
            raise ShopReplacedError("the raw tables were emptied meanwhile; prepare the data set again")

    dataset, users = prepared
    with ctx.engine.begin() as connection:
        same_shop(connection)
        newest = not _is_older(connection, dataset.meta.as_of)
        keys.store_id_types(connection, dataset.meta.id_types)
    moves: dict[str, dict[int, int]] = {}
    for entity in ("categories", "items", "users"):
        known: pa.Table = getattr(plan.known, entity)
        top = pc.max(known["key"]).as_py() or 0
        # keys of other entities were changed before; its own are here
        rows = moved(users if entity == "users" else dataset.table(entity), moves)
        stored = keys.store(ctx.engine, entity, rows, top=top, update=newest, before=same_shop)
        logger.info("%s: %d rows written", entity, stored.n_written)
        moves[entity] = stored.moved
    erased = _erased(ctx) - plan.erased
    ids = zip(users[col.USER_KEY].to_pylist(), users[col.USER_ID].to_pylist(), strict=True) if erased else ()
    gone = {key for key, id_ in ids if digest_of(id_).hex() in erased}
    if gone or any(moves.values()):
        logger.info("other processes assigned keys or erased users meanwhile: the data set is rewritten")
        return rewrite(dataset, dataset.folder, moves, gone)
    return dataset


def _forget_erased(ctx: Context, ref: str, known: frozenset[str]) -> None:
    """Remove users who were erased while the data set was being written, until there are no more of them."""
    while (erased := _erased(ctx)) - known:
        with ctx.engine.begin() as connection:
            gone = keys.of_erased(connection)
        dataset = Dataset(ctx.store.open(ref)[0])
        with ctx.store.writing(KIND, split_ref(ref)[1], made_by=STEP) as (folder, meta):
            meta.update(_described(rewrite(dataset, folder, {}, gone)))
        known = erased


def _store_event_settings(ctx: Context, plan: _Plan) -> None:
    """Store the event settings of the newest run for the service; they override those of the data's source."""
    row = {
        "event_weights": ctx.settings.event_weights or None,
        "bought_event_types": ctx.settings.bought_event_types,
        "hides_bought": plan.declared.task is Task.DISCOVERY,
    }
    statement = insert(event_settings).values(row)
    with ctx.engine.begin() as connection:
        if not _is_older(connection, plan.cut_at):
            connection.execute(statement.on_conflict_do_update(index_elements=["singleton"], set_=row))


def _erased(ctx: Context) -> frozenset[str]:
    with ctx.engine.begin() as connection:
        return keys.erased(connection)


def _described(dataset: Dataset) -> dict[str, Any]:
    of = dataset.meta
    return {
        "as_of": of.as_of_at.isoformat(),
        "source": of.source,
        "n_rows": of.n_rows,
        "n_events_from": of.n_events_from,
    }


def _parse(as_of: str | None) -> int:
    if as_of is None:
        return 2**62
    try:
        return microseconds(instant_of(as_of))
    except ValueError:
        raise InputError(f"as_of {as_of!r} is not an instant; write it as 2011-12-09T12:50:00+00:00") from None


def _finished_imports(snapshot: RawSnapshot) -> list[dict[str, Any]]:
    imports = snapshot.imports()
    unfinished = [row["path"] for row in imports if row["status"] != "complete"]
    if unfinished:
        raise ImportUnderWayError(
            f"the import of {', '.join(unfinished)} is not finished; wait for it, or, if it was killed, run it again: "
            "it resumes where it stopped"
        )
    return imports


def _declared(imports: list[dict[str, Any]], settings: Settings) -> Declared:
    """The declaration of the newest import, overridden by the settings."""
    if not imports:
        raise EmptyResultError("nothing has been imported; run `recsys import SOURCE PATH` first")
    newest = imports[-1]
    bought = tuple(_first(settings.bought_event_types, newest["bought_event_types"]))
    return Declared(
        source=newest["source"],
        event_weights=newest["event_weights"] | (settings.event_weights or {}),
        label_event_types=tuple(_first(settings.label_event_types, newest["label_event_types"])),
        bought_event_types=bought,
        id_types={entity: newest[f"{entity}_id_type"] for entity in _ENTITIES.values()},
        task=Task(settings.task) if bought else Task.ALL,  # without bought types there is nothing to mask
    )


def _first(of_settings: list[str] | None, of_source: list[str]) -> list[str]:
    """The settings' value where it is set, also to an empty list."""
    return of_source if of_settings is None else of_settings


def _complete_until(imports: list[dict[str, Any]]) -> int | None:
    """The latest `complete_until` of the imports, in milliseconds."""
    ends = [dt.datetime.fromisoformat(row["complete_until"]) for row in imports if row["complete_until"]]
    return microseconds(max(ends)) // 1000 if ends else None


def _is_older(connection: sa.Connection, cut_at: int) -> bool:
    """Whether a later data set has been prepared: then the service's catalogue is not updated."""
    done = (training_runs.c.step == STEP) & (training_runs.c.status == "succeeded")
    query = sa.select(sa.func.max(training_runs.c.as_of)).where(done)
    latest = connection.execute(query).scalar_one()
    return latest is not None and microseconds(latest) > cut_at
