# distutils: language = c++
# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""The functions and classes of `pure`, where their contract is documented, compiled to C++.

All that a file holds is checked against the bounds of the arrays before memory is accessed.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.math cimport NAN, isfinite, pow
from libc.stdint cimport int16_t, int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport atoi
from libc.string cimport memcpy
from libcpp.algorithm cimport nth_element, sort
from libcpp.pair cimport pair
from libcpp.string cimport string
from libcpp.vector cimport vector

import numpy as np
import orjson

from recsys.serving.core import pure
from recsys.serving.core.pure import Pick

cdef extern from *:
    void prefetch "__builtin_prefetch"(const void*) noexcept nogil

cdef extern from "<charconv>" namespace "std" nogil:
    cdef struct to_chars_result:
        char* ptr
    cdef enum chars_format "std::chars_format":
        in_scientific "std::chars_format::scientific"
    to_chars_result to_chars(char*, char*, float, chars_format)
    to_chars_result integer_to_chars "std::to_chars"(char*, char*, long long)

cdef double FUSION = pure.FUSION, DAY_MS = pure.DAY_MS
ctypedef pair[double, int32_t] Placed  # minus the points, and a place, so that the least is the best
ctypedef pair[int64_t, float] Seed  # an item, and what it is worth
cdef object new_pick = tuple.__new__
cdef char ZERO = b"0"


cdef Py_ssize_t length_of(item_keys, event_types, occurred_ms) except -1:
    cdef Py_ssize_t n = len(item_keys)
    if not len(event_types) == n == len(occurred_ms):
        raise ValueError("columns of unequal length")
    return n


def seeds(item_keys, event_types, occurred_ms, interests, double per_ms, Py_ssize_t n):
    cdef dict found = {}
    cdef Py_ssize_t place, n_events = length_of(item_keys, event_types, occurred_ms)
    cdef int64_t newest_ms = occurred_ms[0] if n_events else 0
    cdef int64_t at_ms
    cdef double weight
    for place in range(n_events):
        key = item_keys[place]
        former = found.get(key)
        if former is None and len(found) == n:
            continue
        at_ms = occurred_ms[place]
        weight = <double>interests[event_types[place]] * pow(2.0, <double>(newest_ms - at_ms) * per_ms)
        if weight > 0:
            found[key] = weight if former is None else <double>former + weight
    return found


def bought(item_keys, event_types, occurred_ms, dict since_ms):
    cdef set found = set()
    cdef Py_ssize_t place
    for place in range(length_of(item_keys, event_types, occurred_ms)):
        since = since_ms.get(event_types[place])
        if since is not None and occurred_ms[place] >= since:
            found.add(item_keys[place])
    return found


def n_counted(item_keys, event_types, interests, Py_ssize_t n):
    cdef set found = set()
    cdef Py_ssize_t place, count = 0
    for place in range(length_of(item_keys, event_types, item_keys)):
        if <double>interests[event_types[place]] > 0:
            key = item_keys[place]
            if len(found) < n or key in found:
                found.add(key)
                count += 1
    return count


def first(item_keys, Py_ssize_t n, set unwanted, bytearray available, fits):
    cdef list places = [], keys = []
    cdef Py_ssize_t place
    for place, item_key in enumerate(item_keys):
        if may(item_key, unwanted, available, fits):
            unwanted.add(item_key)
            places.append(place)
            keys.append(item_key)
            if len(keys) == n:
                break
    return places, keys


cdef bint may(item_key, set unwanted, bytearray available, fits) except -1:
    cdef Py_ssize_t key = item_key
    if available is not None and not (0 <= key < len(available) and available[key]):
        return False
    return item_key not in unwanted and (fits is None or fits(item_key))


