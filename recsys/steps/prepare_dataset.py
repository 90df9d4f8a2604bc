"""Prepare a data set from raw tables and posted events: give keys, write it, bring the catalogue up to date."""

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
CODE_VERSION = 4  # raise it when the same raw tables come to mean another data set
MEMORY_LIMIT = "2GB"  # DuckDB's; beyond it, it spills
DAY_MS = 86_400_000
FUTURE = "they lie in the future"
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
    with tempfile.TemporaryDirectory(prefix="recsys-raw-") as raw_folder:
        plan = _read(ctx, Path(raw_folder), as_of, force=force)  # the only look at the tables: computing takes minutes
        ref, cut_at = f"{KIND}/{plan.version}", plan.cut_at

        def make(folder: Path, meta: dict[str, Any]) -> None:
            if plan.raw is None:
                raise ArtifactError(f"{ref} went away while it was looked at; prepare it again")
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
            # Before the artifact is there: a run that is killed in between gives the same keys again.
            meta.update(_described(_store(ctx, prepared, plan)))

        try:
            _, made = ctx.store.get_or_make(KIND, plan.version, make, made_by=STEP, force=force)
        except EmptyResultError as error:
            ctx.record(STEP, ref, None, as_of=cut_at, status="refused", reason=str(error))
            raise
    _say_meaning(ctx, plan)
    if made:
        _forget_erased(ctx, ref, plan.erased)
    posted = plan.posted
    told = ctx.dataset(ref)[1].meta
    left_out = dict(told.n_posted_left_out) | ({AFTER_GAP: posted.n_after_gap} if posted.n_after_gap else {})
    counts = {f"n_{name}": n for name, n in told.n_rows.items()} | {"n_posted": told.n_events_from.get("posted", 0)}
    n_left_out = dict(told.n_left_out) | ({FUTURE: plan.n_future} if plan.n_future else {})
    counts |= {"n_posted_left_out": sum(left_out.values()), "n_left_out": sum(n_left_out.values())}
    ctx.record(STEP, ref, ref, as_of=cut_at, metrics=counts)
    _tell(left_out)
    for reason, n in n_left_out.items():
        logger.warning("events left out, %s: %d", reason, n)
    notes = checks.notices(ctx.dataset(ref)[1], max_user_share=ctx.settings.max_user_share)
    for note in notes:
        logger.warning("%s", note)
    return {
        "dataset": ref,
        "as_of": instant(cut_at).isoformat(),
        "made": made,
        "n_rows": dict(told.n_rows),
        "n_events_from": dict(told.n_events_from),
        "n_posted_left_out": left_out,
        "n_left_out": n_left_out,
        "notes": notes,
    }


class _Plan(NamedTuple):
    """What goes into a data set, as the tables were at one moment."""

    version: str
    cut_at: int
    import_id: int  # of the newest import
    declared: Declared
    posted: _Posted
    erased: frozenset[str]
    complete_until: int | None
    former: str | None
    known: KnownKeys
    raw: RawTables | None  # None: the data set is there
    n_future: int  # raw events that are left out because they lie in the future


def _read(ctx: Context, folder: Path, as_of: str | None, *, force: bool) -> _Plan:
    """Look at the tables, and copy into `folder` what the data set is made of where it is not there yet."""
    with raw_snapshot(ctx.engine) as snapshot:
        imports = _finished_imports(snapshot)
        latest_ms = microseconds(dt.datetime.now(dt.UTC) + LATEST_AHEAD) // 1000
        n_events, last_seq, last_ms, n_future = snapshot.events(latest_ms)
        if last_ms is None:
            found = f"all {n_future:,} raw events lie in the future" if n_future else "there are no raw events"
            raise EmptyResultError(f"{found}; run `recsys import SOURCE PATH` first")
        declared = _declared(imports, ctx.settings)
        asked = min(_parse(as_of), (latest_ms + 1) * 1000)
        posted = _posted(snapshot, declared, last_ms, asked, ctx.settings.label_window_days)
        cut_at = min(asked, (max(last_ms, posted.last_ms) + 1) * 1000)
        with ctx.engine.begin() as connection:  # after the events: of a user who is in them, the erasure is known
            erased = keys.erased(connection)
        before_ms = -(-cut_at // 1000)
        ingredients = {
            "cut_at": cut_at,
            "imports": [{k: v for k, v in row.items() if k not in _NOT_CONTENT} for row in imports],
            "events": [n_events, last_seq],
            "posted": [posted.n, posted.position],  # of those that may count: what is left out changes nothing
            "told": snapshot.told(before_ms),
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
        fix = ""
        if reason.startswith(NO_WEIGHT):
            fix = "; to count them, give the type a weight (RECSYS_EVENT_WEIGHTS)"
        elif reason == AFTER_GAP:
            fix = f"; they count once they are {MIN_AFTER_GAP:,}"
        logger.info("posted events left out, %s: %d%s", reason, n, fix)


def _check(ctx: Context, dataset: Dataset, former: str | None) -> None:
    found = checks.problems(dataset, now=dt.datetime.now(dt.UTC))
    if former is not None and ctx.store.exists(former):
        found += checks.losses(dataset, ctx.dataset(former)[1])
    checks.require(found)


def _store(ctx: Context, prepared: Prepared, plan: _Plan) -> Dataset:
    """Give the keys; the rest of the catalogue follows unless a later data set has brought it further.

    The data set, written once more where its new ids have got other keys meanwhile, or users were erased.
    """

    def same_shop(connection: sa.Connection) -> None:
        """What follows waits for nobody long, and `import --replace` waits for it."""
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
        # keys of another entity have moved before; its own do so here
        rows = moved(users if entity == "users" else dataset.table(entity), moves)
        stored = keys.store(ctx.engine, entity, rows, top=top, update=newest, before=same_shop)
        logger.info("%s: %d rows written", entity, stored.n_written)
        moves[entity] = stored.moved
    erased = _erased(ctx) - plan.erased
    ids = zip(users[col.USER_KEY].to_pylist(), users[col.USER_ID].to_pylist(), strict=True) if erased else ()
    gone = {key for key, id_ in ids if digest_of(id_).hex() in erased}
    if gone or any(moves.values()):
        logger.info("others gave keys or erased users meanwhile: the data set is written once more")
        return rewrite(dataset, dataset.folder, moves, gone)
    return dataset


def _forget_erased(ctx: Context, ref: str, known: frozenset[str]) -> None:
    """Leave out users who were erased while the data set was being published, until there are no more of them."""
    while (erased := _erased(ctx)) - known:
        with ctx.engine.begin() as connection:
            gone = keys.of_erased(connection)
        dataset = Dataset(ctx.store.open(ref)[0])
        with ctx.store.writing(KIND, split_ref(ref)[1], made_by=STEP) as (folder, meta):
            meta.update(_described(rewrite(dataset, folder, {}, gone)))
        known = erased


def _say_meaning(ctx: Context, plan: _Plan) -> None:
    """Tell the service what the settings of the newest night say of events, in the place of the data's source."""
    row = {
        "event_weights": ctx.settings.event_weights or None,
        "bought_event_types": ctx.settings.bought_event_types,
        "hides_bought": plan.declared.task is Task.DISCOVERY,
    }
    said = insert(event_settings).values(row)
    with ctx.engine.begin() as connection:
        if not _is_older(connection, plan.cut_at):
            connection.execute(said.on_conflict_do_update(index_elements=["singleton"], set_=row))


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
        raise InputError(f"as_of {as_of!r} is no instant; write it as 2011-12-09T12:50:00+00:00") from None


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
