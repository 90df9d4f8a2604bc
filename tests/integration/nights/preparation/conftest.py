"""A small shop in a database of its own, for tests of the preparation of data sets."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa

from recsys.steps.context import Context
from tests.integration.nights.preparation import preparing


@pytest.fixture
def ctx(clean_database: sa.Engine, tmp_path: Path) -> Context:
    """What steps need."""
    return preparing.context(clean_database, tmp_path)


@pytest.fixture
def load(ctx: Context) -> Callable[..., None]:
    """Imports a shop, see `preparing.load`."""
    return partial(preparing.load, ctx)


@pytest.fixture
def post(ctx: Context) -> Callable[..., None]:
    """Posts events, see `preparing.post`."""
    return partial(preparing.post, ctx)
