"""The sums that are kept of lists, less the list of a user who is erased."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

from recsys.serving.snapshot import StoredList

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = 2**64 - 1


def without(checks: Mapping[str, Any], owner_key: int, erased: StoredList) -> dict[str, Any]:
    """What `recsys.storage.list_checks` counted of lists, after one of them is gone.

    Rows, entries and checksum stay exact; `n_erased` says that extremes and distinct items may be less than counted.
    """
    checksum = (int(checks["checksum"], 16) - checksum_of(owner_key, erased)) & _MASK
    return {
        **checks,
        "n_rows": checks["n_rows"] - 1,
        "n_entries": checks["n_entries"] - len(erased.item_keys),
        "checksum": f"{checksum:016x}",
        "n_erased": checks.get("n_erased", 0) + 1,
    }


def checksum_of(owner_key: int, stored: StoredList) -> int:
    """One list's part of the checksum: the same hash as in `recsys.storage.list_checks`, without numpy."""
    parts: tuple[Sequence[int], ...] = (
        [key + 1 for key in stored.item_keys],
        struct.unpack(f"<{len(stored.scores)}I", struct.pack(f"<{len(stored.scores)}f", *stored.scores)),
        stored.sources,
    )
    row = owner_key * _GOLDEN
    for i, part in enumerate(parts):
        row += sum(value * _factor(3 * place + i) for place, value in enumerate(part))
    row &= _MASK
    row = ((row ^ (row >> 29)) * _GOLDEN) & _MASK
    return row ^ (row >> 32)


def _factor(place: int) -> int:
    return ((place + 1) * _GOLDEN & _MASK) | 1
