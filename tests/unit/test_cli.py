"""What the command line says when something is wrong."""

from __future__ import annotations

import errno
import json
import sys
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.errors
import pytest
import sqlalchemy as sa

from recsys import cli
from recsys.steps import generate_shop, run_all


def test_a_fault_of_the_disk_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(sys, "argv", ["recsys", "generate", str(tmp_path / "file" / "x")])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert capsys.readouterr().err.splitlines()[-1] == f"error: Not a directory: {tmp_path / 'file' / 'x'}"


def test_another_fault_of_the_system_is_not_taken_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ConnectionRefusedError(errno.ECONNREFUSED, "nobody listens")

    monkeypatch.setattr(generate_shop, "run", fails)
    monkeypatch.setattr(sys, "argv", ["recsys", "generate", str(tmp_path)])
    with pytest.raises(ConnectionRefusedError):
        cli.main()


def test_a_server_that_is_away_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (["keys", "list"], ["publications", "list"], ["migrate"], ["train-als"]):
        monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/recsys")
        monkeypatch.setenv("RECSYS_DATABASE_PATIENCE_S", "0")
        monkeypatch.setattr(sys, "argv", ["recsys", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 1
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith("error: Postgres does not do it: "), arguments
        assert "refused" in last


def test_a_mistake_of_a_statement_is_not_taken_for_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise sa.exc.ProgrammingError("select", {}, psycopg2.errors.UndefinedColumn("no such column"))

    monkeypatch.setattr(generate_shop, "run", fails)
    monkeypatch.setattr(sys, "argv", ["recsys", "generate", str(tmp_path)])
    with pytest.raises(sa.exc.ProgrammingError):
        cli.main()


def test_a_run_of_all_steps_is_a_table_or_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results: dict[str, dict[str, Any]] = {
        "prepare_dataset": {"dataset": "dataset/v1", "n_rows": {"events": 80_000, "items": 903}, "notes": []},
        "train_als": {"dataset": "dataset/v1", "serving": "als/v1", "history": ["als/a"], "accepted": True},
        "similar_items": {"dataset": "dataset/v1", "list_version": 7, "n_rows": 903},
        "train_ranker": {"dataset": "dataset/v1", "ranker": "ranker/v1", "accepted": False, "reason": "worse"},
        "rank_users": {"dataset": "dataset/v1", "skipped": "no champion"},
        "publish": {"dataset": "dataset/v1", "publication_id": 3, "lists": {"i2i": 900, "history": 4_000}},
    }

    def run(on_step: Any, **_: Any) -> dict[str, Any]:
        for name, result in results.items():
            on_step(name, 1234.56, result)
        return results

    monkeypatch.setattr(run_all, "run", run)
    monkeypatch.setattr(sys, "argv", ["recsys", "run-all"])
    with pytest.raises(SystemExit):
        cli.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in lines] == [[name, "1,234.6", "s"] for name in results]
    assert [line[38:] for line in lines] == [
        "dataset/v1: 80,000 events, 903 items",
        "als/v1",
        "version 7: 903 lists",
        "left out: worse",
        "left out: no champion",
        "publication 3: 900 i2i, 4,000 history",
    ]
    monkeypatch.setattr(sys, "argv", ["recsys", "run-all", "--json"])
    with pytest.raises(SystemExit):
        cli.main()
    assert json.loads(capsys.readouterr().out) == results
