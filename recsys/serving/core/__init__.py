"""The innermost loops of a recommendation: `compiled` (Cython) where it was built, `pure` (Python and numpy) elsewhere.

Both return bitwise equal results (tests/contracts/test_serving_core.py). RECSYS_COMPILED=0 in the environment selects
`pure` even if the other one was built.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from recsys.serving.core import pure
from recsys.serving.core.pure import NO_ITEM, Attribution, Because, Fits, Pick, attribution

if TYPE_CHECKING:
    from recsys.serving.core.pure import (
        Called,
        Fused,
        ListTable,
        Neighbours,
        StoredList,
        bought,
        entries,
        first,
        n_counted,
        seeds,
    )  # fmt: skip
else:
    try:
        if os.environ.get("RECSYS_COMPILED", "1") == "0":
            raise ImportError("disabled by RECSYS_COMPILED=0")
        from recsys.serving.core import compiled as chosen
    except ImportError:
        chosen = pure
    Called, Fused, ListTable = chosen.Called, chosen.Fused, chosen.ListTable
    Neighbours, StoredList = chosen.Neighbours, chosen.StoredList
    bought, entries, first = chosen.bought, chosen.entries, chosen.first
    n_counted, seeds = chosen.n_counted, chosen.seeds

IS_COMPILED: Final = Called is not pure.Called

__all__ = [
    "IS_COMPILED", "NO_ITEM", "Attribution", "Because", "Called", "Fits", "Fused", "ListTable", "Neighbours", "Pick",
    "StoredList", "attribution", "bought", "entries", "first", "n_counted", "seeds",
]  # fmt: skip
