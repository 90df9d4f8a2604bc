"""MovieLens: 1M (`ratings.dat`, or `ratings.parquet`), latest (`ratings.csv`) and 100K (`u.data`), packed or not.

A rating becomes the event `liked` (4 and more), `rated` (3 and 3.5) or `disliked` (below 3), its stars the
value. A film's category is its first genre. Films and people are known from their first rating on.
"""

from __future__ import annotations

import csv as csv_module
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recsys.data.sources.base import (
    CATEGORY_TREE,
    EVENTS,
    ITEM_PROPERTIES,
    PACKINGS,
    STREAMS,
    USER_PROPERTIES,
    Chunk,
    Declaration,
    Part,
    check_options,
    chunks_of,
    find_files,
    properties_chunks,
)
from recsys.data.sources.checking import Checked
from recsys.data.sources.reading import CsvFormat, is_parquet, read_blocks, read_lines, require_columns
from recsys.data.sources.times import TimeFormat
from recsys.errors import InputError
from recsys.ids import is_id

# u.item marks each genre in a column of its own, in this order
GENRES_100K = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
_DAT = CsvFormat("::", ("user", "item", "rating", "timestamp"), quoting=False)
_TABS = CsvFormat("\t", ("user", "item", "rating", "timestamp"), quoting=False)
_HEADED = {"user": "userId", "item": "movieId", "rating": "rating", "timestamp": "timestamp"}
_PARQUET = {"user": "UserID", "item": "MovieID", "rating": "Rating", "timestamp": "Timestamp"}
_PLAIN = {name: name for name in _HEADED}


class MovieLens:
    """A folder with the ratings and, where they are there, the films and the people."""

    name: ClassVar[str] = "movielens"
    option_names: ClassVar[tuple[str, ...]] = ()
    lasting_options: ClassVar[tuple[str, ...]] = ()

    def __init__(self, path: Path, options: Mapping[str, str], weights: Mapping[str, float] | None = None) -> None:
        check_options(self.name, options, self.option_names)
        if not path.is_dir():
            raise InputError(f"{path}: no such folder; give the one that holds the ratings")
        self.declaration = Declaration(
            user_id_type="integer",
            item_id_type="integer",
            category_id_type="string",
            event_weights={"disliked": 0.5, "rated": 1.0, "liked": 2.0},
            label_event_types=("liked",),
            bought_event_types=("disliked", "rated", "liked"),
        ).weighed(weights or {})
        ratings = _first(path, "ratings.dat", "ratings.parquet", "ratings.csv", "u.data")
        if ratings is None:
            raise InputError(f"{path}: no ratings.dat, ratings.csv, ratings.parquet or u.data (nor packed as .gz)")
        self._ratings = _Ratings(ratings)
        self._films = _first(path, "movies.dat", "movies.csv", "u.item")
        self._people = _first(path, "users.dat", "u.user")
        self.notes: list[str] = []
        if self._films is None:
            self.notes.append("no file of films: items have neither titles nor categories")
        if self._ratings.estimates_times:
            self.notes.append(
                "ratings without a time get one between the user's neighbouring ratings, in the order of pos_in_user"
            )

    def parts(self) -> list[Part]:
        """Ratings; titles and genres; gender, age, occupation and postcode; the genres as categories."""
        ratings = self._ratings
        parts = [Part(EVENTS, ratings.path, ratings.path.name, ratings.events)]
        if films := self._films:
            parts.append(Part(ITEM_PROPERTIES, films, films.name, partial(self._item_properties, films), is_state=True))
        if people := self._people:
            parts.append(
                Part(USER_PROPERTIES, people, people.name, partial(self._user_properties, people), is_state=True)
            )
        if films := self._films:
            parts.append(Part(CATEGORY_TREE, films, films.name, partial(_tree, films), is_state=True))
        return parts

    def _item_properties(self, path: Path) -> Iterator[Chunk]:
        films = _read_films(path)
        ids = [film[0] for film in films]
        times = self._ratings.first_times("itemid", ids)
        genres = ["|".join(film[2]) for film in films]
        yield from properties_chunks(
            ITEM_PROPERTIES,
            [
                (times, ids, "title", [film[1] for film in films]),
                (times, ids, "genres", genres),
                (times, ids, "categoryid", [film[2][0] for film in films]),
            ],
        )

    def _user_properties(self, path: Path) -> Iterator[Chunk]:
        names, separator = ("gender", "age", "occupation", "postcode"), "::"
        if path.name.startswith("u.user"):
            names, separator = ("age", "gender", "occupation", "postcode"), "|"
        rows = _split(path, separator, 1 + len(names), "utf-8")
        ids = [row[0] for row in rows]
        times = self._ratings.first_times("visitorid", ids)
        yield from properties_chunks(
            USER_PROPERTIES, [(times, ids, name, [row[i] for row in rows]) for i, name in enumerate(names, 1)]
        )


