"""Publications: one pointer to a manifest of list versions, moved in one transaction after all checks.

A service reads pointer and manifest in one statement and maps the files of the lists, so that it serves one
publication whole.
Publishing, rolling back and pruning lock the pointer's row and so come one after the other. The pointer carries a
fence number that grows whenever it moves: a publisher reads it before it looks at anything else, and is refused when
somebody has moved the pointer since. One that only looks shuts nobody out.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

import sqlalchemy as sa

from recsys.errors import FencedError, NewerDataError, NotFoundError, PublicationError
from recsys.instants import age_days
from recsys.storage import lists as list_store
from recsys.storage.list_checks import HISTORY, ListChecks
from recsys.storage.lists import ListVersion
from recsys.storage.tables import ALL_ITEMS_OWNER, items, list_versions, lists, publication_pointer, publications

log = logging.getLogger(__name__)

DROPPED_WHEN_OLD: Final = ("ranked", "personal")  # others are better old than missing
DEFAULT_LENGTH: Final = 10  # what the default list over all items must hold at least, if so many are available


@dataclass(frozen=True)
class Publication:
    """A row of `publications`. `status`: published, withdrawn (rolled back from) or pruned (its lists are gone)."""

    publication_id: int
    created_at: dt.datetime
    status: str
    dataset: str
    manifest: dict[str, int]  # kind → list_version_id
    models: dict[str, str]  # name → artifact reference
    fence: int
    checks: dict[str, Any]


def read_fence(engine: sa.Engine) -> int:
    """The pointer's number as it is now, for `publish`."""
    with engine.connect() as connection:
        return connection.execute(sa.select(publication_pointer.c.fence)).scalar_one()


def current(engine: sa.Engine) -> Publication | None:
    """What readers see; None before the first publication."""
    with engine.connect() as connection:
        return _current(connection)


def get(engine: sa.Engine, publication_id: int) -> Publication:
    """A publication by its number; NotFoundError when there is none."""
    with engine.connect() as connection:
        return _get(connection, publication_id)


def newest(engine: sa.Engine, limit: int = 20) -> list[Publication]:
    """The last publications, newest first."""
    with engine.connect() as connection:
        rows = connection.execute(
            sa.select(publications).order_by(publications.c.publication_id.desc()).limit(limit)
        ).all()
    return [_publication(row) for row in rows]


def publish(
    engine: sa.Engine,
    manifest: Mapping[str, int],
    fence: int,
    *,
    dataset: str,
    models: Mapping[str, str] | None = None,
    checks: Mapping[str, Any] | None = None,
    min_share: float = 0.5,
    max_age_days: float = float("inf"),
    task: str | None = None,
    force: bool = False,
) -> Publication:
    """Check the list versions of `manifest` (kind → list_version_id) and move the pointer to them, or do nothing.

    Kinds and models that are not named stay as they are in the current publication, which `checks["kept"]` says; but
    those of DROPPED_WHEN_OLD go when their data end more than `max_age_days` before the data set's, or when they were
    made for another task than `task` (None: for any): `checks["dropped"]` says so. Publishing what is published already
    changes nothing.
    `fence`: what `read_fence` gave before the lists were looked up. Raises FencedError when the pointer has moved
    since, NewerDataError when newer data are published (unless `force`), and PublicationError with all reasons when
    an invariant is broken: a version that is not complete or has lost rows, an unknown or
    unavailable item in a version that is new (a history may hold unavailable ones), fewer owners or items than
    `min_share` of the current version of the kind, no default list over all items of at least DEFAULT_LENGTH.
    `checks` is stored with the result.
    """
    with engine.begin() as connection:
        newest_fence = _lock_pointer(connection)
        if fence != newest_fence:
            raise FencedError(
                f"fence {fence} is no longer valid, the pointer has moved to {newest_fence} meanwhile; "
                "run the publishing step again if its lists are still wanted"
            )
        former = _current(connection)
        if former and not force and (age_days(dataset, former.dataset) or 0) > 0:
            raise NewerDataError(
                f"publication {former.publication_id} is of newer data ({former.dataset}) and stays; "
                f"force publishes {dataset}"
            )
        whole = {**(former.manifest if former else {}), **manifest}
        dropped = _stale(connection, whole, dataset, max_age_days, task)
        whole = {kind: list_version_id for kind, list_version_id in whole.items() if kind not in dropped}
        known_models = {**(former.models if former else {}), **(models or {})}
        counted = _check(connection, whole, dataset, former, min_share)
        kept = {kind: _why_kept(kind, counted[kind], dataset) for kind in whole.keys() - manifest.keys()}
        if former and (former.manifest, former.models, former.dataset) == (whole, known_models, dataset):
            log.info("publication %d is current already", former.publication_id)
            return former
        publication_id = connection.execute(
            sa.insert(publications)
            .values(
                status="published",
                dataset=dataset,
                manifest=whole,
                models=known_models,
                fence=_raise_fence(connection),
                checks={"lists": counted, "dropped": dropped, "kept": kept, **(checks or {})},
            )
            .returning(publications.c.publication_id)
        ).scalar_one()
        _move_pointer(connection, publication_id)
        published = _get(connection, publication_id)
    for reason in dropped.values():
        log.warning("publication %d goes without: %s", published.publication_id, reason)
    for reason in kept.values():
        log.warning("publication %d keeps: %s", published.publication_id, reason)
    log.info("published %d: %s", published.publication_id, published.manifest)
    return published


