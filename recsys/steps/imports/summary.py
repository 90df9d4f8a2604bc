"""The summary of an import: what it loaded, and what the database has after it."""

from __future__ import annotations

import datetime as dt
import logging
from collections import Counter
from typing import Any

import sqlalchemy as sa
from rich.console import Console
from rich.table import Table
from rich.text import Text

from recsys.steps.imports.accounts import Accounts
from recsys.storage.raw_imports import FileProgress

logger = logging.getLogger(__name__)

_EVENTS = 'select count(*), count(distinct visitorid), min("timestamp"), max("timestamp") from raw.events'
_TYPES = "select event, count(*) as n from raw.events group by event order by n desc, event"
_ITEMS = """
with acted as (select distinct itemid from raw.events), described as (select distinct itemid from raw.item_properties)
select (select count(*) from acted), (select count(*) from described),
       (select count(*) from acted join described using (itemid))
"""
_WEIGHTS = "select event_weights from raw.imports order by import_id desc limit 1"


def of_file(file: FileProgress) -> dict[str, Any]:
    """Counts of the rows of one file by outcome."""
    return {
        "file": file.file,
        "stream": file.stream,
        "n_loaded": file.n_loaded,
        "n_rejected": file.n_rejected,
        "left_out": file.left_out,
    }


def of_database(connection: sa.Connection) -> dict[str, Any]:
    """Time span, event types, users and items of all loaded data."""
    n_events, n_users, first, last = connection.execute(sa.text(_EVENTS)).one()
    n_acted, n_described, n_both = connection.execute(sa.text(_ITEMS)).one()
    weights = connection.execute(sa.text(_WEIGHTS)).scalar_one_or_none() or {}
    types = {row.event: {"n": row.n, "weight": weights.get(row.event)} for row in connection.execute(sa.text(_TYPES))}
    for name in weights:
        types.setdefault(name, {"n": 0, "weight": weights[name]})
    return {
        "span": [_date(first), _date(last)],
        "event_types": types,
        "totals": {
            "events": n_events,
            "users": n_users,
            "items_with_events": n_acted,
            "items_described": n_described,
            "items_with_events_described": n_both,
        },
    }


def of_import(
    accounts: Accounts,
    current: list[FileProgress],
    all_states: list[FileProgress],
    of_ours: list[FileProgress],
    n_duplicates: int,
    whole: dict[str, Any],
) -> dict[str, Any]:
    """The result of an import; also printed."""
    n_loaded: Counter[str] = Counter()
    n_before: Counter[str] = Counter()  # by earlier imports, from the files of this one
    left_out: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    lines: Counter[str] = Counter()
    for count in accounts.lines.values():
        lines.update(count.by_fate())
    ours = {file.import_id for file in of_ours}
    for file in all_states:
        counted, other = (n_loaded, n_before) if file.import_id in ours else (n_before, n_loaded)
        counted[file.stream] += file.n_loaded
        other[file.stream] += 0
    for file in current:
        left_out.update(file.left_out)
        reasons.update(file.reasons)
    result = {
        "source": accounts.request.source,
        "status": "loaded" if of_ours else "already loaded",
        "n_loaded": dict(n_loaded),
        "n_loaded_before": dict(n_before),
        "n_rejected": sum(file.n_rejected for file in current),
        "rejected": dict(reasons.most_common()),
        "left_out": dict(left_out),
        "emptied": dict(sum(accounts.emptied.values(), Counter())),
        "lines": {"read": lines.total(), **lines},
        "n_duplicates": n_duplicates,
        "quarantine": [str(accounts.quarantine_file(file)) for file in current if file.n_rejected],
        "files": [of_file(file) for file in of_ours],
        **whole,
        "notes": accounts.notes,
    }
    if of_ours:
        show(result)
    else:
        text = ", ".join(f"{n:,} rows of {stream}" for stream, n in n_before.items())
        logger.info(
            "%s: all files of %s were loaded before (%s); nothing is loaded now",
            accounts.request.source,
            accounts.request.path,
            text,
        )
    return result


def show(result: dict[str, Any]) -> None:
    """Print the table to standard error."""
    table = Table(title=Text(f"import of {result['source']}"), show_header=False, title_justify="left")
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")

    def add(name: str, value: str) -> None:
        table.add_row(Text(name), Text(value))  # names may look like markup

    for file in result["files"]:
        counts = [f"{file['n_loaded']:,} loaded now", f"{file['n_rejected']:,} rejected"]
        counts += [f"{n:,} {reason}" for reason, n in file["left_out"].items()]
        add(f"{file['stream']} of {file['file']}", ", ".join(counts))
    for stream, n in result["n_loaded_before"].items():
        if n:
            add(f"{stream} of these files", f"{n:,} loaded by earlier imports")
    if result["lines"]["read"]:
        fates = [f"{n:,} {fate}" for fate, n in result["lines"].items() if n and fate != "read"]
        add("lines", f"{result['lines']['read']:,} = {', '.join(fates)}")
    for reason, n in list(result["rejected"].items())[:10]:
        add("rejected", f"{n:,} {reason}")
    for reason, n in list(result["emptied"].items())[:10]:
        add("cells not read", f"{n:,} {reason}")
    table.add_section()
    totals = result["totals"]
    first, last = result["span"]
    add("events in all", f"{totals['events']:,} of {totals['users']:,} users, {first} to {last} (UTC)")
    if result["n_duplicates"]:
        add("exact duplicates", f"{result['n_duplicates']:,}")
    for name, found in result["event_types"].items():
        weight = "no weight" if found["weight"] is None else f"weight {found['weight']:g}"
        add(f"type {name}", f"{found['n']:,} events, {weight}")
    add(
        "items of events",
        f"{totals['items_with_events']:,}, of which {totals['items_with_events_described']:,} described",
    )
    add(
        "items described",
        f"{totals['items_described']:,}, of which {totals['items_with_events_described']:,} have events",
    )
    for note in result["notes"]:
        add("note", note)
    Console(stderr=True).print(table)


def _date(ms: int | None) -> str | None:
    if ms is None:
        return None
    return dt.datetime.fromtimestamp(ms / 1000, dt.UTC).strftime("%Y-%m-%d %H:%M")
