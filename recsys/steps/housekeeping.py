"""Retention: deletes artifacts, downloads, partial files, rows, logs and MLflow runs that are not needed any more.

Each rule has one setting for the age, and can be run without deleting (`dry_run`). Lists of earlier publications are
also deleted with each publication (`recsys.storage.pruning`), updates of DeepFM with each base.
"""

from __future__ import annotations

import datetime as dt
import logging
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from rich.console import Console
from rich.table import Table

from recsys.artifacts import DEEPFM_SERVING, Manifest, split_ref
from recsys.errors import ArtifactError, HousekeepingError, NotFoundError
from recsys.events import commands
from recsys.serving.list_file import LISTS
from recsys.steps.context import Context, step
from recsys.steps.entrants import N_CHAMPIONS
from recsys.storage import expiry, pruning
from recsys.storage.engine import url_of
from recsys.storage.tables import list_versions, model_updates, publications, training_runs

logger = logging.getLogger(__name__)

EXPORTS: Final = "deepfm_export"
# Kinds of artifacts that no run records → the input that identifies their database.
_MADE_OF: Final = {"deepfm_update": "model", LISTS: "dataset"}
MODELS: Final = {"als": 1, "deepfm": 1, "sequence": 1, "ranker": N_CHAMPIONS}  # how many champions are needed
PARTIAL_DAYS: Final = 1.0  # longer than any write
_EXAMPLES: Final = 5


class Deleted(NamedTuple):
    """What a rule deleted, or would."""

    n: int
    n_bytes: int = 0
    examples: tuple[str, ...] = ()
    n_foreign: int = 0  # as old, but of another database: they are kept


@step
def run(dry_run: bool = False, *, ctx: Context | None = None, now: dt.datetime | None = None) -> dict[str, Any]:
    """Delete what is older than the settings' retention; with `dry_run` only report what would be, and its size.

    `now`: aware; the present when None. All rules are applied even if one fails; the HousekeepingError at the end
    names the failed ones.
    """
    ctx, now = ctx or Context.open(), now or dt.datetime.now(dt.UTC)
    report: dict[str, Deleted] = {}
    failed: dict[str, Exception] = {}
    for name, rule in _rules(ctx, now, dry_run):
        try:
            report[name] = rule()
        except Exception as error:
            logger.exception("housekeeping: %s failed", name)
            failed[name] = error
    _show(report, dry_run)
    if failed:
        reasons = "; ".join(f"{name}: {error}" for name, error in failed.items())
        raise HousekeepingError(f"housekeeping could not apply all rules: {reasons}")
    return {"dry_run": dry_run, **{name: deleted._asdict() for name, deleted in report.items()}}


def _rules(ctx: Context, now: dt.datetime, dry_run: bool) -> Iterator[tuple[str, Callable[[], Deleted]]]:
    keep, rows = ctx.settings, partial(_rows, ctx, now, dry_run)
    local = keep.local_dir
    logs = [local / "log", local / "airflow" / "logs", *keep.log_folders]
    yield f"artifacts unused for {keep.artifact_days:g} days", lambda: _artifacts(ctx, now, dry_run)
    yield f"exports older than {keep.export_days:g} days", lambda: _exports(ctx, now, dry_run)
    yield "half-written files older than a day", lambda: _partial(ctx, now, dry_run)
    yield "lists of former publications", lambda: _lists(ctx, dry_run)
    yield f"answers shown more than {keep.exposure_days:g} days ago", lambda: rows(expiry.exposures, keep.exposure_days)
    yield (
        f"contradicting events older than {keep.quarantine_days:g} days",
        lambda: rows(expiry.quarantine, keep.quarantine_days),
    )
    if keep.event_days is not None:
        of_the_database = keep.model_copy(update={"database_url": url_of(ctx.engine)})
        yield (
            f"events received more than {keep.event_days:g} days ago, archived first",
            lambda: Deleted(commands.delete_old(of_the_database, now, dry_run=dry_run)),
        )
    yield f"sessions idle for {keep.guest_days:g} days", lambda: rows(expiry.guests, keep.guest_days)
    yield (
        f"quarantine files older than {keep.quarantine_days:g} days",
        lambda: _files([local / "quarantine"], "*.csv", now, keep.quarantine_days, dry_run),
    )
    yield f"logs older than {keep.log_days:g} days", lambda: _files(logs, "*.log*", now, keep.log_days, dry_run)
    yield f"MLflow runs older than {keep.run_days:g} days", lambda: _runs(ctx, now, dry_run)


def _rows(ctx: Context, now: dt.datetime, dry_run: bool, expire: Callable[..., expiry.Expired], days: float) -> Deleted:
    found = expire(ctx.engine, now, days, dry_run=dry_run)
    return Deleted(found.n_rows, found.n_bytes)


def needed(ctx: Context) -> set[str]:
    """References of the artifacts still in use: of kept publications, champions, results of the newest data set, the
    updates of DeepFM that workers follow, and what new models are compared with."""
    newest = ctx.newest("prepare_dataset")
    kept = publications.c.status != "pruned"
    with ctx.engine.connect() as connection:
        rows = connection.execute(sa.select(publications.c.dataset, publications.c.models).where(kept)).all()
        lists = connection.scalars(sa.select(list_versions.c.meta).where(list_versions.c.status == "complete")).all()
        runs = connection.scalars(sa.select(training_runs.c.artifact).where(training_runs.c.dataset == newest)).all()
        updates = connection.execute(sa.select(model_updates.c.artifact, model_updates.c.base).distinct()).all()
    found = {newest, *(row.dataset for row in rows), *(ref for row in rows for ref in row.models.values()), *runs}
    found |= {
        ref
        for meta in lists
        for ref in (meta.get("file"), meta.get("model"), meta.get("ranker"), *meta.get("artifacts", {}).values())
    }
    found |= {ref for row in updates for ref in row}
    for model, n in MODELS.items():
        for champion in ctx.champions(model, n):
            found |= {champion, ctx.measured_model(model, champion)}
    refs = {ref for ref in found if ref and "/" in ref}
    return refs | _served(refs)


