"""Lists come back from their file as they went in, owner by owner; a folder that is not whole is refused."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import ArtifactError
from recsys.serving.list_file import ListFile, ListFileWriter
from recsys.serving.neighbours import NeighbourIndex
from recsys.types import Lists

entries = st.tuples(st.integers(0, 10**5), st.floats(0.125, 1e6, width=32), st.integers(0, 9))
shops = st.dictionaries(st.integers(0, 500), st.lists(entries, min_size=1, max_size=30), max_size=12)
Shop = dict[int, list[tuple[int, float, int]]]


def written(folder: Path, shop: Shop, kind: str, block: int) -> ListFile:
    owners = list(shop)
    with ListFileWriter(folder, kind) as writer:
        for start in range(0, len(owners), block):
            some = owners[start : start + block]
            shape = (len(some), max(len(shop[owner]) for owner in some))
            lists = Lists(
                np.array(some, np.int32), np.full(shape, -1, np.int32), np.zeros(shape, np.float32),
                np.zeros(shape, np.int16),
            )  # fmt: skip
            for row, owner in enumerate(some):
                keys, scores, sources = zip(*shop[owner], strict=True)
                lists.item_key[row, : len(keys)] = keys
                lists.score[row, : len(keys)] = scores
                lists.source[row, : len(keys)] = sources
            writer.take(lists)
    return ListFile(folder)


@given(shop=shops, block=st.integers(1, 5))
def test_lists_come_back_as_they_went_in(shop: Shop, block: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = written(Path(folder), shop, "ranked", block)
        assert len(found) == len(shop)
        assert found.neighbours is None
        for owner in [-1, *range(502), 10**9]:
            stored = found.get(owner)
            assert (stored is None) == (owner not in shop)
            if stored is not None:
                keys, scores, sources = zip(*shop[owner], strict=True)
                assert stored.item_keys.tolist() == list(keys)
                assert stored.scores.tolist() == list(scores)
                assert stored.sources.tolist() == list(sources)


@given(shop=shops, seeds=st.lists(st.integers(0, 600), max_size=8, unique=True))
def test_neighbours_are_called_from_a_file_as_from_memory(shop: Shop, seeds: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = written(Path(folder), shop, "i2i", 3).neighbours
    assert found is not None  # and it goes on, although the folder is gone
    in_memory = NeighbourIndex.of_lists({owner: list(zip(*of, strict=True))[:2] for owner, of in shop.items()})  # type: ignore[misc]
    assert len(found) == len(in_memory) == len(shop)
    weights = dict.fromkeys(seeds, 1.0)
    called, expected = (index.called(weights, 50) for index in (found, in_memory))
    assert called.keys == expected.keys
    assert [called.score(place) for place in range(len(called.keys))] == [
        expected.score(place) for place in range(len(called.keys))
    ]


def test_what_is_not_whole_is_refused(tmp_path: Path) -> None:
    shop: Shop = {3: [(7, 1.0, 0), (8, 0.5, 0)], 4: [(9, 1.0, 0)]}
    for name in ("rows", "starts", "item_keys", "scores", "sources"):
        folder = tmp_path / name
        folder.mkdir()
        written(folder, shop, "personal", 1)
        (folder / f"{name}.npy").unlink()
        with pytest.raises(ArtifactError, match="no lists can be read"):
            ListFile(folder)
    other = tmp_path / "other"
    other.mkdir()
    written(other, {3: [(7, 1.0, 0)]}, "personal", 1)
    (tmp_path / "mixed").mkdir()
    written(tmp_path / "mixed", shop, "personal", 1)
    (other / "scores.npy").rename(tmp_path / "mixed" / "scores.npy")
    with pytest.raises(ArtifactError, match="not of one writing"):
        ListFile(tmp_path / "mixed")
    np.save(other / "scores.npy", np.ones(1))
    with pytest.raises(ArtifactError, match="holds float64"):
        ListFile(other)


def test_a_writer_that_fails_leaves_no_whole_folder(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), ListFileWriter(tmp_path, "ranked"):
        raise RuntimeError
    with pytest.raises(ArtifactError):
        ListFile(tmp_path)