cdef class StoredList:
    cdef const int32_t[::1] keys
    cdef const float[::1] numbers  # the scores
    cdef const int16_t[::1] origins  # the sources

    def __init__(self, const int32_t[::1] item_keys, const float[::1] scores, const int16_t[::1] sources):
        if not len(item_keys) == len(scores) == len(sources):
            raise ValueError("columns of unequal length")
        self.keys, self.numbers, self.origins = item_keys, scores, sources

    @classmethod
    def of(cls, item_keys, scores, sources):
        return cls(np.array(item_keys, np.int32), np.array(scores, np.float32), np.array(sources, np.int16))

    @property
    def item_keys(self):
        return np.asarray(self.keys)

    @property
    def scores(self):
        return np.asarray(self.numbers)

    @property
    def sources(self):
        return np.asarray(self.origins)

    def first(self, Py_ssize_t n, set unwanted, bytearray available, fits, tuple attributions not None):
        cdef list picks = []
        cdef Py_ssize_t place
        for place in range(len(self.keys)):
            item_key = self.keys[place]
            if may(item_key, unwanted, available, fits):
                unwanted.add(item_key)
                picks.append(self.pick(place, item_key, attributions, None))
                if len(picks) == n:
                    break
        return picks

    cdef pick(self, Py_ssize_t place, item_key, tuple attributions, because):
        cdef Py_ssize_t source = self.origins[place], last = len(attributions) - 1
        if last < 0:
            raise ValueError("nothing to attribute the list to")
        attribution = attributions[source if 0 <= source < last else last]
        return new_pick(Pick, (item_key, <double>self.numbers[place], attribution, because))

    def bought_since(self, event_types, dict since_ms):
        cdef set found = set()
        cdef Py_ssize_t place, type_
        cdef double since_day
        for type_, name in enumerate(event_types):
            since = since_ms.get(name)
            if since is not None:
                since_day = <double>since / DAY_MS
                for place in range(len(self.keys)):
                    if self.origins[place] == type_ and self.numbers[place] >= since_day:
                        found.add(self.keys[place])
        return found


cdef class ListTable:
    cdef const int32_t[::1] rows, keys
    cdef const int64_t[::1] starts
    cdef const float[::1] scores
    cdef const int16_t[::1] sources

    def __init__(
        self, const int32_t[::1] rows, const int64_t[::1] starts, const int32_t[::1] item_keys,
        const float[::1] scores, const int16_t[::1] sources,
    ):
        if not len(item_keys) == len(scores) == len(sources):
            raise ValueError("columns of unequal length")
        self.rows, self.starts = rows, starts
        self.keys, self.scores, self.sources = item_keys, scores, sources

    def get(self, owner):
        cdef Py_ssize_t key = owner
        cdef Py_ssize_t row = self.rows[key] if 0 <= key < len(self.rows) else -1
        if not 0 <= row < len(self.starts) - 1:
            return None
        cdef int64_t start = self.starts[row], end = self.starts[row + 1]
        if not 0 <= start <= end <= len(self.keys):
            raise ValueError(f"row {row} is not within the lists")
        cdef StoredList found = StoredList.__new__(StoredList)
        found.keys, found.numbers = self.keys[start:end], self.scores[start:end]
        found.origins = self.sources[start:end]
        return found


cdef class Neighbours:
    cdef const int32_t[::1] rows
    cdef const int32_t[:, ::1] keys
    cdef const float[:, ::1] scores
    cdef float[::1] sums  # by item: zeros between calls
    cdef int32_t[::1] places  # likewise

    def __init__(self, const int32_t[::1] rows, const int32_t[:, ::1] keys, const float[:, ::1] scores):
        if not (keys.shape[0] == scores.shape[0] and keys.shape[1] == scores.shape[1]):
            raise ValueError("keys and scores of unequal shape")
        self.rows, self.keys, self.scores = rows, keys, scores
        n_items = max(int(np.max(keys, initial=0)) + 1, len(rows))
        self.sums, self.places = np.zeros(n_items, np.float32), np.zeros(n_items, np.int32)

    def called(self, dict seed_weights, Py_ssize_t n):
        return Called(self, seed_weights, n)

    cdef Py_ssize_t row_of(self, int64_t item_key) noexcept:
        """The row of an item's neighbours; -1 where it has none."""
        cdef Py_ssize_t row = self.rows[item_key] if 0 <= item_key < self.rows.shape[0] else -1
        return row if 0 <= row < self.keys.shape[0] - 1 else -1


