"""The files of a generated shop: RetailRocket's three, the same bytes for the same sizes and seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from numpy.typing import NDArray

from recsys.data.sources.generated import DAY_MS, N_DAYS, START_MS, Floats, Ints, Shop, draw_events, draw_shop
from recsys.errors import InputError

MAX_USERS: Final = 1_500_000
PROPERTY_ROWS_PER_ITEM: Final = 85  # as RetailRocket has them
_N_CATEGORY_ROWS, _N_AVAILABLE_ROWS, _N_PRICE_ROWS = 2, 6, 8
_N_FIXED_ROWS = _N_CATEGORY_ROWS + _N_AVAILABLE_ROWS + _N_PRICE_ROWS + 1
PRICE_PROPERTY, STYLE_PROPERTY = "790", "364"


def write_shop(
    folder: Path,
    n_users: int,
    n_items: int,
    n_events: int,
    seed: int = 42,
    property_rows_per_item: int = PROPERTY_ROWS_PER_ITEM,
) -> dict[str, int]:
    """Write the files of a shop into `folder`; the same arguments give the same bytes. Counts rows by file.

    Exactly `n_events` events of exactly `n_users` users; a file appears when it is whole. Raises InputError for
    sizes that make no shop.
    """
    _check_sizes(n_users, n_items, n_events, property_rows_per_item)
    folder.mkdir(parents=True, exist_ok=True)
    shop = draw_shop(n_users, n_items, seed)
    item_ids = np.random.default_rng([seed, 10]).permutation(2 * n_items)[:n_items]
    category_ids = np.random.default_rng([seed, 11]).permutation(len(shop.category_parent))
    user_ids = np.random.default_rng([seed, 12]).permutation(n_users)

    counts = {"category_tree.csv": _write(folder / "category_tree.csv", [_tree_rows(shop, category_ids)])}
    halves = (0, n_items // 2, n_items)
    for part in (1, 2):
        name = f"item_properties_part{part}.csv"
        rng = np.random.default_rng([seed, 20 + part])
        rows = _property_rows(shop, item_ids, category_ids, halves[part - 1], halves[part], property_rows_per_item, rng)
        counts[name] = _write(folder / name, rows)
    events = draw_events(shop, n_events, seed)
    counts["events.csv"] = _write(folder / "events.csv", _event_rows(events, user_ids, item_ids))
    return counts


def _event_rows(events: Mapping[str, NDArray[Any]], user_ids: Ints, item_ids: Ints) -> Iterator[pa.RecordBatch]:
    names = pa.array(["view", "addtocart", "transaction"])
    transaction = events["transaction"]
    yield pa.record_batch(
        {
            "timestamp": events["timestamp"],
            "visitorid": user_ids[events["user"]],
            "event": names.take(pa.array(events["event"])),
            "itemid": item_ids[events["item"]],
            "transactionid": pa.array(transaction, mask=transaction < 0),
        }
    )


def _tree_rows(shop: Shop, category_ids: Ints) -> pa.RecordBatch:
    parent = shop.category_parent
    parents = pa.array(category_ids[np.maximum(parent, 0)], mask=parent < 0)
    return pa.record_batch({"categoryid": category_ids, "parentid": parents})


def _property_rows(
    shop: Shop, item_ids: Ints, category_ids: Ints, first: int, last: int, per_item: int, rng: np.random.Generator
) -> Iterator[pa.RecordBatch]:
    """Rows of the items `first` … `last`, some thousand items at a time, in no order."""
    leaf_id = category_ids[len(category_ids) - shop.n_leaves :].astype(str)
    noise = _Noise(rng)
    for start in range(first, last, 10_000):
        item = np.arange(start, min(start + 10_000, last))
        n = len(item)
        earliest = np.maximum(shop.item_arrival[item], 0.0)[:, None]

        def days(count: int, n: int = n, earliest: Floats = earliest) -> Floats:
            drawn = rng.uniform(np.broadcast_to(earliest, (n, count)), N_DAYS)
            drawn[:, 0] = earliest[:, 0]
            return drawn

        category_day, price_day = days(_N_CATEGORY_ROWS), days(_N_PRICE_ROWS)
        leaf = np.repeat(shop.item_leaf[item][:, None], _N_CATEGORY_ROWS, axis=1)
        moved = rng.random(n) < 0.05
        leaf[moved, 0] = rng.integers(0, shop.n_leaves, moved.sum())
        available_day = days(_N_AVAILABLE_ROWS)
        changes = np.column_stack([shop.item_outage[item], shop.item_retired[item]])
        within = changes < N_DAYS
        available_day[:, 1:4][within] = changes[within]
        is_available = shop.is_available(np.broadcast_to(item[:, None], available_day.shape), available_day)
        price = np.round(shop.item_price[item][:, None] * rng.normal(1, 0.05, price_day.shape)).astype(np.int64)
        others = per_item - _N_FIXED_ROWS
        other_day = rng.uniform(np.broadcast_to(earliest, (n, others)), N_DAYS)
        other_names, other_values = noise.draw(n * others)
        pieces = [
            (category_day, "categoryid", pa.array(leaf_id[leaf].ravel())),
            (available_day, "available", pc.if_else(pa.array(is_available.ravel()), "1", "0")),
            (price_day, PRICE_PROPERTY, _number_texts(price)),
            (earliest, STYLE_PROPERTY, pa.array((700_000 + 1_111 * shop.item_style[item]).astype(str))),
            (other_day, other_names, other_values),
        ]
        for day, name, value in pieces:
            owner = np.repeat(item_ids[item], day.shape[1])
            named = pa.repeat(name, len(owner)) if isinstance(name, str) else name
            timestamp = (START_MS + day.ravel() * DAY_MS).astype(np.int64)
            yield pa.record_batch({"timestamp": timestamp, "itemid": owner, "property": named, "value": value})


class _Noise:
    """Hashed properties that say nothing: names by a skewed law, values out of a stock of texts."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        names = np.setdiff1d(np.arange(1_100).astype(str), [PRICE_PROPERTY, STYLE_PROPERTY])
        self._names = pa.array(rng.permutation(names))
        self._cumulative = np.cumsum(1.0 / np.arange(1, len(names) + 1))
        tokens = rng.integers(1_000, 1_400_000, (20_000, 2)).astype(str)
        numbers = rng.integers(1, 5_000, 20_000).astype(str)
        shape = rng.integers(0, 3, 20_000)
        texts = [(a, f"{a} {b}", f"n{n}.000 {a}")[kind] for (a, b), n, kind in zip(tokens, numbers, shape, strict=True)]
        self._values = pa.array(texts)

    def draw(self, n: int) -> tuple[pa.Array, pa.Array]:
        drawn = self._rng.random(n) * self._cumulative[-1]
        names = self._names.take(pa.array(np.searchsorted(self._cumulative, drawn)))
        return names, self._values.take(pa.array(self._rng.integers(0, len(self._values), n)))


