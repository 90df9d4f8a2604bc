"""One address, whoever reads it."""

from __future__ import annotations

from urllib.parse import quote

import psycopg2.extensions
import pytest
import sqlalchemy as sa
from asyncpg.connect_utils import _parse_connect_dsn_and_args
from hypothesis import given
from hypothesis import strategies as st

from recsys.dsn import postgres_url
from recsys.errors import InputError


def read_by_all(url: str) -> list[tuple[str | None, str | None, str | None, str, str | None]]:
    """User, password, host, port, database as SQLAlchemy, libpq and asyncpg have them."""
    by_sqlalchemy = sa.make_url(url)
    by_libpq = psycopg2.extensions.parse_dsn(url)
    (address, *_), by_asyncpg, *_ = _parse_connect_dsn_and_args(
        dsn=url, host=None, port=None, user=None, password=None, passfile=None, database=None, ssl=None,
        service=None, servicefile=None, direct_tls=None, server_settings=None, target_session_attrs=None,
        krbsrvname=None, gsslib=None,
    )  # fmt: skip
    return [
        (by_sqlalchemy.username, by_sqlalchemy.password, by_sqlalchemy.host, str(by_sqlalchemy.port),
         by_sqlalchemy.database),
        (by_libpq["user"], by_libpq["password"], by_libpq["host"], by_libpq["port"], by_libpq["dbname"]),
        (by_asyncpg.user, by_asyncpg.password, address[0], str(address[1]), by_asyncpg.database),
    ]  # fmt: skip


@pytest.mark.parametrize("password", ["s3cr/et", "p@ss", "a:b", "#1", "50%off", "x@h:1/y", "ü ", "%2F"])
def test_all_read_the_same_password_written_as_it_is(password: str) -> None:
    found = read_by_all(postgres_url(f"postgresql://u:{password}@h:5432/db"))
    assert set(found) == {("u", password if password != "%2F" else "/", "h", "5432", "db")}  # noqa: S105


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20))
def test_all_read_the_same_password_percent_encoded(password: str) -> None:
    url = postgres_url(f"postgres://us%40er:{quote(password, safe='')}@h:5432/db?sslmode=require")
    assert set(read_by_all(url)) == {("us@er", password, "h", "5432", "db")}
    assert postgres_url(url) == url


@pytest.mark.parametrize(
    ("url", "read"),
    [
        ("postgresql+psycopg2://h/db", "postgresql://h/db"),
        ("postgres://u@h:5432/db", "postgresql://u@h:5432/db"),
        (
            "postgresql://u:p@a:1,b:2/db?target_session_attrs=any",
            "postgresql://u:p@a:1,b:2/db?target_session_attrs=any",
        ),
        ("postgresql:///db?host=/var/run/postgresql", "postgresql:///db?host=/var/run/postgresql"),
        ("postgresql://u:p@[::1]:5432/db?application_name=a@b", "postgresql://u:p@[::1]:5432/db?application_name=a@b"),
        ("postgresql://u:p?w@h/db", "postgresql://u:p%3Fw@h/db"),
        ("postgresql://h?sslmode=disable", "postgresql://h/?sslmode=disable"),
    ],
)
def test_all_forms_of_an_address(url: str, read: str) -> None:
    assert postgres_url(url) == read


@pytest.mark.parametrize(
    "url", ["secret", "mysql://u:secret@h/db", "postgresql://u:p@h:secret/db", "postgresql://u:secret"]
)
def test_an_error_shows_no_password(url: str) -> None:
    with pytest.raises(InputError) as caught:
        postgres_url(url)
    assert "secret" not in str(caught.value)
    assert "postgresql://" in str(caught.value)