def rollback(engine: sa.Engine, to: int | None = None) -> Publication:
    """Move the pointer back to publication `to`, or to the last one before the current that was not withdrawn.

    The current publication is withdrawn (unless `to` is a later one, to go forward again), and publishers that are
    under way are shut out. Raises NotFoundError when there is nothing to go back to, and PublicationError when the
    target's lists are not there any more.
    """
    with engine.begin() as connection:
        _lock_pointer(connection)
        left = _current(connection)
        if left is None:
            raise NotFoundError("nothing has been published yet")
        target = _former(connection, left.publication_id) if to is None else _get(connection, to)
        if target.publication_id == left.publication_id:
            raise PublicationError(f"publication {left.publication_id} is the current one already")
        if target.status == "pruned":
            raise PublicationError(f"the lists of publication {target.publication_id} have been pruned")
        problems = [p for kind, i in target.manifest.items() for p in _incomplete(connection, kind, i)]
        if problems:
            raise PublicationError(f"publication {target.publication_id} cannot serve: " + "; ".join(problems))
        _raise_fence(connection)
        if target.publication_id < left.publication_id:
            _set_status(connection, left.publication_id, "withdrawn")
        _set_status(connection, target.publication_id, "published")
        _move_pointer(connection, target.publication_id)
        target = _get(connection, target.publication_id)
    log.info("rolled back from publication %d to %d", left.publication_id, target.publication_id)
    return target


def verify(engine: sa.Engine, publication_id: int | None = None) -> dict[str, dict[str, Any]]:
    """Read all rows of a publication (the current one by default) and hold them against every rule.

    Gives kind → what was counted. Raises PublicationError with all that is wrong: what ListChecks refuses,
    counts or a checksum that differ from what was written, unknown or unavailable items, a missing default list.
    """
    with engine.connect() as connection:
        publication = _current(connection) if publication_id is None else _get(connection, publication_id)
        if publication is None:
            raise NotFoundError("nothing has been published yet")
        report: dict[str, dict[str, Any]] = {}
        problems = []
        for kind, list_version_id in publication.manifest.items():
            missing = _incomplete(connection, kind, list_version_id)
            problems += missing
            if not missing:
                version = list_store.get(connection, list_version_id)
                found = ListChecks(kind, len(version.sources))
                try:
                    list_store.read(connection, version, found.add)
                    report[kind] = found.finish()
                except PublicationError as error:
                    problems.append(str(error))
                    continue
                if not _as_written(report[kind], version.checks):
                    problems.append(f"{kind} lists differ from what was written: {report[kind]}, not {version.checks}")
                problems += _bad_items(connection, version)
        problems += _bad_default(connection, publication.manifest)
    if problems:
        raise PublicationError(f"publication {publication.publication_id}: " + "; ".join(problems))
    return report


