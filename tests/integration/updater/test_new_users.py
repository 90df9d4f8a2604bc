"""Keys for users whom only events name: who gets one, in which order, and who does not."""

from __future__ import annotations

import hashlib

import pytest
import sqlalchemy as sa

from recsys.storage import locks
from recsys.updater.new_users import give_keys
from recsys.updater.store import LeaseLostError
from tests.integration import connected
from tests.integration import serving_shop as shop
from tests.integration.updater.updater_processes import execute, rows


def given(url: str, *user_ids: str, fence: int = 0) -> dict[str, int]:
    return connected.run(url, lambda connections: give_keys(connections, fence, user_ids))


def test_keys_follow_the_order_of_the_log_and_are_given_once(
    clean_database_url: str, clean_database: sa.Engine
) -> None:
    shop.stock(clean_database)  # users 501 to 503
    assert given(clean_database_url, "900", "502", "800") == {"900": 4, "502": 2, "800": 5}
    assert given(clean_database_url, "800", "850", "900") == {"800": 5, "850": 6, "900": 4}
    new = rows(clean_database, "select told_at, first_seen_at, properties from users where user_key = 5")
    assert new == [{"told_at": None, "first_seen_at": None, "properties": {}}], "the next data set may tell"


def test_who_was_erased_or_cannot_be_of_this_catalogue_gets_none(
    clean_database_url: str, clean_database: sa.Engine
) -> None:
    shop.stock(clean_database)
    execute(clean_database, "insert into erased_users (digest) values (:d)", d=hashlib.sha256(b"900").digest())
    assert given(clean_database_url, "900", "corn_3", "0901", "901") == {"901": 4}
    assert {row["user_id"] for row in rows(clean_database, "select user_id from users")} == {"501", "502", "503", "901"}


def test_it_does_not_wait_for_the_nightly_preparation(clean_database_url: str, clean_database: sa.Engine) -> None:
    shop.stock(clean_database)
    with clean_database.begin() as connection:
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(locks.KEYS)))
        assert given(clean_database_url, "900", "501") == {"501": 1}
    assert given(clean_database_url, "900") == {"900": 4}


def test_who_lost_the_lease_gives_no_keys(clean_database_url: str, clean_database: sa.Engine) -> None:
    shop.stock(clean_database)
    execute(clean_database, "update training_state set fence = 7")
    with pytest.raises(LeaseLostError):
        given(clean_database_url, "900", fence=6)
    assert len(rows(clean_database, "select from users")) == 3
    assert given(clean_database_url, "900", fence=7) == {"900": 4}
