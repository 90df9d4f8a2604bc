"""Which of the events that clients posted become part of a data set, beside those that were imported.

The shop's own export may bring the same events later, so a posted one is left out where an import says that it is
complete for that time and type, and otherwise where an imported one has the same user, item, type and second. See
research/decisions/0012.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import ibis
from ibis import Table

from recsys.action import AGAINST
from recsys.data.keys import is_id
from recsys.data.raw import Declared

GUEST: Final = "of a guest"
NO_INTEGER: Final = "id is no integer"
COVERED: Final = "an import is complete for that time"
TWICE: Final = "imported as well"
NO_WEIGHT: Final = "no weight for type "  # and the type follows
AFTER_GAP: Final = "few, and long after all others"

MIN_AFTER_GAP: Final = 1_000
_COLUMNS: Final = (
    *("timestamp", "visitorid", "event", "itemid", "transactionid", "value", "parameters", "seq"),
    *("acted", "label"),
)


def with_posted(
    con: Any, imported: Table, posted: Table, declared: Declared, complete_until: int | None
) -> tuple[Table, dict[str, int], dict[str, int]]:
    """All events; how many are from where ("import", "posted"); and reason → how many posted ones were left out.

    `imported`, `posted`: raw events (`recsys.data.raw`), `visitorid` of `posted` null for guests. `complete_until`:
    milliseconds before which imports hold all events of the types that occur in them, None where none says so.
    """
    n_imported = int(con.to_pyarrow(imported.count()).as_py())
    if not con.to_pyarrow(posted.count()).as_py():
        return imported, {"import": n_imported, "posted": 0}, {}
    judged = con.create_table("judged_events", _judged(con, imported, posted, declared, complete_until), temp=True)
    found = con.to_pyarrow(judged.group_by("reason").agg(n=judged.count())).to_pylist()
    left_out = {row["reason"]: row["n"] for row in sorted(found, key=lambda row: row["reason"] or "") if row["reason"]}
    accepted = judged.filter(judged.reason.isnull())
    counts = {"import": n_imported, "posted": sum(row["n"] for row in found if row["reason"] is None)}
    return imported.select(_COLUMNS).union(accepted.select(_COLUMNS)), counts, left_out


def _judged(con: Any, imported: Table, posted: Table, declared: Declared, complete_until: int | None) -> Table:
    """`posted` with `reason`, null for those that count."""
    second = {"second": lambda table: table.timestamp // 1000}
    same = ["visitorid", "itemid", "event", "second"]
    there = imported.mutate(**second).semi_join(posted.mutate(**second), same).select(same).distinct()
    joined = posted.mutate(**second).left_join(there.mutate(is_there=True), same)
    covered = ibis.literal(False)
    if complete_until is not None:
        types = con.to_pyarrow(imported.select("event").distinct())["event"].to_pylist()
        covered = (joined.timestamp < complete_until) & joined.event.isin(types)
    bad_id = ibis.literal(False)
    for column, entity in (("visitorid", "user"), ("itemid", "item")):
        if declared.id_types.get(entity) == "integer":
            bad_id = bad_id | ~is_id(joined[column], "integer")
    reason = ibis.cases(
        (joined.visitorid.isnull(), GUEST),
        (joined.event.notin([*declared.event_weights, *AGAINST]), ibis.literal(NO_WEIGHT) + joined.event),
        (bad_id, NO_INTEGER),
        (covered, COVERED),
        (joined.is_there.notnull(), TWICE),
    )
    return joined.select(*_COLUMNS, reason=reason)


def end_of_posted(islands: Sequence[tuple[int, int]]) -> tuple[int | None, int]:
    """Where posted events end that are too few to stand so far from all others (None: they need not), and their number.

    `islands`: start and number of the events after each long gap, in order of time. A data set ends with its last
    event, and what the newest weeks hold is what models are judged by: a handful of events years after an old export
    would leave nothing to judge by.
    """
    end, n_left_out = None, 0
    for start, n in reversed(islands):
        if n >= MIN_AFTER_GAP:
            break
        end, n_left_out = start, n_left_out + n
    return end, n_left_out
