"""How far ahead of the clock an event may lie."""

from __future__ import annotations

import datetime as dt
from typing import Final

# Clients' clocks differ: the API takes events of so much later than now.
CLOCKS_AHEAD: Final = dt.timedelta(minutes=5)
# Files may hold local times without a zone: imports and nights take events of so much later than now.
LATEST_AHEAD: Final = dt.timedelta(days=1)
