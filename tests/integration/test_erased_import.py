"""A file that still holds a user who was erased brings nothing of the user back, whatever the way it is loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from recsys.data.sources.base import Part
from recsys.serving.ids import digest_of
from recsys.steps.import_erased import LEFT_OUT
from recsys.storage import raw_tables as raw
from recsys.storage import tables

_Load = Callable[..., dict[str, Any]]
_OPTIONS = {"user": "user", "item": "item", "timestamp": "at", "event": "event"}
_AT = 1_700_000_000


@pytest.mark.parametrize("how", [{}, {"drop_duplicates": True}, {"keep_duplicates": True}, {"replace": True}])
def test_a_later_file_brings_no_erased_user_back(
    load: _Load, clean_database: sa.Engine, tmp_path: Path, how: dict[str, bool]
) -> None:
    load("table", _file(tmp_path, "first.csv", "abc"), options=_OPTIONS)
    _erase(clean_database, "b")
    told = load("table", _file(tmp_path, "second.csv", "abcd", day=1), options=_OPTIONS, **how)
    assert "b" not in _users(clean_database)
    assert (told["n_loaded"]["events"], told["left_out"][LEFT_OUT]) == (3, 1)
    assert told["lines"] == {
        "read": 5, "loaded": 3, "rejected": 0, "left out": 1, "blank": 0, "header": 1, "continued": 0
    }  # fmt: skip


def test_a_grown_export_brings_no_erased_user_back(load: _Load, clean_database: sa.Engine, tmp_path: Path) -> None:
    load("table", _file(tmp_path, "events.csv", "abc"), options=_OPTIONS)
    _erase(clean_database, "b")
    told = load("table", _file(tmp_path, "events.csv", "abcde"), options=_OPTIONS)
    assert _users(clean_database) == ["a", "c", "d", "e"]
    assert told["n_loaded"]["events"] == 2


@pytest.mark.parametrize("how", [{}, {"replace": True}])
def test_who_is_erased_while_the_file_is_read_does_not_come_with_it(
    load: _Load, clean_database: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: dict[str, bool]
) -> None:
    from recsys.data.sources import table

    parts = table.Table.parts

    def erasing(source: table.Table) -> list[Part]:
        return [replace(part, read=lambda part=part: _and_then_erase(part)) for part in parts(source)]

    def _and_then_erase(part: Part) -> Any:
        yield from part.read()
        with clean_database.begin() as connection:  # the tombstone; what the erasure removes cannot see these rows
            connection.execute(_tombstone("b"))

    monkeypatch.setattr(table.Table, "parts", erasing)
    load("table", _file(tmp_path, "first.csv", "abc"), options=_OPTIONS, **how)
    assert _users(clean_database) == ["a", "c"]


def _file(folder: Path, name: str, users: str, day: int = 0) -> Path:
    path = folder / name
    lines = [f"{user},i{n},{_AT + day * 86_400 + n},view" for n, user in enumerate(users)]
    path.write_text("\n".join(["user,item,at,event", *lines]) + "\n")
    return path


def _tombstone(user: str) -> sa.Insert:
    from sqlalchemy.dialects.postgresql import insert

    return insert(tables.erased_users).values(digest=digest_of(user)).on_conflict_do_nothing()


def _erase(engine: sa.Engine, user: str) -> None:
    with engine.begin() as connection:
        connection.execute(_tombstone(user))
        connection.execute(sa.delete(raw.events).where(raw.events.c.visitorid == user))


def _users(engine: sa.Engine) -> list[str]:
    with engine.connect() as connection:
        return sorted(set(connection.scalars(sa.select(raw.events.c.visitorid))))
