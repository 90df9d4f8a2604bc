"""From raw tables to a prepared data set, as Ibis expressions on DuckDB.

Everything strictly before a cut-off: ids become keys, events get weights and sessions, items their latest
properties. The same inputs give the same data set.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple

import ibis
import numpy as np
import pyarrow as pa
from ibis import Table

from recsys import columns as col
from recsys.action import action_of
from recsys.data import parameters
from recsys.data.dataset import (
    AVAILABLE,
    CATEGORY,
    PRICE,
    SCHEMAS,
    TITLE,
    Dataset,
    DatasetMeta,
    items_as_of,
    write_dataset,
)
from recsys.data.engine_functions import latest, sha256, to_json
from recsys.data.flags import BETWEEN, NUMBER, SCHEMA_ORG, YES
from recsys.data.keys import KnownKeys, give_keys, is_id
from recsys.data.posted import with_posted
from recsys.data.raw import ROW, Declared, RawTables
from recsys.errors import EmptyResultError, InputError
from recsys.ids import IdType

_NO_LABEL = -1e300  # no client gives it
# Each entity, the column of its id, and the stream of its properties.
_OWNERS: Sequence[tuple[str, str, str]] = (
    ("item", "itemid", "item_properties"),
    ("user", "visitorid", "user_properties"),
)
SESSION_GAP_MS = 30 * 60 * 1000
# A price is named so, or is RetailRocket's hashed property 790, whose numbers look like n12000.000.
PRICE_NAMES = ("price", "790")
_NUMBER = r"^n?-?[0-9]+(\.[0-9]+)?$"
NO_ID = "of an id that is none: "  # and the entity follows
EMPTIED = ""  # is no category, no price, and not "unavailable"


class Prepared(NamedTuple):
    """A data set, and what it is silent about."""

    dataset: Dataset
    users: pa.Table  # user_key, user_id, first_seen_at, properties (a JSON object): for Postgres alone


def prepare(
    folder: Path,
    raw: RawTables,
    declared: Declared,
    as_of: int,
    *,
    known: KnownKeys | None = None,
    erased: Set[str] = frozenset(),
    complete_until: int | None = None,
    threads: int | None = None,
    memory_limit: str | None = None,
) -> Prepared:
    """Write the data set of everything strictly before `as_of` (microseconds) into an existing, empty folder.

    `known`: the keys given so far. `erased`: SHA-256 (hexadecimal) of the ids of users whose rows are left out.
    `complete_until`: milliseconds before which imports hold all events of their types; posted ones of then do not
    count.
    `memory_limit`: DuckDB's, e.g. "2GB"; beyond it, it spills to a temporary
    folder. Raises EmptyResultError when no event lies before the cut-off, InputError for event types without
    a weight and for missing columns.
    """
    given = known or KnownKeys.none()
    with tempfile.TemporaryDirectory(prefix="recsys-prepare-") as spill:
        config: dict[str, Any] = {"temp_directory": spill, "preserve_insertion_order": False}
        config |= {} if threads is None else {"threads": threads}
        config |= {} if memory_limit is None else {"memory_limit": memory_limit}
        con = ibis.duckdb.connect(**config)
        con.raw_sql("SET TimeZone = 'UTC'")
        cut_ms = -(-as_of // 1000)
        streams = {
            name: table.filter(table.timestamp < cut_ms) if "timestamp" in table.columns else table
            for name, table in raw.open(con, Path(spill)).items()
        }
        if erased:
            streams = _without(con, streams, erased)
        events, n_from, left_out = with_posted(
            con, streams["events"], streams.pop("posted_events"), declared, complete_until
        )
        streams["events"] = events
        streams["item_properties"] = _with_posted_properties(
            con, streams["item_properties"], streams.pop("posted_properties")
        )
        declared = _with_types(con, events, declared)
        seen = {
            entity: _keep(con, f"{entity}_seen", _first_seen(streams, owner, properties))
            for entity, owner, properties in _OWNERS
        }
        types = {entity: declared.id_types.get(entity, "string") for entity in ("item", "user", "category")}
        no_ids = _of_no_ids(con, events, seen, types)
        real = {entity: table.filter(is_id(table.id, types[entity])) for entity, table in seen.items()}
        items = give_keys(con, "item", real["item"], given.items, ["first", "id"])
        users = give_keys(con, "user", real["user"], given.users, ["first", "id"])
        _keep(con, "item_properties", _history(con, streams["item_properties"], items, types["category"]))
        _keep(con, "categories", _categories(con, streams["category_tree"], given, types["category"]))
        owners = items.select(item_key="key", item_id="id", first_seen_at=_instant(items.first))
        _keep(con, "items", owners)
        event_rows = con.to_pyarrow(_events(con, streams["events"], items, users, declared))
        tables = {
            "items": _items(con, streams["item_properties"], items, as_of),
            "users": _users(con, streams["user_properties"], users),
            "categories": con.table("categories").order_by(col.CATEGORY_KEY),
            "item_properties": con.table("item_properties").order_by([col.ITEM_KEY, col.PROPERTY, col.OCCURRED_AT]),
        }
        meta = DatasetMeta(
            source=declared.source,
            as_of=as_of,
            event_types=declared.event_types,
            event_weights=dict(declared.event_weights),
            label_event_types=declared.label_event_types,
            bought_event_types=declared.bought_event_types,
            id_types=dict(declared.id_types),
            task=declared.task,
            n_events_from=n_from,
            n_posted_left_out=left_out,
            n_left_out=no_ids,
        )
        user_rows = con.to_pyarrow(tables.pop("users"))
        arrow = {name: con.to_pyarrow(tables[name].select(SCHEMAS[name].names)) for name in tables}
        arrow["events"] = parameters.of_several(_with_sessions(event_rows))
        con.disconnect()
        return Prepared(write_dataset(folder, meta, arrow | {"users": user_rows}), user_rows)


def _without(con: Any, streams: dict[str, Table], erased: Set[str]) -> dict[str, Table]:
    """The streams less all rows of users who were erased."""
    con.con.register("erased", pa.table({"digest": sorted(erased)}))
    with_users = [name for name, table in streams.items() if "visitorid" in table.columns]
    ids = ibis.union(*(streams[name].select("visitorid") for name in with_users)).distinct()
    ids = ids.mutate(digest=sha256(ids.visitorid)).semi_join(con.table("erased"), "digest")
    gone = _keep(con, "erased_ids", ids.select("visitorid"))
    return streams | {name: streams[name].anti_join(gone, "visitorid") for name in with_users}


def _with_posted_properties(con: Any, properties: Table, posted: Table) -> Table:
    """`properties`, and what the API was told of the other items."""
    if not con.to_pyarrow(posted.count()).as_py():
        return properties
    columns = [ROW, "timestamp", "itemid", "property", "value"]
    described = properties.select("itemid").distinct()
    return properties.select(columns).union(posted.anti_join(described, "itemid").select(columns))


def _with_types(con: Any, events: Table, declared: Declared) -> Declared:
    """`declared` with every type of event that occurs; InputError for one without a weight."""
    found = con.to_pyarrow(events.group_by("event").agg(n=events.count())).to_pylist()
    if not found:
        raise EmptyResultError("no event lies before the cut-off; name a later one, or import events first")
    declared = declared.with_types(row["event"] for row in found)
    strays = {row["event"]: row["n"] for row in found if row["event"] not in declared.event_weights}
    if strays:
        raise InputError(f"events of types without a weight: {strays}; give each a weight (RECSYS_EVENT_WEIGHTS)")
    return declared


def _first_seen(streams: Mapping[str, Table], owner: str, properties: str) -> Table:
    """Each id of events or properties, and when it first appears (milliseconds)."""
    both = [
        table.group_by(id=table[owner]).agg(first=table.timestamp.min())
        for table in (streams["events"], streams[properties])
    ]
    union = both[0].union(both[1])
    return union.group_by("id").agg(first=union.first.min())


def _of_no_ids(con: Any, events: Table, seen: Mapping[str, Table], types: Mapping[str, IdType]) -> dict[str, int]:
    """Reason → events that are left out because their user's or item's id is none; such ids were written by hand."""
    found = {}
    for entity, owner, _ in _OWNERS:
        bad = seen[entity].filter(~is_id(seen[entity].id, types[entity]))
        if con.to_pyarrow(bad.count()).as_py():
            found[NO_ID + entity] = int(con.to_pyarrow(events.semi_join(bad, events[owner] == bad.id).count()).as_py())
    return found


def _events(con: Any, events: Table, items: Table, users: Table, declared: Declared) -> Table:
    events = _with_actions(con, events, declared)
    keyed = events.select(
        "timestamp",
        "transactionid",
        "visitorid",
        "itemid",
        "parameters",
        value=events.value.cast("float64"),
        event_id=events.seq,
        event_type=events.event,
        weight=events.weight,
        label=events.action_label,
    )
    keyed = keyed.inner_join(items.select(item_key="key", itemid="id"), "itemid")
    keyed = keyed.inner_join(users.select(user_key="key", visitorid="id"), "visitorid")
    keyed = keyed.mutate(occurred_at=_instant(keyed.timestamp)).order_by(["timestamp", col.EVENT_ID])
    return keyed.drop("visitorid", "itemid", "timestamp")


def _with_actions(con: Any, events: Table, declared: Declared) -> Table:
    """Events with `weight` and `action_label`, as `action_of` reads them: the updater learns the same by day."""
    used = events.filter(events.acted.notnull() | events.label.notnull()).select("event", "acted", "label").distinct()
    rows = [(row["event"], row["acted"], row["label"]) for row in con.to_pyarrow(used).to_pylist()]
    plain = [(name, None, None) for name in declared.event_weights]
    actions = [
        action_of(event, label, json.loads(acted) if acted else {}, declared.event_weights)
        for event, acted, label in [*plain, *rows]
    ]
    columns = {
        "event": pa.array([row[0] for row in [*plain, *rows]], pa.string()),
        "acted": pa.array([row[1] or "" for row in [*plain, *rows]], pa.string()),
        "given": pa.array([row[2] for row in [*plain, *rows]], pa.float64()).fill_null(_NO_LABEL),
        "weight": pa.array([action.weight for action in actions], pa.float32()),
        "action_label": pa.array([action.label for action in actions], pa.float32()),
    }
    con.con.register("actions", pa.table(columns))
    keyed = events.mutate(acted=events.acted.fill_null(""), given=events.label.fill_null(_NO_LABEL)).drop("label")
    return keyed.inner_join(con.table("actions"), ["event", "acted", "given"])


def _with_sessions(events: pa.Table) -> pa.Table:
    """Events, in order of time, with session_id: a pause of 30 minutes or another transaction ends a user's session.

    Events of one transaction stay together, however far apart. Sessions are numbered from 0, user by user.
    """
    user_key = events[col.USER_KEY].to_numpy()
    by_user = np.argsort(user_key, kind="stable")
    occurred_at = events[col.OCCURRED_AT].cast(pa.int64()).to_numpy()[by_user]
    orders = events["transactionid"].combine_chunks().dictionary_encode()
    order = orders.indices.fill_null(-1).to_numpy()[by_user]
    in_orders = (order[1:] >= 0) & (order[:-1] >= 0)
    goes_on = np.where(in_orders, np.diff(order) == 0, np.diff(occurred_at) <= SESSION_GAP_MS * 1000)
    starts = np.ones(len(by_user), np.bool_)
    starts[1:] = (np.diff(user_key[by_user]) != 0) | ~goes_on
    session_id = np.empty(len(by_user), np.int64)
    session_id[by_user] = np.cumsum(starts) - 1
    return events.append_column(col.SESSION_ID, pa.array(session_id))


def _history(con: Any, properties: Table, items: Table, category_id_type: IdType) -> Table:
    """Categories, availability, titles and prices over time; of values at one instant the later row's.

    Availability that is no word for yes is no; a category whose id is none is not told. What a later state of the
    catalogue emptied has the value EMPTIED from then on.
    """
    price = _price_name(con, properties)
    names = [CATEGORY, AVAILABLE, TITLE, *([price] if price else [])]
    used = _keep(con, "used_properties", properties.filter(properties.property.isin(names)))
    number = used.value.fill_null(EMPTIED).re_replace("^n", "")
    # Cases search only their own rows; conditions joined by `or` may each search all of them.
    valid = ibis.cases(
        (used.value.isnull(), True),
        (used.property == AVAILABLE, used.value.strip() != ""),
        (used.property == CATEGORY, is_id(used.value, category_id_type)),
        (used.property != TITLE, (number == EMPTIED) | number.re_search(_NUMBER)),
        else_=True,
    )
    used = used.filter(valid)
    words = used.filter(used.property == AVAILABLE).select("property", "value").distinct()  # many rows say the same
    used = used.left_join(words.mutate(yes=_says_yes(words.value)), ["property", "value"])
    used = used.select(
        ROW,
        "timestamp",
        "itemid",
        property=used.property.cases((price, PRICE), else_=used.property) if price else used.property,
        value=ibis.cases(
            (used.value.isnull(), EMPTIED),
            (used.property == AVAILABLE, ibis.ifelse(used.yes, "1", "0")),
            (used.property.isin([CATEGORY, TITLE]), used.value),
            else_=used.value.re_replace("^n", ""),
        ),
    )
    used = used.inner_join(items.select(item_key="key", itemid="id"), "itemid")
    once = used.group_by([col.ITEM_KEY, "timestamp", "property"]).agg(value=latest(used.value, used[ROW]))
    return once.select(col.ITEM_KEY, "property", "value", occurred_at=_instant(once.timestamp))


def _says_yes(value: ibis.Value) -> ibis.Value:
    """As `flags.flag`, and no where that gives None."""
    word = value.strip().lower().re_replace(SCHEMA_ORG, "")
    number = word.re_replace("^n", "").replace(",", ".").try_cast("float64")
    return ibis.ifelse(word.re_search(NUMBER), number > 0, word.re_replace(BETWEEN, " ").isin(YES))


def _price_name(con: Any, properties: Table) -> str | None:
    """The property that gives a price: of `PRICE_NAMES` the one that does so for most items."""
    named = properties.filter(properties.property.isin(PRICE_NAMES))
    found = con.to_pyarrow(named.select("property").distinct())["property"].to_pylist()
    if len(found) < 2:
        return found[0] if found else None
    covered = named.filter(named.value.re_search(_NUMBER)).group_by("property").agg(n=lambda t: t.itemid.nunique())
    best = con.to_pyarrow(covered.order_by([ibis.desc("n"), ibis.desc("property")]).limit(1)).to_pylist()
    return best[0]["property"] if best else None


def _categories(con: Any, tree: Table, given: KnownKeys, id_type: IdType) -> Table:
    """Every category of the tree or of an item, with its key and its parent's, in the order of ids."""
    named = con.table("item_properties").filter(lambda t: (t.property == CATEGORY) & (t.value != EMPTIED))
    parents_named = tree.filter(tree.parentid.notnull()).select(id="parentid")
    ids = ibis.union(tree.select(id="categoryid"), parents_named, named.select(id="value"))
    ids = ids.distinct()
    ids = ids.filter(is_id(ids.id, id_type))
    keys = give_keys(con, "category", ids.mutate(length=ids.id.length()), given.categories, ["length", "id"])
    # The later row counts, a root's too, whose parent is null: states of the tree follow each other.
    latest_parents = tree.group_by(id=tree.categoryid).agg(parent_id=latest(tree.parentid.fill_null(""), tree[ROW]))
    parents = latest_parents.mutate(parent_id=latest_parents.parent_id.nullif(""))
    placed = keys.left_join(parents, "id").drop("id_right")
    up = keys.select(parent_id="id", parent_category_key="key")
    placed = placed.left_join(up, "parent_id")
    return placed.select("parent_category_key", category_key="key", category_id="id")


