"""What several files of these tests use."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from tests import online_world as world


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("artifacts")
    world.write_model(root, "v1")
    return root


@pytest.fixture
def load(clean_database: sa.Engine, tmp_path: Path):
    """Import into an empty database."""
    from recsys.steps import import_raw

    def run(source: str, path: Path, **kwargs: object) -> dict[str, object]:
        return import_raw.run(source, path, engine=clean_database, quarantine_dir=tmp_path / "quarantine", **kwargs)

    return run
