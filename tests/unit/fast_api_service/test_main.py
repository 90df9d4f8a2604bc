"""`python -m fast_api_service --help` helps, and starts nothing."""

from __future__ import annotations

import pytest

from fast_api_service import __main__ as command
from fast_api_service.settings import ApiSettings


def test_help_names_every_setting(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["fast_api_service", "--help"])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert [name for name in ApiSettings.model_fields if f"API_{name.upper()} (" not in text] == []


def test_arguments_are_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["fast_api_service", "--port", "9"])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 2
    assert "unrecognized arguments" in capsys.readouterr().err