def _items(con: Any, properties: Table, items: Table, as_of: int) -> Table:
    """The table items: what `items_as_of` says, title, and all other properties as a JSON object."""
    state = items_as_of(con, as_of)
    ids = con.table("items").select(col.ITEM_KEY, col.ITEM_ID)
    joined = state.inner_join(ids, col.ITEM_KEY)
    others = properties.filter(properties.property.notin([CATEGORY, AVAILABLE, TITLE]))
    objects = _latest_objects(con, "item", others, "itemid", items).rename({col.ITEM_KEY: "key"})
    history = con.table("item_properties")
    history = history.filter(history.property == TITLE)
    titles = history.group_by(col.ITEM_KEY).agg(title=latest(history.value, history.occurred_at).nullif(EMPTIED))
    joined = joined.left_join(objects, col.ITEM_KEY).drop("item_key_right")
    joined = joined.left_join(titles, col.ITEM_KEY).drop("item_key_right")
    return joined.mutate(properties=joined.properties.fill_null("{}")).order_by(col.ITEM_KEY)


def _users(con: Any, properties: Table, users: Table) -> Table:
    objects = _latest_objects(con, "user", properties, "visitorid", users)
    joined = users.left_join(objects, "key").drop("key_right")
    return joined.select(
        user_key="key",
        user_id="id",
        first_seen_at=_instant(joined.first),
        properties=joined.properties.fill_null("{}"),
    ).order_by(col.USER_KEY)