def _number_texts(values: Ints) -> pa.Array:
    """Numbers as RetailRocket writes them: `n12000.000`."""
    return pc.binary_join_element_wise("n", pa.array(values.ravel()).cast(pa.string()), ".000", "")


def _write(path: Path, batches: Iterator[pa.RecordBatch] | list[pa.RecordBatch]) -> int:
    """Write batches as CSV, the file appearing when it is whole; gives the number of rows."""
    part = path.with_name(path.name + ".part")
    n = 0
    options = pa.csv.WriteOptions(include_header=False, quoting_style="none")
    with part.open("wb") as file:
        for batch in batches:
            if n == 0:
                file.write((",".join(batch.schema.names) + "\n").encode())
            pa.csv.write_csv(batch, file, options)
            n += batch.num_rows
    part.replace(path)
    return n


def _check_sizes(n_users: int, n_items: int, n_events: int, property_rows_per_item: int) -> None:
    if not 1 <= n_users <= MAX_USERS:
        raise InputError(f"a shop has 1 to {MAX_USERS:,} users, not {n_users:,}")
    if n_items < 10:
        raise InputError(f"a shop has at least 10 items, not {n_items:,}")
    if n_events < n_users:
        raise InputError(f"{n_events:,} events are too few for {n_users:,} users: each has one at least")
    if property_rows_per_item < _N_FIXED_ROWS + 1:
        raise InputError(f"an item has at least {_N_FIXED_ROWS + 1} property rows, not {property_rows_per_item}")
