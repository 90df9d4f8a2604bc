"""The commands of `recsys publications`: list, verify, roll back."""

from __future__ import annotations

from typing import Any

from recsys import settings as settings_module
from recsys.storage import publications
from recsys.storage.engine import engine, require_current


def show(limit: int = 20) -> None:
    """Print the newest publications; the one that readers see is marked with →."""
    database = _database()
    live = publications.current(database)
    rows = publications.newest(database, limit)
    if not rows:
        print("nothing has been published yet")
        return
    print(f"  {'number':>6}  {'published at (UTC)':<19}  {'status':<9}  {'data set':<40}  lists")
    for row in rows:
        mark = "→" if live and row.publication_id == live.publication_id else " "
        counts = row.checks.get("lists", {})
        lists = ", ".join(f"{kind} {counts.get(kind, {}).get('n_rows', '?')}" for kind in row.manifest)
        print(
            f"{mark} {row.publication_id:>6}  {row.created_at:%Y-%m-%d %H:%M:%S}  {row.status:<9}  {row.dataset:<40}  "
            f"{lists}"
        )


def verify(publication_id: int | None = None) -> dict[str, Any]:
    """Check the stored rows of a publication (the live one by default); PublicationError lists all problems."""
    database = _database()
    if publication_id is None and (live := publications.current(database)) is not None:
        publication_id = live.publication_id
    return {"publication_id": publication_id, "lists": publications.verify(database, publication_id)}


def rollback(to: int | None = None) -> dict[str, Any]:
    """Move the pointer back (to the publication before the live one by default); the publication in service then."""
    now = publications.rollback(_database(), to)
    return {"publication_id": now.publication_id, "dataset": now.dataset, "manifest": now.manifest}


def _database() -> Any:
    database = engine(settings_module.load())
    require_current(database)
    return database
