"""Ports, secrets and the environment of a demo's processes."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from airflow_service.demo.place import Place
from recsys.errors import InputError

POSTGRES = "postgresql://postgres@127.0.0.1:5433"


def place(state: Path, **variables: str) -> Place:
    return Place(state, variables, n_cores=2)


def test_secrets_stay_and_are_read_by_their_user_alone(tmp_path: Path) -> None:
    first = place(tmp_path)
    first.prepare()
    jwt = first.secret("airflow_jwt")
    assert len(bytes.fromhex(jwt)) == 64
    assert place(tmp_path).secret("airflow_jwt") == jwt
    files = list((tmp_path / "secrets").iterdir())
    assert len(files) >= 3
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700


def test_airflow_follows_its_port_and_postgres(tmp_path: Path) -> None:
    chosen = place(tmp_path, AIRFLOW_PORT="9090").chosen(POSTGRES)
    assert chosen["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == "http://127.0.0.1:9090/execution/"
    assert chosen["AIRFLOW__API__PORT"] == "9090"
    assert chosen["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] == "postgresql+psycopg2://postgres@127.0.0.1:5433/airflow"
    assert chosen["DATABASE_URL"] == f"{POSTGRES}/recsys"
    assert chosen["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:5000"


def test_services_of_the_user_come_first(tmp_path: Path) -> None:
    theirs = {"DATABASE_URL": "postgresql://db/x", "ARTIFACT_ROOT": "s3://b/p", "MLFLOW_TRACKING_URI": "http://m"}
    own = place(tmp_path, **theirs, AIRFLOW__CORE__PARALLELISM="7")
    chosen = own.chosen(POSTGRES)
    assert theirs.items() <= chosen.items()
    assert chosen["AIRFLOW__CORE__PARALLELISM"] == "7"
    assert not own.own_mlflow
    assert own.needs_postgres, "Airflow's own tables have no other place yet"
    assert not place(tmp_path, **theirs, AIRFLOW__DATABASE__SQL_ALCHEMY_CONN="postgresql://db/airflow").needs_postgres


def test_what_slows_python_down_is_not_handed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    environment = place(tmp_path).environment({"A": "b"})
    assert "PYTHONDONTWRITEBYTECODE" not in environment
    assert environment["A"] == "b"
    assert environment["AIRFLOW_HOME"] == str(tmp_path / "airflow")


@pytest.mark.parametrize("port", ["http", "0", "70000", "-1"])
def test_a_port_that_is_none(tmp_path: Path, port: str) -> None:
    with pytest.raises(InputError, match=f"API_PORT={port}"):
        place(tmp_path, API_PORT=port).port("API_PORT")