cdef class Called:
    cdef Neighbours index
    cdef vector[Seed] seeds
    cdef vector[uint64_t] best  # the inverted bits of the sum, then the key, so that the least is the best
    cdef Py_ssize_t n

    def __init__(self, Neighbours index not None, dict seed_weights, Py_ssize_t n):
        cdef vector[Py_ssize_t] rows
        cdef vector[int32_t] met
        cdef float[::1] sums = index.sums
        cdef Py_ssize_t n_items = sums.shape[0], length = index.keys.shape[1], row, place, at
        cdef int32_t key
        cdef uint32_t bits
        cdef float total, weight
        self.index = index
        for item_key, of_seed in seed_weights.items():
            self.seeds.push_back(Seed(item_key, of_seed))
            row = index.row_of(item_key)
            rows.push_back(row)
            if row >= 0 and length > 0:  # the rows of all seeds are on their way before the first is read
                prefetch(&index.keys[row, 0])
                prefetch(&index.keys[row, length - 1])
                prefetch(&index.scores[row, 0])
                prefetch(&index.scores[row, length - 1])
        met.reserve(self.seeds.size() * length)
        for at in range(<Py_ssize_t>rows.size()):
            row, weight = rows[at], self.seeds[at].second
            for place in range(length if row >= 0 else 0):
                key = index.keys[row, place]
                if 0 <= key < n_items:
                    total = weight * index.scores[row, place]  # rounded to 32 bits before the addition
                    sums[key] = sums[key] + total
                    met.push_back(key)
        for at in range(<Py_ssize_t>rows.size()):
            if 0 <= self.seeds[at].first < n_items:
                sums[self.seeds[at].first] = 0
        self.best.reserve(met.size())
        for key in met:
            total = sums[key]
            sums[key] = 0
            if total > 0:
                memcpy(&bits, &total, 4)
                self.best.push_back(<uint64_t>(~bits) << 32 | <uint32_t>key)
        self.n = min(max(n, 0), <Py_ssize_t>self.best.size())
        if self.n < <Py_ssize_t>self.best.size():
            nth_element(self.best.begin(), self.best.begin() + self.n, self.best.end())
        sort(self.best.begin(), self.best.begin() + self.n)

    cdef int32_t key(self, Py_ssize_t place) noexcept:
        return <int32_t>self.best[place]  # the low half

    @property
    def keys(self):
        return [self.key(place) for place in range(self.n)]

    def score(self, Py_ssize_t place):
        if not 0 <= place < self.n:
            raise IndexError(place)
        return self.total(place)

    cdef float total(self, Py_ssize_t place) noexcept:
        cdef uint32_t bits = ~<uint32_t>(self.best[place] >> 32)
        cdef float total
        memcpy(&total, &bits, 4)
        return total

    def because(self, int32_t item_key):
        cdef Neighbours index = self.index
        cdef Py_ssize_t row, place
        cdef Seed seed
        cdef int64_t found = self.seeds[0].first if self.seeds.size() else -1
        cdef float part, greatest = -1
        for seed in self.seeds:
            row = index.row_of(seed.first)
            for place in range(index.keys.shape[1] if row >= 0 else 0):
                part = seed.second * index.scores[row, place]
                if index.keys[row, place] == item_key and part > greatest:
                    greatest, found = part, seed.first
        return found


cdef class Fused:
    cdef StoredList stored
    cdef tuple attributions
    cdef Called called
    cdef object of_called, because
    cdef double weight
    cdef vector[Placed] twice  # the items in both, with their places in the list
    cdef vector[char] is_called, is_listed  # by place in the list, and among the neighbours: whether it is in both
    cdef size_t a, b, c

    def __init__(
        self, StoredList stored not None, tuple attributions not None, Called called not None, of_called, double weight
    ):
        cdef int32_t[::1] places = called.index.places  # by item: its place among the neighbours + 1, else 0
        cdef Py_ssize_t place, other, n = len(stored.keys)
        cdef int32_t key
        self.stored, self.attributions, self.weight = stored, attributions, weight
        self.called, self.of_called, self.because = called, of_called, called.because
        self.is_called.resize(n)
        self.is_listed.resize(called.n)
        for place in range(called.n):
            places[called.key(place)] = place + 1
        for place in range(n):
            key = stored.keys[place]
            other = places[key] - 1 if 0 <= key < places.shape[0] else -1
            if other >= 0:
                self.is_called[place] = self.is_listed[other] = 1
                self.twice.push_back(Placed(-(1 / (FUSION + place) + weight * (1 / (FUSION + other))), place))
        for place in range(called.n):
            places[called.key(place)] = 0
        sort(self.twice.begin(), self.twice.end())

    def first(self, Py_ssize_t n, set unwanted, bytearray available, fits):
        cdef list picks = []
        cdef Py_ssize_t at, place
        if n <= 0:
            return picks
        while True:
            at = self.following()
            if at < 0:
                return picks
            place = at - len(self.stored.keys)
            item_key = self.stored.keys[at] if place < 0 else self.called.key(place)
            if may(item_key, unwanted, available, fits):
                unwanted.add(item_key)
                if place < 0:
                    because = self.because if self.is_called[at] else None
                    picks.append(self.stored.pick(at, item_key, self.attributions, because))
                else:
                    parts = (item_key, self.called.total(place), self.of_called, self.because)
                    picks.append(new_pick(Pick, parts))
                if len(picks) == n:
                    return picks

    cdef int32_t following(self) noexcept:
        """The next place, with those of neighbours counted on from the list's end; -1 at the end."""
        cdef size_t n = len(self.stored.keys)
        cdef Placed best = Placed(1.0, -1), other
        cdef int which = 0
        while self.b < n and self.is_called[self.b]:
            self.b += 1
        while self.c < <size_t>self.called.n and self.is_listed[self.c]:
            self.c += 1
        if self.c < <size_t>self.called.n:
            best, which = Placed(-(self.weight * (1 / (FUSION + self.c))), n + self.c), 3
        if self.b < n:
            other = Placed(-(1 / (FUSION + self.b)), self.b)
            if which == 0 or other < best:
                best, which = other, 2
        if self.a < self.twice.size() and (which == 0 or self.twice[self.a] < best):
            best, which = self.twice[self.a], 1
        self.a, self.b, self.c = self.a + (which == 1), self.b + (which == 2), self.c + (which == 3)
        return best.second


