"""The sums of lists, less some of them, are the sums of the others."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recsys.serving.erasure import without
from recsys.serving.snapshot import StoredList
from recsys.storage.list_checks import ListChecks
from recsys.types import Lists


def counted(lists: Lists) -> dict[str, object]:
    checks = ListChecks("personal", 3)
    checks.add(lists)
    return checks.finish()


@given(n=st.integers(2, 6), k=st.integers(1, 8), seed=st.integers(0, 2**32 - 1), gone=st.integers(1, 5))
def test_what_stays_is_counted_as_if_the_others_had_never_been(n: int, k: int, seed: int, gone: int) -> None:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, k + 1, size=n)
    padding = np.arange(k) >= lengths[:, None]
    item = np.argsort(rng.random((n, k + 3)), axis=1)[:, :k].astype(np.int32)
    score = -np.sort(-rng.normal(0, 10, (n, k)).astype(np.float32), axis=1)
    source = rng.integers(0, 3, (n, k)).astype(np.int16)
    owner = rng.permutation(2**31 - 1 - np.arange(n)).astype(np.int32)
    item[padding] = -1
    lists = Lists(owner, item, score, source)
    checks = counted(lists)
    gone = min(gone, n - 1)
    for row in range(gone):
        kept = slice(0, lengths[row])
        stored = StoredList(item[row, kept].tolist(), score[row, kept].tolist(), source[row, kept].tolist())
        checks = without(checks, int(owner[row]), stored)
    expected = counted(lists.take(slice(gone, n)))
    assert checks.pop("n_erased") == gone
    for name in ("n_rows", "n_entries", "checksum"):
        assert checks[name] == expected[name]