class _Ratings:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._csv = CsvFormat()
        self._where = _HEADED
        self._optional: tuple[str, ...] = ()
        if path.name.startswith(("ratings.dat", "u.data")):
            self._csv, self._where = (_DAT if path.name.startswith("ratings.dat") else _TABS), _PLAIN
        elif is_parquet(path):
            self._where = _PARQUET
            found = require_columns(path, list(_PARQUET.values()))
            self._optional = tuple(n for n in ("timestamp_lo", "timestamp_hi", "pos_in_user") if n in found)
        require_columns(path, list(self._where.values()), self._csv)
        self.estimates_times = "pos_in_user" in self._optional
        self.first_times = cache_by_column(self._first_times)

    def events(self) -> Iterator[Chunk]:
        """The ratings: as they stand in the file, or by time where times had to be estimated."""
        return self._in_estimated_order() if self.estimates_times else self._in_file_order()

    def _in_file_order(self) -> Iterator[Chunk]:
        for checked in self._checked():
            times = checked.timestamp("timestamp", TimeFormat("s"))
            yield checked.chunk(EVENTS, {**_rating_columns(checked), "timestamp": times})

    def _in_estimated_order(self) -> Iterator[Chunk]:
        pieces, rejected = [], []
        for checked in self._checked():
            columns = _rating_columns(checked)
            times = {name: checked.number(name, required=False) for name in ("timestamp", *self._optional)}
            rejected += checked.chunk(
                EVENTS, {**columns, "timestamp": pa.array(np.zeros(checked.n, np.int64))}
            ).rejected
            pieces.append(pa.table({**columns, **times}).filter(pa.array(checked.keep)))
        table = pa.concat_tables(pieces).combine_chunks()
        values = {name: _floats(table, name) for name in ("timestamp", "timestamp_lo", "timestamp_hi", "pos_in_user")}
        users = table["visitorid"].combine_chunks().dictionary_encode().indices.to_numpy()
        seconds = estimated_times(
            users, values["pos_in_user"], values["timestamp"], values["timestamp_lo"], values["timestamp_hi"]
        )
        if np.isnan(seconds).any():
            n = int(np.isnan(seconds).sum())
            raise InputError(f"{self.path}: column 'Timestamp' is empty in all rows of a user ({n} rows)")
        millis = np.round(seconds * 1000).astype(np.int64)
        order = np.lexsort((values["pos_in_user"], users, millis))
        table = table.set_column(table.schema.get_field_index("timestamp"), "timestamp", pa.array(millis)).take(order)
        names = [name for name in STREAMS[EVENTS].names if name in table.column_names]
        for chunk in chunks_of(EVENTS, {name: table[name].combine_chunks() for name in names}):
            yield Chunk(chunk.rows, chunk.end + len(rejected), rejected if chunk.end == chunk.rows.num_rows else [])

    def _checked(self) -> Iterator[Checked]:
        for block in read_blocks(self.path, list(self._where.values()), self._optional, self._csv):
            yield Checked(block, self._where)

    def _first_times(self, column: str) -> tuple[Mapping[str, int], int]:
        """Each user's or item's first time in milliseconds, and the first of all."""
        pieces = [
            pa.table({"id": chunk.rows[column], "at": chunk.rows["timestamp"]})
            .group_by("id")
            .aggregate([("at", "min")])
            for chunk in self.events()
        ]
        firsts = pa.concat_tables(pieces).group_by("id").aggregate([("at_min", "min")])
        at = firsts["at_min_min"].to_pylist()
        return dict(zip(firsts["id"].to_pylist(), at, strict=True)), min(at)


def cache_by_column(
    read: Callable[[str], tuple[Mapping[str, int], int]],
) -> Callable[[str, Sequence[str]], list[int]]:
    """Look first times up by id; who never occurs counts as known from the start of all."""
    cached = cache(read)

    def look_up(column: str, ids: Sequence[str]) -> list[int]:
        first_by_id, start = cached(column)
        return [first_by_id.get(one, start) for one in ids]

    return look_up


