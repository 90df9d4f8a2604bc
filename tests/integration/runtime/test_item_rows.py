"""The whole catalogue, read in blocks, is what its rows say one by one."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import asyncpg
import numpy as np
import pytest
import sqlalchemy as sa

from fast_api_service.runtime import item_rows
from fast_api_service.runtime.item_rows import ItemChange
from recsys.dsn import postgres_url
from recsys.serving.catalogue import ItemDictionary
from recsys.serving.ids import JsonType

N = 8000
BAD_IDS = {"integer": ["sale", "01", "5.0", "-0", "1" * 19], "string": ["", " ", " pad ", "x" * 129]}
ODD = [  # properties of single items; some of these names no other item has
    '{"gift": 3, "late": "n-7.000"}',
    '{"gift": "no", "huge": 1e400, "price": 1e400, "weight": -1e300}',
    '{"price": "1e3", "weight": null, "nested": {"price": 1}, "list": [1], "yes": true}',
    '{"price": "", "weight": "NaN", "later": "12.50", "790": "n12"}',
    '{"weight": "12\\n13", "price": "\\u0661"}',
    '{"late": 123456789012345678901234567890}',
    "{}",
]


def stock(engine: sa.Engine, kind: JsonType, spacing: int) -> None:
    """N items, every `spacing`-th key; ids and properties of some are odd."""
    prefix = "" if kind == "integer" else "tab\tand line\n"
    sql = """
    insert into items (item_key, item_id, category_key, available, properties, deleted_at)
    select k * :spacing, :prefix || (500 - 3 * k), nullif(k % 10, 0), k % 3 > 0, jsonb_build_object(
        'price', (k % 977 / 7.0)::numeric(9, 2)::text, 'weight', k, 'colour', 'red', '790', 'n' || k || '.000'),
        case when k % 11 = 0 then now() end
    from generate_series(1, :n) k"""
    with engine.begin() as connection:
        connection.execute(sa.text(sql), {"spacing": spacing, "prefix": prefix, "n": N})
        for table, values in (("item_id", BAD_IDS[kind]), ("properties", ODD)):
            for place, value in enumerate(values):  # not of the sample: these keys are 1 more than multiples of 3
                key = spacing * (100 * (2 if table == "item_id" else 1) + 1 + 3 * place)
                row = sa.text(f"update items set {table} = :value, deleted_at = null where item_key = :key")
                column = sa.text(row.text.replace(":value", "(:value)::jsonb")) if table == "properties" else row
                connection.execute(column, {"value": value, "key": key})


async def both(url: str, kind: JsonType) -> tuple[ItemDictionary, ItemDictionary]:
    """In blocks, and row by row."""
    connection = await asyncpg.connect(postgres_url(url))
    try:
        async with connection.transaction(isolation="repeatable_read"):
            found = await item_rows.load(connection, kind)
            rows = await connection.fetch(item_rows.CHANGED_SQL.format(is_new="true order by item_key"))
    finally:
        await connection.close()
    expected = ItemDictionary(kind)
    for row in rows:
        item_rows.apply(ItemChange(*row), expected)
    return found, expected


def contents(items: ItemDictionary) -> dict[str, Any]:
    known = [key for key, id_ in enumerate(items.id_by_key) if id_ is not None]
    last = max(known)
    columns = {name: np.array(items.numbers.column(name))[: last + 1] for name in items.numbers.names}
    return {
        "size": (len(items), items.n_available, items.unreadable),
        "ids": items.id_by_key[: last + 1],
        "available": items.available_by_key().tolist()[: last + 1],
        "categories": [items.category(key) for key in known],
        "numbers": {
            name: [None if math.isnan(one) else one for one in column.tolist()]
            for name, column in columns.items()
            if not np.isnan(column).all()
        },
    }


@pytest.mark.parametrize("kind", ["integer", "string"])
@pytest.mark.parametrize("spacing", [1, 7])  # names of properties are those of all items, or of a sample and the rest
def test_the_catalogue_in_blocks_is_its_rows_one_by_one(
    clean_database: sa.Engine, clean_database_url: str, monkeypatch: pytest.MonkeyPatch, kind: JsonType, spacing: int
) -> None:
    monkeypatch.setattr(item_rows, "_VALUES", 4000)
    stock(clean_database, kind, spacing)
    found, expected = asyncio.run(both(clean_database_url, kind))
    assert len(found.unreadable) == len(BAD_IDS[kind])
    assert set(contents(found)["numbers"]) == {"790", "gift", "late", "later", "price", "weight"}
    assert contents(found) == contents(expected)


def test_an_empty_catalogue_is_empty(clean_database: sa.Engine, clean_database_url: str) -> None:
    found, _ = asyncio.run(both(clean_database_url, "string"))
    assert (len(found), found.numbers.names) == (0, [])


def test_a_property_that_is_text_nearly_everywhere_is_no_number(
    clean_database: sa.Engine, clean_database_url: str
) -> None:
    stock(clean_database, "integer", 7)
    with clean_database.begin() as connection:  # one that is not in the sample
        connection.execute(sa.text("""update items set properties = '{"colour": "42"}' where item_key = 7"""))
    found, _ = asyncio.run(both(clean_database_url, "integer"))
    assert "colour" not in found.numbers.names


def test_a_property_of_few_items_is_found_where_the_sample_has_none(
    clean_database: sa.Engine, clean_database_url: str
) -> None:
    with clean_database.begin() as connection:
        sql = "insert into items (item_key, item_id, properties) values (50000, 'a', '{}'), (7, 'b', :properties)"
        connection.execute(sa.text(sql), {"properties": '{"gift": "2"}'})
    found, expected = asyncio.run(both(clean_database_url, "string"))
    assert contents(found) == contents(expected)
    assert found.numbers.names == ["gift"]
