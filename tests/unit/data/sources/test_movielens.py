"""The editions of MovieLens, and times that are known only within bounds."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.sources import MovieLens
from recsys.data.sources.base import CATEGORY_TREE, EVENTS, ITEM_PROPERTIES, USER_PROPERTIES
from recsys.data.sources.movielens import GENRES_100K, estimated_times
from recsys.errors import InputError


def rows_of(source: MovieLens, stream: str) -> list[tuple[object, ...]]:
    return [
        tuple(row.values())
        for part in source.parts()
        if part.stream == stream
        for chunk in part.read()
        for row in chunk.rows.to_pylist()
    ]


def test_the_1m_edition(tmp_path):
    (tmp_path / "ratings.dat").write_text("1::1193::5::978300760\n1::661::3::978302109\n2::661::1::978298413\n")
    (tmp_path / "movies.dat.gz").write_bytes(
        gzip.compress(
            "661::Léon: x (1994)::Crime|Drama\n1193::Cuckoo (1975)::Drama\n9::Unseen::Drama\n".encode("latin-1")
        )
    )
    (tmp_path / "users.dat").write_text("1::F::1::10::48067\n2::M::56::16::70072\n")
    source = MovieLens(tmp_path, {})
    assert rows_of(source, EVENTS) == [
        (978300760000, "1", "liked", "1193", None, 5.0),
        (978302109000, "1", "rated", "661", None, 3.0),
        (978298413000, "2", "disliked", "661", None, 1.0),
    ]
    properties = rows_of(source, ITEM_PROPERTIES)
    assert (978298413000, "661", "title", "Léon: x (1994)") in properties  # since its first rating
    assert (978298413000, "661", "categoryid", "Crime") in properties
    assert (978298413000, "9", "categoryid", "Drama") in properties  # never rated: from the start
    assert (978300760000, "1", "gender", "F") in rows_of(source, USER_PROPERTIES)
    assert rows_of(source, CATEGORY_TREE) == [("Crime", None), ("Drama", None)]


def test_the_100k_edition(tmp_path):
    (tmp_path / "u.data").write_text("196\t242\t3\t881250949\n186\t302\t4\t891717742\n")
    marks = ["1" if genre in ("Comedy", "War") else "0" for genre in GENRES_100K]
    (tmp_path / "u.item").write_text("|".join(["242", "Kolya (1996)", "24-Jan-1997", "", "http://x", *marks]) + "\n")
    (tmp_path / "u.user").write_text("196|49|M|writer|55105\n")
    source = MovieLens(tmp_path, {})
    assert [row[1:4] for row in rows_of(source, EVENTS)] == [("196", "rated", "242"), ("186", "liked", "302")]
    assert (881250949000, "242", "genres", "Comedy|War") in rows_of(source, ITEM_PROPERTIES)
    assert (881250949000, "196", "occupation", "writer") in rows_of(source, USER_PROPERTIES)


def test_a_film_line_of_another_form_is_named(tmp_path):
    (tmp_path / "ratings.dat").write_text("1::1193::5::978300760\n")
    (tmp_path / "movies.dat").write_text("1193::Cuckoo::Drama\n1194::Nest\n")
    with pytest.raises(InputError, match=r"movies\.dat: line 2 has 2 columns"):
        rows_of(MovieLens(tmp_path, {}), ITEM_PROPERTIES)


def test_ratings_without_a_time_lie_between_their_neighbours(tmp_path):
    table = pa.table(
        {
            "UserID": pa.array([1, 1, 1, 1, 2, 2], pa.int32()),
            "MovieID": pa.array([10, 11, 12, 13, 10, 14], pa.int32()),
            "Rating": pa.array([5, 2, 1, 4, 3, 3], pa.int8()),
            "Timestamp": pa.array([978300000, None, None, 978300090, None, 978300040], pa.int32()),
            "timestamp_lo": pa.array([978300000, 978300000, 978300000, 978300090, None, 978300040], pa.int32()),
            "timestamp_hi": pa.array([978300000, 978300090, 978300090, 978300090, 978300040, 978300040], pa.int32()),
            "pos_in_user": pa.array([1, 3, 2, 4, 1, 2], pa.int16()),
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "ratings.parquet")
    source = MovieLens(tmp_path, {})
    assert [(row[0], row[1], row[3]) for row in rows_of(source, EVENTS)] == [
        (978300000000, "1", "10"),
        (978300030000, "1", "12"),
        (978300040000, "2", "10"),  # before the user's first known time: at that time, and before it in order
        (978300040000, "2", "14"),
        (978300060000, "1", "11"),
        (978300090000, "1", "13"),
    ]
    assert any("pos_in_user" in note for note in source.notes)


@given(st.data())
def test_estimated_times_keep_known_ones_order_and_bounds(data):
    n = data.draw(st.integers(1, 40))
    user = np.array(data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)))
    true_time = np.array(data.draw(st.lists(st.integers(0, 50), min_size=n, max_size=n)), dtype=float)
    known = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    position = np.empty(n)
    position[np.lexsort((true_time, user))] = np.arange(n)
    at = np.where(known, true_time, np.nan)
    nothing = np.full(n, np.nan)
    laid = estimated_times(user, position, at, nothing, nothing)
    assert (laid[known] == true_time[known]).all()
    for one in np.unique(user):
        mine = user == one
        if not known[mine].any():
            assert np.isnan(laid[mine]).all()
            continue
        in_order = laid[mine][np.argsort(position[mine])]
        assert (np.diff(in_order) >= 0).all()
        assert at[mine & known].min() <= in_order.min() <= in_order.max() <= at[mine & known].max()


@pytest.mark.slow
@pytest.mark.skipif("RECSYS_DATA_DIR" not in os.environ, reason="RECSYS_DATA_DIR is not set")
def test_the_whole_1m_set():
    folder = Path(os.environ["RECSYS_DATA_DIR"]) / "ml-1m"
    (part, *_) = MovieLens(folder, {}).parts()
    events = pa.Table.from_batches([chunk.rows for chunk in part.read()]).to_pandas()
    raw = pyarrow.parquet.read_table(folder / "ratings.parquet").to_pandas()
    assert len(events) == len(raw) == 1_000_209
    assert events["timestamp"].is_monotonic_increasing
    raw[["visitorid", "itemid"]] = raw[["UserID", "MovieID"]].astype(str)
    both = raw.merge(events.rename_axis("place").reset_index(), on=["visitorid", "itemid"], validate="1:1")
    known = both["Timestamp"].notna()
    assert (both.loc[known, "timestamp"] == both.loc[known, "Timestamp"] * 1000).all()
    assert (both["timestamp"] >= both["timestamp_lo"].fillna(0).astype(float) * 1000).all()
    assert (both["timestamp"] <= both["timestamp_hi"].fillna(2e9).astype(float) * 1000).all()
    in_time = both.sort_values("place")  # the order in which events are loaded is each user's order
    assert (in_time.groupby("UserID")["pos_in_user"].diff().dropna() > 0).all()


@pytest.mark.parametrize("line", ["01,Heat,Action", "x,Heat,Action", "9,Heat", '9,"Heat, 1995,Action'])
def test_a_film_that_cannot_be_read_is_named_and_not_passed_over(tmp_path, line):
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,31,2.5,1260759144\n")
    (tmp_path / "movies.csv").write_text(f"movieId,title,genres\n31,Minds,Drama\n{line}\n")
    with pytest.raises(InputError, match=r"movies\.csv: line 3"):
        [list(part.read()) for part in MovieLens(tmp_path, {}).parts()]
