"""What several files of these tests stand on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import online_world as world


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("artifacts")
    world.write_model(root, "v1")
    return root
