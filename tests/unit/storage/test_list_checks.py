"""Each thing that a list must not be is refused by name."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import EmptyResultError, PublicationError
from recsys.storage.list_checks import ListChecks, without
from recsys.types import Lists

NAN = float("nan")


def lists(items: list[list[int]], scores: list[list[float]], owners: list[int] | None = None) -> Lists:
    item = np.array(items, dtype=np.int32)
    owner = np.array(owners if owners is not None else range(10, 10 + len(items)), dtype=np.int32)
    return Lists(owner, item, np.array(scores, dtype=np.float32), np.zeros(item.shape, dtype=np.int16))


GOOD = lists([[3, 1, 2], [2, 5, -1]], [[3, 2, 2], [1, 0, NAN]])


def test_good_lists_are_counted() -> None:
    checks = ListChecks("personal", 1)
    checks.add(GOOD)
    counts = checks.finish()
    assert {name: counts[name] for name in ("n_rows", "n_entries", "shortest", "longest", "n_items")} == {
        "n_rows": 2,
        "n_entries": 5,
        "shortest": 2,
        "longest": 3,
        "n_items": 4,
    }
    assert checks.item_keys.tolist() == [1, 2, 3, 5]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (lists([[3, 1], [-1, -1]], [[2, 1], [NAN, NAN]]), r"1 of 2 personal lists are empty, e\.g\. of owners \[11\]"),
        (lists([[3, 3]], [[2, 1]]), r"hold an item twice.*\[10\].*items \[3, 3\]"),
        (lists([[3, 4]], [[NAN, 1]]), "not finite"),
        (lists([[3, 4]], [[np.inf, 1]]), "not finite"),
        (lists([[3, 4]], [[1, 2]]), "do not descend"),
        (lists([[-1, 4]], [[NAN, 2]]), "padding before an item"),
        (lists([[3, 4]], [[2, 1]], owners=[-1]), "negative owner key"),
        (dataclasses.replace(GOOD, source=GOOD.source + 1), "source outside"),
        (dataclasses.replace(GOOD, source=GOOD.source - 1), "source outside"),
        (dataclasses.replace(GOOD, score=GOOD.score[:, :2]), "of shape"),
    ],
)
def test_bad_lists_are_refused(bad: Lists, reason: str) -> None:
    with pytest.raises(PublicationError, match=reason):
        ListChecks("personal", 1).add(bad)


def test_a_history_holds_an_item_once_by_source() -> None:
    by_type = dataclasses.replace(lists([[3, 3, -1]], [[2, 1, NAN]]), source=np.array([[0, 1, 1]], dtype=np.int16))
    checks = ListChecks("history", 2)
    checks.add(by_type)
    assert (checks.finish()["n_entries"], checks.item_keys.tolist()) == (2, [3])
    with pytest.raises(PublicationError, match="1 of 1 history lists hold an item twice"):
        ListChecks("history", 2).add(dataclasses.replace(by_type, source=by_type.source * 0))
    with pytest.raises(PublicationError, match="hold an item twice"):
        ListChecks("personal", 2).add(by_type)


def test_an_owner_must_not_come_twice_even_in_two_blocks() -> None:
    checks = ListChecks("personal", 1)
    checks.add(GOOD)
    checks.add(GOOD.take(slice(1, 2)))
    with pytest.raises(PublicationError, match=r"1 owners have two personal lists, e.g. \[11\]"):
        checks.finish()


def test_no_list_at_all_is_an_empty_result() -> None:
    checks = ListChecks("personal", 1)
    checks.add(GOOD.take(slice(0, 0)))
    with pytest.raises(EmptyResultError):
        checks.finish()


def checksum(*blocks: Lists) -> str:
    checks = ListChecks("personal", 3)
    for block in blocks:
        checks.add(block)
    return str(checks.finish()["checksum"])


def test_the_checksum_sees_every_value_and_nothing_else() -> None:
    wider = Lists(
        GOOD.owner_key,
        np.pad(GOOD.item_key, ((0, 0), (0, 2)), constant_values=-1),
        np.pad(GOOD.score, ((0, 0), (0, 2)), constant_values=9),
        np.pad(GOOD.source, ((0, 0), (0, 2)), constant_values=2),
    )
    assert checksum(wider) == checksum(GOOD.take(slice(1, 2)), GOOD.take(slice(0, 1))) == checksum(GOOD)
    others = []
    for name, row, column, value in [
        ("item_key", 0, 1, 9),
        ("score", 0, 1, 2.0000002),
        ("source", 1, 0, 1),
        ("item_key", 1, 2, 7),
    ]:
        changed = getattr(GOOD, name).copy()
        changed[row, column] = value
        score = np.nan_to_num(GOOD.score, nan=-1.0)
        others.append(
            checksum(
                dataclasses.replace(GOOD, **{"score": score, name: changed} if name != "score" else {name: changed})
            )
        )
    others.append(checksum(dataclasses.replace(GOOD, owner_key=GOOD.owner_key[::-1])))
    assert len({checksum(GOOD), *others}) == 6


def counted(of: Lists) -> dict[str, object]:
    checks = ListChecks("personal", 3)
    checks.add(of)
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
    of = Lists(owner, item, score, source)
    checks = counted(of)
    gone = min(gone, n - 1)
    for row in range(gone):
        checks = without(checks, of.take(slice(row, row + 1)))
    expected = counted(of.take(slice(gone, n)))
    assert checks.pop("n_erased") == gone
    for name in ("n_rows", "n_entries", "checksum"):
        assert checks[name] == expected[name]
