"""Why a model could not be exported is one line, however many files were concerned."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fast_api_service.operations.export import _in_short


def test_a_list_of_files_is_told_by_its_number_and_its_first(tmp_path: Path) -> None:
    source = tmp_path / "model"
    source.mkdir()
    for number in range(60):
        (source / f"part{number}").symlink_to(tmp_path / "gone" / str(number))
    with pytest.raises(shutil.Error) as failed:
        shutil.copytree(source, tmp_path / "export")
    assert len(str(failed.value)) > 5000
    message = _in_short(failed.value)
    assert message.startswith("60 files could not be copied, the first because [Errno 2]")
    assert len(message) < 400


def test_other_reasons_are_cut_and_of_one_line() -> None:
    assert _in_short(OSError(28, "No space left on device")) == "[Errno 28] No space left on device"
    message = _in_short(ValueError("a\nb " * 500))
    assert message.startswith("a b a b")
    assert len(message) < 310
