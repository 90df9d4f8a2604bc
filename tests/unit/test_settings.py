"""What settings are refused before anything is begun."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from recsys.settings import Settings


@pytest.mark.parametrize("weight", ["NaN", "1e400", "-Infinity"])
def test_weights_are_finite(monkeypatch, weight):
    monkeypatch.setenv("RECSYS_EVENT_WEIGHTS", f'{{"view": {weight}}}')
    with pytest.raises(ValidationError, match="finite number"):
        Settings()