def _as_written(found: Mapping[str, Any], checks: Mapping[str, Any]) -> bool:
    """Whether lists are those that were written, less those of users who were erased since.

    An erasure brings the sums up to date; whether an extreme or an item is gone with it is not looked up.
    """
    names = ("n_rows", "n_entries", "checksum") if "n_erased" in checks else (*found, *checks)
    return all(found.get(name) == checks.get(name) for name in names)


def _stale(
    connection: sa.Connection, manifest: Mapping[str, int], dataset: str, max_age_days: float, task: str | None
) -> dict[str, str]:
    """Kind → why its lists must not be published any more, of those that their readers can do without."""
    found = {}
    for kind in manifest.keys() & set(DROPPED_WHEN_OLD):
        version, made_for = connection.execute(
            sa.select(list_versions.c.version, list_versions.c.meta["task"].astext).where(
                list_versions.c.list_version_id == manifest[kind]
            )
        ).one_or_none() or ("", None)
        age = age_days(version, dataset)
        if age is not None and age > max_age_days:
            found[kind] = (
                f"{kind} lists are of data that end {age:.1f} days before {dataset}, more than {max_age_days:g}; "
                "see why no new ones were written"
            )
        elif task is not None and made_for not in (None, task):
            found[kind] = f"{kind} lists were made for the task {made_for}, and {dataset} is for {task}"
    return found


def _why_kept(kind: str, counted: Mapping[str, Any], dataset: str) -> str:
    age = counted["age_days"]
    ends = "" if age is None else f", whose data end {age:.1f} days earlier"
    return f"{kind} lists {counted['version']}{ends}: none were written for {dataset}"


def _check(
    connection: sa.Connection, manifest: Mapping[str, int], dataset: str, former: Publication | None, min_share: float
) -> dict[str, Any]:
    """Raise PublicationError with all that is wrong; else kind → what is known of its lists."""
    if not manifest:
        raise PublicationError("refused: a publication needs at least one kind of list")
    counted: dict[str, Any] = {}
    problems: list[str] = []
    for kind, list_version_id in manifest.items():
        missing = _incomplete(connection, kind, list_version_id)
        problems += missing
        if missing:
            continue
        version = list_store.get(connection, list_version_id)
        counted[kind] = {"version": version.version, "age_days": age_days(version.version, dataset), **version.checks}
        former_id = former.manifest.get(kind) if former else None
        if former_id != list_version_id:
            problems += _bad_items(connection, version)
            if former_id is not None:
                problems += _shrunk(version, list_store.get(connection, former_id), min_share)
    problems += _bad_default(connection, manifest)
    if problems:
        raise PublicationError("refused: " + "; ".join(problems))
    return counted


def _incomplete(connection: sa.Connection, kind: str, list_version_id: int) -> list[str]:
    """What is wrong with a version as a whole: not there, not complete, of another kind, other rows than written."""
    try:
        version = list_store.get(connection, list_version_id)
    except NotFoundError as error:
        return [f"{kind}: {error}"]
    if version.kind != kind:
        return [f"{kind}: list version {list_version_id} holds {version.kind} lists"]
    n_rows = connection.execute(
        sa.select(sa.func.count()).select_from(lists).where(lists.c.list_version_id == list_version_id)
    ).scalar_one()
    if n_rows != version.n_rows:
        return [f"{kind}: {n_rows} lists are stored of the {version.n_rows} that were written; write them again"]
    return []


def _bad_items(connection: sa.Connection, version: ListVersion) -> list[str]:
    """Items of a version that are unknown or not available, as problems.

    What the shop took away through the API is not one: the lists could not know, and the service leaves it out.
    """
    query = sa.text(
        """
        select count(*) filter (where i.item_key is null) as n_unknown,
               (array_agg(k order by k) filter (where i.item_key is null))[1:3] as unknown,
               count(*) filter (where i.offered = false) as n_unavailable,
               (array_agg(k order by k) filter (where i.offered = false))[1:3] as unavailable,
               (array_agg(i.item_id order by k) filter (where i.offered = false))[1:3] as ids
        from list_versions, unnest(item_keys) as k
        left join (select item_key, item_id, available or told_at is not null as offered from items) i on i.item_key = k
        where list_version_id = :id
        """
    )
    row = connection.execute(query, {"id": version.list_version_id}).one()
    problems = []
    if row.n_unknown:
        problems.append(f"{version.kind}: {row.n_unknown} items are not in the catalogue, e.g. item keys {row.unknown}")
    if row.n_unavailable and version.kind != HISTORY:
        problems.append(
            f"{version.kind}: {row.n_unavailable} items are not available, e.g. {', '.join(row.ids)} "
            f"(item keys {row.unavailable})"
        )
    return problems