def estimated_times(
    user: NDArray[np.int64],
    position: NDArray[np.float64],
    at: NDArray[np.float64],
    at_least: NDArray[np.float64],
    at_most: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Times, with unknown ones (NaN) laid evenly between the user's neighbouring known ones. All are (n,).

    Within a user, times never fall as `position` grows. `at_least` and `at_most` bound what is laid in; NaN
    bounds nothing. Before a user's first known time that time counts, after the last known the last; a user
    with none keeps NaN.
    """
    order = np.lexsort((position, user))
    u, t = user[order], at[order]
    n = len(t)
    index = np.arange(n)
    known = ~np.isnan(t)
    before = np.maximum.accumulate(np.where(known, index, -1))
    after = np.minimum.accumulate(np.where(known, index, n)[::-1])[::-1]
    has_before = (before >= 0) & (u[np.maximum(before, 0)] == u)
    has_after = (after < n) & (u[np.minimum(after, n - 1)] == u)
    low = np.where(has_before, t[np.maximum(before, 0)], np.nan)
    high = np.where(has_after, t[np.minimum(after, n - 1)], np.nan)
    low, high = np.where(np.isnan(low), high, low), np.where(np.isnan(high), low, high)
    share = np.where(has_before & has_after, (index - before) / np.maximum(after - before, 1), 0.0)
    laid = low + (high - low) * share
    laid = np.fmin(np.fmax(laid, at_least[order]), at_most[order])
    result = np.empty(n)
    result[order] = np.where(known, t, laid)
    return result


def _rating_columns(checked: Checked) -> dict[str, pa.Array]:
    stars = checked.number("rating")
    checked.reject(pc.or_(pc.less(stars, 0.5), pc.greater(stars, 5)), "rating lies outside 0.5 to 5")
    event = pc.if_else(pc.greater_equal(stars, 4), "liked", pc.if_else(pc.greater_equal(stars, 3), "rated", "disliked"))
    return {
        "visitorid": checked.identifier("user", "integer"),
        "event": event,
        "itemid": checked.identifier("item", "integer"),
        "value": stars,
    }


def _floats(table: pa.Table, name: str) -> NDArray[np.float64]:
    if name not in table.column_names:
        return np.full(len(table), np.nan)
    return table[name].combine_chunks().cast(pa.float64()).fill_null(np.nan).to_numpy(zero_copy_only=False)


def _first(folder: Path, *names: str) -> Path | None:
    """The first of the files that is there, packed or not, in the folder or below it."""
    for name in names:
        if found := find_files(folder, f"{name}*", tuple(name + end for end in PACKINGS)):
            return min(found, key=lambda path: len(path.parts))
    return None


def _read_films(path: Path) -> list[tuple[str, str, list[str]]]:
    """(id, title, genres) of each film; a film without genres gets `unknown`."""
    if path.name.startswith("movies.csv"):
        rows = list(csv_module.reader(read_lines(path)))
        if rows[:1] != [["movieId", "title", "genres"]]:
            raise InputError(f"{path}: columns movieId, title, genres are expected, found {rows[:1]}")
        films = [
            (row[0], row[1], row[2].split("|"))
            for row in _checked_rows(path, [row for row in rows[1:] if row], 3, first_line=2)
        ]
    elif path.name.startswith("u.item"):
        split = _split(path, "|", 5 + len(GENRES_100K), "latin-1")
        films = [
            (row[0], row[1], [genre for genre, mark in zip(GENRES_100K, row[5:], strict=True) if mark == "1"])
            for row in split
        ]
    else:
        films = [(row[0], row[1], row[2].split("|")) for row in _split(path, "::", 3, "latin-1")]
    return [(film, title.strip(), genres if _are_listed(genres) else ["unknown"]) for film, title, genres in films]


def _are_listed(genres: list[str]) -> bool:
    return bool(genres) and genres[0] not in ("", "(no genres listed)")


def _tree(path: Path) -> Iterator[Chunk]:
    genres = sorted({genre for film in _read_films(path) for genre in film[2]})
    yield from chunks_of(CATEGORY_TREE, {"categoryid": genres})


def _split(path: Path, separator: str, n_columns: int, encoding: str) -> list[list[str]]:
    rows = [line.split(separator) for line in read_lines(path, encoding) if line]
    return _checked_rows(path, rows, n_columns)


def _checked_rows(path: Path, rows: list[list[str]], n_columns: int, first_line: int = 1) -> list[list[str]]:
    """`rows`; InputError where one has other columns, or an id that is none."""
    for line, row in enumerate(rows, first_line):
        if len(row) != n_columns or not is_id(row[0], "integer"):
            raise InputError(
                f"{path}: line {line} has {len(row)} columns and begins with {row[0]!r}; {n_columns} columns, "
                "the first a whole number, are expected"
            )
    return rows