def _own(ctx: Context) -> set[str]:
    """References of all artifacts of this database's runs: others in the store may be in use by another database."""
    with ctx.engine.connect() as connection:
        made = sa.select(training_runs.c.artifact).where(training_runs.c.artifact.is_not(None))
        refs = set(connection.scalars(made.distinct()))
        refs |= set(connection.scalars(sa.select(model_updates.c.artifact)))
    return refs | _served(refs)


def _served(refs: set[str]) -> set[str]:
    return {f"{DEEPFM_SERVING}/{version}" for kind, version in map(split_ref, refs) if kind == "deepfm"}


def _artifacts(ctx: Context, now: dt.datetime, dry_run: bool) -> Deleted:
    own, keep = _own(ctx), needed(ctx)  # own first: artifacts made meanwhile are not in it, and kept
    unused = [
        (manifest, n_bytes)
        for kind in ctx.store.kinds()
        if kind != EXPORTS
        for manifest, n_bytes in _older(ctx, kind, now, ctx.settings.artifact_days)
        if manifest.ref not in keep
    ]
    old = [
        (manifest.ref, n_bytes)
        for manifest, n_bytes in unused
        if manifest.ref in own or manifest.inputs.get(_MADE_OF.get(manifest.kind, "")) in own
    ]
    if not dry_run:
        for ref, _ in old:
            ctx.store.delete(ref)
        for kind in ctx.store.kinds():
            ctx.store.forget(kind, {version for one, version in map(split_ref, keep) if one == kind}.__contains__)
    return _deleted(old)._replace(n_foreign=len(unused) - len(old))


def _exports(ctx: Context, now: dt.datetime, dry_run: bool) -> Deleted:
    old = [(manifest.ref, n_bytes) for manifest, n_bytes in _older(ctx, EXPORTS, now, ctx.settings.export_days)]
    if not dry_run:
        for ref, _ in old:
            ctx.store.delete(ref)
    return _deleted(old)


def _older(ctx: Context, kind: str, now: dt.datetime, days: float) -> Iterator[tuple[Manifest, int]]:
    """Manifests and bytes of the artifacts of a kind that were made more than `days` ago."""
    before = now - dt.timedelta(days=days)
    for version in ctx.store.versions(kind):
        ref = f"{kind}/{version}"
        try:
            manifest = ctx.store.manifest(ref)
        except (ArtifactError, NotFoundError) as error:  # being deleted, or damaged: needs manual attention
            logger.warning("housekeeping skips %s: %s", ref, error)
            continue
        if dt.datetime.fromisoformat(manifest.created_at) < before:
            yield manifest, sum(int(file["bytes"]) for file in manifest.files.values())


def _partial(ctx: Context, now: dt.datetime, dry_run: bool) -> Deleted:
    found = ctx.store.leftovers(now - dt.timedelta(days=PARTIAL_DAYS))
    if not dry_run:
        for leftover in found:
            ctx.store.remove(leftover)
    return _deleted([(str(leftover), leftover.n_bytes) for leftover in found])


def _lists(ctx: Context, dry_run: bool) -> Deleted:
    dropped = pruning.prune(ctx.engine, keep=ctx.settings.publications_kept, dry_run=dry_run)
    return Deleted(len(dropped), 0, tuple(map(str, dropped[:_EXAMPLES])))


def _files(folders: list[Path], pattern: str, now: dt.datetime, days: float, dry_run: bool) -> Deleted:
    before = (now - dt.timedelta(days=days)).timestamp()
    old = []
    for path in (path for folder in folders if folder.is_dir() for path in folder.rglob(pattern)):
        with suppress(FileNotFoundError):  # rotated or deleted since it was listed
            found = path.stat()
            if stat.S_ISREG(found.st_mode) and found.st_mtime < before:
                old.append((str(path), found.st_size))
    if not dry_run:
        for name, _ in old:
            Path(name).unlink(missing_ok=True)
        for folder in {Path(name).parent for name, _ in old} - set(folders):
            with suppress(OSError):  # it holds other files
                folder.rmdir()
    return _deleted(old)


def _runs(ctx: Context, now: dt.datetime, dry_run: bool) -> Deleted:
    before = now - dt.timedelta(days=ctx.settings.run_days)
    old = ctx.tracker.old_runs(round(before.timestamp() * 1000))
    if not dry_run:
        ctx.tracker.delete_runs(old)
    return Deleted(len(old), 0, tuple(old[:_EXAMPLES]))


def _deleted(found: list[tuple[str, int]]) -> Deleted:
    return Deleted(len(found), sum(n_bytes for _, n_bytes in found), tuple(name for name, _ in found[:_EXAMPLES]))


def _show(report: dict[str, Deleted], dry_run: bool) -> None:
    table = Table(title="Would be deleted" if dry_run else "Deleted")
    for column in ("rule", "number", "MiB", "others', kept", "for example"):
        table.add_column(column, justify="left" if column in ("rule", "for example") else "right")
    for name, rule in report.items():
        size = f"{rule.n_bytes / 2**20:,.1f}" if rule.n_bytes else ""
        table.add_row(name, f"{rule.n:,}", size, f"{rule.n_foreign or ''}", ", ".join(rule.examples[:2]))
    Console(stderr=True).print(table)