def _shrunk(version: ListVersion, former: ListVersion, min_share: float) -> list[str]:
    """Owners or items that fell below the allowed share of the former version's, as problems."""
    pairs = (("lists", version.n_rows, former.n_rows), ("distinct items", version.n_items, former.n_items))
    return [
        f"{version.kind}: {new} {what}, only {new / old:.0%} of the {old} that are published now "
        f"(at least {min_share:.0%} are wanted)"
        for what, new, old in pairs
        if new < min_share * old
    ]


def _bad_default(connection: sa.Connection, manifest: Mapping[str, int]) -> list[str]:
    """A default list over all items that is missing or too short, as problems."""
    if "default" not in manifest:
        return ["there are no default lists; run default_recommendations first"]
    length = connection.execute(
        sa.select(sa.func.cardinality(lists.c.item_keys)).where(
            lists.c.list_version_id == manifest["default"], lists.c.owner_key == ALL_ITEMS_OWNER
        )
    ).scalar_one_or_none()
    nightly = items.c.available & items.c.told_at.is_(None)  # what came by the API alone is in no list yet
    enough = sa.select(items.c.item_key).where(nightly).limit(DEFAULT_LENGTH).subquery()
    wanted = connection.execute(sa.select(sa.func.count()).select_from(enough)).scalar_one()
    if length is None:
        return [f"default: there is no list over all items (owner {ALL_ITEMS_OWNER})"]
    return [f"default: the list over all items holds {length} of at least {wanted}"] if length < wanted else []


# --- rows


def _publication(row: sa.Row[Any]) -> Publication:
    return Publication(**{field.name: getattr(row, field.name) for field in fields(Publication)})


def _get(connection: sa.Connection, publication_id: int) -> Publication:
    row = connection.execute(
        sa.select(publications).where(publications.c.publication_id == publication_id)
    ).one_or_none()
    if row is None:
        raise NotFoundError(f"there is no publication {publication_id}; see `recsys publications list`")
    return _publication(row)


def _current(connection: sa.Connection) -> Publication | None:
    row = connection.execute(sa.select(publications).join(publication_pointer)).one_or_none()
    return None if row is None else _publication(row)


def _former(connection: sa.Connection, publication_id: int) -> Publication:
    """The last publication before this one that may serve."""
    row = connection.execute(
        sa.select(publications)
        .where(publications.c.publication_id < publication_id, publications.c.status == "published")
        .order_by(publications.c.publication_id.desc())
        .limit(1)
    ).one_or_none()
    if row is None:
        raise NotFoundError(f"there is no publication before {publication_id} to go back to")
    return _publication(row)


def _lock_pointer(connection: sa.Connection) -> int:
    """Wait for the pointer's row and hold it until the transaction ends; the newest fence taken."""
    return connection.execute(sa.select(publication_pointer.c.fence).with_for_update()).scalar_one()


def _raise_fence(connection: sa.Connection) -> int:
    return connection.execute(
        sa.update(publication_pointer)
        .values(fence=publication_pointer.c.fence + 1)
        .returning(publication_pointer.c.fence)
    ).scalar_one()


def _move_pointer(connection: sa.Connection, publication_id: int) -> None:
    connection.execute(sa.update(publication_pointer).values(publication_id=publication_id, moved_at=sa.func.now()))


def _set_status(connection: sa.Connection, publication_id: int, status: str) -> None:
    connection.execute(
        sa.update(publications).where(publications.c.publication_id == publication_id).values(status=status)
    )
