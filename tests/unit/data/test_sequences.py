"""Files of sequences: read or refused with the line, and the windows of a place are "leave the last out"."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.data import sequences
from recsys.data.sequences import END_AT, PLACE
from recsys.errors import InputError
from recsys.evaluation.protocol import Window, labels_of

LINES = ["u1 a b c", "", "u2 b a", "u3 c"]


def test_plain_and_gzip_are_read_alike(tmp_path: Path) -> None:
    plain, zipped = tmp_path / "plain.txt", tmp_path / "zipped"
    plain.write_text("\n".join(LINES))
    zipped.write_bytes(gzip.compress("\n".join(LINES).encode()))
    for path in (plain, zipped):
        table = sequences.read(path)
        assert table.user.tolist() == [0, 0, 0, 1, 1, 2]
        assert [table.item_ids[at] for at in table.item] == ["a", "b", "c", "b", "a", "c"]
        assert table.place.tolist() == [2, 1, 0, 1, 0, 0]
        assert list(table.user_ids) == ["u1", "u2", "u3"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["u1 a", "u2"], "line 2: user 'u2' has no item"),
        (["u1 a", "u2 b", "u1 c"], "line 3: user 'u1' has a line already"),
        (["u1 a", "u1 c"], "line 2: user 'u1' has a line already"),
        (["", " "], "holds no sequence"),
    ],
)
def test_what_is_no_sequence_is_refused_with_its_line(lines: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        sequences.parse(lines, "file")


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", gzip.compress(b"u a b")[:-9]], ids=["no UTF-8", "cut off"])
def test_what_is_no_text_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(InputError, match="is no text of lines"):
        sequences.read(path)


@pytest.mark.parametrize(("name", "why"), [("missing", "No such file"), (".", "Is a directory")])
def test_what_cannot_be_opened_is_named(name: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"is no text of lines `user item item …`, plain or gzip: {why}"):
        sequences.read(tmp_path / name)


@given(lists=st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=7, unique=True), min_size=1, max_size=8))
def test_the_newest_window_holds_the_last_item_of_each_and_the_history_the_rest(
    lists: list[list[int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    table = sequences.parse(f"user{n} " + " ".join(map(str, items)) for n, items in enumerate(lists))
    data = sequences.dataset(table, tmp_path_factory.mktemp("data"))
    events = data.interactions()
    assert len(events) == sum(map(len, lists))
    longest = max(map(len, lists))
    assert len(data.catalogue(END_AT - longest * PLACE)) == len(table.item_ids)  # known from the beginning
    for back in range(1, 4):
        cut_at = END_AT - back * PLACE
        history = events.before(cut_at)
        of_user = {
            user: [table.item_ids[item] for item in history.item_key[history.user_key == user]]
            for user in range(len(lists))
        }
        assert of_user == {
            user: [str(i) for i in items[: max(len(items) - back, 0)]] for user, items in enumerate(lists)
        }
        expected = {user: items[-back] for user, items in enumerate(lists) if len(items) > back}
        if expected:
            labels = labels_of(events, Window(cut_at, cut_at + PLACE), data.meta)
            assert labels.user_key.tolist() == list(expected)
            assert [int(table.item_ids[item]) for item in labels.item_key] == list(expected.values())
            assert np.array_equal(labels.n_labels, np.ones(len(expected)))


@given(seed=st.integers(0, 10_000), share=st.sampled_from([0.5, 0.8, 0.9]))
def test_a_split_by_time_keeps_the_past_and_the_next_event_of_those_who_have_one(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 8, 12)
    lines = [f"u{n} " + " ".join(f"i{item}" for item in range(length)) for n, length in enumerate(lengths)]
    table = sequences.parse(lines)
    at = np.concatenate([np.sort(rng.integers(0, 40 * PLACE, length)) for length in lengths]).astype(np.int64)
    kept, when, end_at = sequences.split_by_time(table, at, share, days=5)
    cut_at = int(np.quantile(at, share))
    assert end_at == cut_at + 5 * PLACE
    assert (when < cut_at).sum() == (at < cut_at).sum()
    later = kept.user[when >= cut_at]
    assert len(np.unique(later)) == len(later), "one label of each"
    for user in range(len(lengths)):
        own = at[table.user == user]
        next_one = own[own >= cut_at][:1]
        expected = [] if not (own < cut_at).any() else next_one[next_one < end_at].tolist()
        assert when[(kept.user == user) & (when >= cut_at)].tolist() == expected
