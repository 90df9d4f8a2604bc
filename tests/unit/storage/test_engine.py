"""Which errors are waited for, and which are not."""

from __future__ import annotations

import psycopg2
import psycopg2.errors
import pytest
import sqlalchemy as sa

from recsys.errors import InputError
from recsys.storage.engine import engine_of, is_lost_connection, with_patience


def refused() -> psycopg2.OperationalError:
    try:
        psycopg2.connect("postgresql://postgres@127.0.0.1:1/x")
    except psycopg2.OperationalError as error:
        return error
    raise AssertionError


def test_a_refused_connection_is_waited_for() -> None:
    assert is_lost_connection(refused())
    assert is_lost_connection(sa.exc.OperationalError("select 1", {}, refused()))
    assert is_lost_connection(psycopg2.InterfaceError("connection already closed"))


@pytest.mark.parametrize(
    "error",
    [
        ValueError("server closed the connection"),
        psycopg2.OperationalError('FATAL:  database "x" does not exist'),
        psycopg2.OperationalError('FATAL:  password authentication failed for user "x"'),
        psycopg2.InterfaceError("can't adapt type"),
        psycopg2.IntegrityError("duplicate key"),
    ],
)
def test_other_errors_are_not(error: BaseException) -> None:
    assert not is_lost_connection(error)


def test_patience_ends() -> None:
    calls = []

    def always() -> None:
        calls.append(1)
        raise refused()

    with pytest.raises(psycopg2.OperationalError):
        with_patience(always, 0.7)
    assert len(calls) >= 2


def test_patience_is_not_spent_on_mistakes() -> None:
    calls = []

    def wrong() -> None:
        calls.append(1)
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011 - its own error
        with_patience(wrong, 60)
    assert len(calls) == 1


@pytest.mark.parametrize("url", ["mysql://x/y", "no url"])
def test_a_url_that_is_not_postgres_is_an_error(url: str) -> None:
    with pytest.raises(InputError, match="DATABASE_URL"):
        engine_of(url)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg"])
def test_all_common_spellings_of_a_url_work(scheme: str) -> None:
    assert engine_of(f"{scheme}://u@h:5/d").url.drivername == "postgresql+psycopg2"
