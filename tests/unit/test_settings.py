"""Settings: paths mean the same folder everywhere, and what cannot be used is named by its variable."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from airflow_service.demo.place import Place
from fast_api_service.settings import ApiSettings
from recsys import settings
from recsys.errors import InputError
from recsys.settings import ROOT, Settings

NAMES = ("RECSYS_LOCAL_DIR", "ARTIFACT_ROOT", "MLFLOW_TRACKING_URI", "PG_PORT", "DATABASE_URL")


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def test_relative_paths_are_below_the_repository_wherever_a_command_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "RECSYS_LOCAL_DIR": ".localA",
        "RECSYS_EVENT_ARCHIVE": "archive",
        "RECSYS_LOG_FOLDERS": '["logs"]',
        "ARTIFACT_ROOT": "models",
        "MLFLOW_TRACKING_URI": "sqlite:///runs.db",
    }.items():
        monkeypatch.setenv(name, value)
    loaded = settings.read(Settings)
    assert (loaded.local_dir, loaded.event_archive, loaded.log_folders) == (
        ROOT / ".localA",
        ROOT / "archive",
        [ROOT / "logs"],
    )
    assert (loaded.artifact_root, loaded.mlflow_tracking_uri) == (str(ROOT / "models"), f"sqlite:///{ROOT}/runs.db")
    assert Place.find().state == ROOT / ".localA"


def test_artifacts_and_runs_follow_the_local_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RECSYS_LOCAL_DIR", str(tmp_path))
    loaded = settings.read(Settings)
    assert loaded.artifact_root == str(tmp_path / "artifacts")
    assert loaded.mlflow_tracking_uri == f"sqlite:///{tmp_path}/mlflow/mlflow.db"
    monkeypatch.setenv("ARTIFACT_ROOT", "s3://bucket/prefix")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    loaded = settings.read(Settings)
    assert (loaded.artifact_root, loaded.mlflow_tracking_uri) == ("s3://bucket/prefix", "http://127.0.0.1:5000")


@pytest.mark.parametrize("text", ["weekly", "0 2 * *", "61 * * * *", "@once", "0 0 31 2 *"])
@pytest.mark.parametrize("setting", ["NIGHTLY", "TRAINING", "HOUSEKEEPING"])
def test_what_is_no_schedule_is_refused_with_its_variable(
    setting: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"RECSYS_{setting}_SCHEDULE", text)
    with pytest.raises(InputError) as refused:
        settings.read(Settings)
    assert str(refused.value).startswith(f"RECSYS_{setting}_SCHEDULE={text}: not a schedule (")
    assert str(refused.value).endswith("; write five fields of cron, e.g. 0 2 * * 0, or @weekly")


@pytest.mark.parametrize("text", ["30 4 * * *", "@daily", "0 2 * * MON-FRI"])
def test_schedules_are_read_also_where_nothing_can_check_them(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECSYS_NIGHTLY_SCHEDULE", text)
    assert settings.read(Settings).nightly_schedule == text
    monkeypatch.setitem(sys.modules, "croniter", None)  # as in the API's image
    assert settings.read(Settings).nightly_schedule == text


def test_an_empty_variable_is_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*NAMES, "RECSYS_EVENT_DAYS", "API_PORT"):
        monkeypatch.setenv(name, "")
    assert settings.read(Settings).local_dir == settings.LOCAL
    assert settings.read(ApiSettings).port == 8000


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("PG_PORT", "abc", "PG_PORT=abc: input should be a valid integer"),
        ("RECSYS_TASK", "x", "RECSYS_TASK=x: input should be 'discovery' or 'all'"),
        ("RECSYS_ARTIFACT_DAYS", "0", "RECSYS_ARTIFACT_DAYS=0: input should be greater than or equal to 1"),
        ("RECSYS_EVENT_WEIGHTS", "foo", "RECSYS_EVENT_WEIGHTS=foo: input should be a valid dictionary; expected"),
        ("RECSYS_GENERATORS", "als", "RECSYS_GENERATORS is no JSON; expected"),
        ("RECSYS_UPDATER", '{"batch_s": -1}', "RECSYS_UPDATER, in batch_s: input should be greater"),
        ("API_PORT", "abc", "API_PORT=abc: input should be a valid integer"),
        ("API_CORS_ORIGINS", '["x"]', "API_CORS_ORIGINS: 'x' is no origin"),
    ],
)
def test_what_cannot_be_used_is_named_by_its_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError) as error:
        settings.read(ApiSettings if name.startswith("API_") else Settings)
    assert str(error.value).startswith(words)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("command", "name", "value"),
    [
        (("recsys.cli", "publications", "list"), "PG_PORT", "abc"),
        (("recsys.cli", "housekeeping"), "RECSYS_ARTIFACT_DAYS", "0"),
        (("recsys.cli", "updater"), "RECSYS_UPDATER", "{"),
        (("recsys.cli", "publications", "list"), "RECSYS_LOG_LEVEL", "LOUD"),
        (("recsys.storage.embedded", "--stop"), "RECSYS_TASK", "x"),
        (("fast_api_service",), "API_PORT", "abc"),
        (("airflow_service.demo", "stop"), "RECSYS_EVENT_WEIGHTS", "foo"),
    ],
)
def test_every_command_says_it_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: tuple[str, ...], name: str, value: str
) -> None:
    environment = os.environ | {"RECSYS_LOCAL_DIR": str(tmp_path), name: value}
    call = [sys.executable, "-m", *command]
    done = subprocess.run(call, capture_output=True, text=True, env=environment, check=False, timeout=300)
    assert done.returncode == 2, done.stderr
    output = (done.stderr + done.stdout).strip()
    assert name in output
    assert len(output.splitlines()) == 1, output


def test_the_embedded_postgres_is_looked_for_where_the_settings_say(tmp_path: Path) -> None:
    environment = os.environ | {"RECSYS_LOCAL_DIR": str(tmp_path / "here")}
    call = [sys.executable, "-m", "recsys.storage.embedded"]
    for option, code in (("--stop", 0), ("--url=recsys", 1)):
        done = subprocess.run(
            [*call, option], capture_output=True, text=True, env=environment, check=False, timeout=300
        )
        assert done.returncode == code, done.stderr
        assert str(tmp_path / "here" / "postgres") in done.stdout + done.stderr


@pytest.mark.parametrize("weight", ["NaN", "1e400", "-Infinity"])
def test_weights_are_finite(monkeypatch: pytest.MonkeyPatch, weight: str) -> None:
    monkeypatch.setenv("RECSYS_EVENT_WEIGHTS", f'{{"view": {weight}}}')
    with pytest.raises(InputError, match="RECSYS_EVENT_WEIGHTS, in view: input should be a finite number"):
        settings.read(Settings)


@pytest.mark.parametrize("value", ["inf", "nan", "1e400"])
def test_no_number_without_end_is_a_setting(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    for kind in (Settings, ApiSettings):
        for name, field in kind.model_fields.items():
            if field.annotation in (float, float | None):
                variable = f"{kind.model_config['env_prefix']}{name}".upper()
                monkeypatch.setenv(variable, value)
                with pytest.raises(InputError, match=variable):
                    settings.read(kind)
                monkeypatch.delenv(variable)


def test_a_number_of_days_is_one_that_a_calendar_has(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in Settings.model_fields if name.endswith("_days")]:
        monkeypatch.setenv(f"RECSYS_{name.upper()}", "1e12")
        with pytest.raises(InputError, match=f"RECSYS_{name.upper()}"):
            settings.read(Settings)
        monkeypatch.delenv(f"RECSYS_{name.upper()}")


def test_variables_that_are_no_settings_are_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("RECSYS_PG_PORT", "8311")
    monkeypatch.setenv("RECSYS_GENERATOR", "[]")
    monkeypatch.setenv("RECSYS_XYZ", "1")
    monkeypatch.setenv("RECSYS_TEST_KILLS", "8")
    monkeypatch.setenv("RECSYS_COMPILED", "1")
    settings.load()
    assert [record.getMessage() for record in caplog.records] == [
        "RECSYS_GENERATOR is no setting, and is ignored; is RECSYS_GENERATORS meant?",
        "RECSYS_PG_PORT is no setting, and is ignored; is PG_PORT meant?",
        "RECSYS_XYZ is no setting, and is ignored",
    ]