def _latest_objects(con: Any, name: str, properties: Table, owner: str, keys: Table) -> Table:
    """key, properties: a JSON object of the newest value of each, of rows at one instant the later in the source; it
    lacks those whose newest row is empty.

    Millions of groups: one sort by integers keeps the rows of an owner together, which the objects need next. Names
    come in after it, quoted once for all rows.
    """
    names = properties.select("property").distinct()
    names = names.mutate(code=ibis.row_number().over(order_by="property").cast("int32"), name=to_json(names.property))
    names = _keep(con, f"{name}_property_names", names)
    placed = properties.inner_join(keys.select("key", **{owner: "id"}), owner)
    placed = placed.inner_join(names.select("property", "code"), "property")
    placed = placed.select("key", "code", "value", newness=_newness(con, properties, placed))
    placed = placed.mutate(next_code=placed.code.lead().over(group_by="key", order_by=["code", "newness"]))
    newest = placed.filter(placed.next_code.isnull() | (placed.next_code != placed.code))
    newest = newest.filter(newest.value.notnull()).inner_join(names.select("code", "name"), "code")
    members = (newest.name + ":" + to_json(newest.value)).group_concat(",")
    return newest.group_by("key").agg(properties=ibis.literal("{") + members + "}")


def _newness(con: Any, properties: Table, placed: Table) -> ibis.Value:
    """A number that grows with the timestamp, and with the position in the source where timestamps are equal."""
    extent = properties.agg(
        first=properties.timestamp.min(), last=properties.timestamp.max(), n=properties[ROW].max() + 1
    )
    [row] = con.to_pyarrow(extent).to_pylist()
    first, last, n = (row[name] or 0 for name in ("first", "last", "n"))
    kind = "int64" if (last - first + 1) * n < 2**63 else "decimal(38, 0)"  # the wide one takes twice as long
    return (placed.timestamp - first).cast(kind) * n + placed[ROW]


def _instant(milliseconds: ibis.Value) -> ibis.Value:
    return milliseconds.as_timestamp("ms").cast("timestamp('UTC')")


def _keep(con: Any, name: str, table: Table) -> Table:
    """Compute a table now, so that what is built on it does not compute it again."""
    return con.create_table(name, table, temp=True)
