"""What `make demo` loads into a database that holds something already: the import runs as the demo runs it."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
import sqlalchemy as sa

from airflow_service.demo.__main__ import load
from airflow_service.demo.data import Input
from airflow_service.demo.services import Services
from recsys.errors import InputError, RecsysError
from recsys.storage import raw_tables as raw
from recsys.storage.engine import url_of


@pytest.fixture
def stack(clean_database: sa.Engine, tmp_path):
    url = url_of(clean_database)
    for name in ("run", "log", "data"):
        (tmp_path / name).mkdir()
    return SimpleNamespace(
        services=Services(tmp_path),
        environment={**os.environ, "DATABASE_URL": url, "RECSYS_LOCAL_DIR": str(tmp_path)},
    )


def test_the_demo_goes_on_with_own_data_and_replaces_nothing_unasked(stack, clean_database, tmp_path, capsys):
    events = tmp_path / "events.csv"
    events.write_text("user_id,item_id,ts\nu1,a,2024-05-01\nu2,b,2024-05-02\n")
    own = {"SOURCE": "table", "INPUT": str(events), "OPTIONS": "user=user_id item=item_id timestamp=ts bought="}
    load(stack, Input.of(own, tmp_path))
    load(stack, Input.of({}, tmp_path))
    assert f"on with what the database holds, table ({events})" in capsys.readouterr().out
    with pytest.raises(InputError, match="REPLACE=1"):
        load(stack, Input.of({"SOURCE": "generated"}, tmp_path))
    other = own | {"OPTIONS": "user=item_id item=user_id timestamp=ts"}
    events.write_text("user_id,item_id,ts\nu3,a,2024-05-01\n")
    with pytest.raises(RecsysError, match="REPLACE=1") as refused:
        load(stack, Input.of(other, tmp_path))
    assert "--replace" not in str(refused.value)
    with clean_database.connect() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(raw.events)).scalar() == 2