cdef void append_chars(string& text, const char* start, const char* end):
    text.append(start, <size_t>(end - start))


cdef void append_bytes(string& text, bytes more):
    text.append(PyBytes_AS_STRING(more), <size_t>PyBytes_GET_SIZE(more))


cdef void append_score(string& text, score):
    """The fewest digits that parse to the same float32, in the form of orjson; null if not finite."""
    cdef char scientific[32]
    cdef float value = score if score is not None else NAN
    if not isfinite(value):
        text.append(b"null")
        return
    cdef char* end = to_chars(scientific, scientific + 32, value, in_scientific).ptr
    cdef char* at = scientific
    cdef string digits
    cdef int n, before  # digits, and how many of them are before the point
    if at[0] == b"-":
        text.append(b"-")
        at += 1
    while at[0] != b"e":
        if at[0] != b".":
            digits.push_back(at[0])
        at += 1
    end[0] = 0
    n, before = digits.size(), atoi(at + 1) + 1
    if value == 0:
        text.append(b"0.0")
    elif n <= before <= 13:
        text.append(digits).append(<size_t>(before - n), ZERO).append(b".0")
    elif 0 < before <= 13:
        text.append(digits, 0, before).append(b".").append(digits, before, n)
    elif -6 < before <= 0:
        text.append(b"0.").append(<size_t>(-before), ZERO).append(digits)
    else:
        text.append(digits, 0, 1)
        if n > 1:
            text.append(b".").append(digits, 1, n)
        text.append(b"e+" if before > 0 else b"e")
        append_chars(text, scientific, integer_to_chars(scientific, scientific + 32, before - 1).ptr)


cdef void append_id(string& text, external):
    cdef char digits[32]
    if type(external) is int:
        append_chars(text, digits, integer_to_chars(digits, digits + 32, <long long>external).ptr)
    else:
        append_bytes(text, orjson.dumps(external))


def entries(list ids, picks, bint explain):
    cdef string text = b"["
    cdef char digits[32]
    cdef Py_ssize_t rank = 0, key
    for pick in picks:
        if not isinstance(pick, Pick):
            raise TypeError("a Pick is expected")
        item_key, score, attribution, because = <tuple>pick
        key = item_key
        external = ids[key] if 0 <= key < len(ids) else None
        if external is None:
            raise KeyError(item_key)
        text.append(b',{"item_id":' if rank else b'{"item_id":')
        append_id(text, external)
        text.append(b',"score":')
        append_score(text, score)
        rank += 1
        text.append(b',"rank":')
        append_chars(text, digits, integer_to_chars(digits, digits + 32, <long long>rank).ptr)
        text.append(b",")
        append_bytes(text, attribution.json)
        if explain:
            key = -1 if because is None else because(item_key)
            external = ids[key] if 0 <= key < len(ids) else None
            if external is None:  # also where the seed was deleted meanwhile
                text.append(b',"reason":null')
            else:
                text.append(b',"reason":{"item_id":')
                append_id(text, external)
                text.append(b"}")
        text.append(b"}")
    text.append(b"]")
    return <bytes>text
