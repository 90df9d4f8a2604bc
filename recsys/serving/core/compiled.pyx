# distutils: language = c++
# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""The functions and classes of `pure`, where their contract is documented, compiled to C++.

All accesses are checked against the bounds of the arrays, also for invalid files.
"""

from libc.math cimport NAN, isfinite, pow
from libc.stdint cimport int16_t, int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memcpy
from libcpp.algorithm cimport lower_bound, partial_sort, sort
from libcpp.pair cimport pair
from libcpp.string cimport string
from libcpp.vector cimport vector

import orjson

from recsys.serving.core import pure
from recsys.serving.core.pure import Pick

cdef extern from "<charconv>" namespace "std" nogil:
    cdef struct to_chars_result:
        char* ptr
    to_chars_result to_chars(char*, char*, float)
    to_chars_result integer_to_chars "std::to_chars"(char*, char*, long long)

cdef double FUSION = pure.FUSION, DAY_MS = pure.DAY_MS
ctypedef pair[double, int32_t] Placed  # minus the points, and a place, so that the least is the best
ctypedef pair[int64_t, float] Seed  # an item, and what it is worth
ctypedef pair[int32_t, int32_t] Keyed  # an item, and its place


def seeds(item_keys, event_types, occurred_ms, interests, double per_ms, Py_ssize_t n):
    cdef dict found = {}
    cdef int64_t newest_ms = occurred_ms[0] if len(occurred_ms) else 0
    cdef int64_t at_ms
    cdef double weight
    for key, event_type, at_ms in zip(item_keys, event_types, occurred_ms, strict=True):
        former = found.get(key)
        if former is None and len(found) == n:
            continue
        weight = <double>interests[event_type] * pow(2.0, <double>(newest_ms - at_ms) * per_ms)
        if weight > 0:
            found[key] = weight if former is None else <double>former + weight
    return found


def bought(item_keys, event_types, occurred_ms, dict since_ms):
    cdef set found = set()
    for key, type_, at_ms in zip(item_keys, event_types, occurred_ms, strict=True):
        since = since_ms.get(type_)
        if since is not None and at_ms >= since:
            found.add(key)
    return found


def bought_before(
    const int32_t[::1] item_keys, const float[::1] days, const int16_t[::1] types, event_types, dict since_ms
):
    cdef set found = set()
    cdef Py_ssize_t place, n = len(item_keys), type_
    cdef double since_day
    if not len(days) == n == len(types):
        raise ValueError("columns of unequal length")
    for type_, name in enumerate(event_types):
        since = since_ms.get(name)
        if since is not None:
            since_day = <double>since / DAY_MS
            for place in range(n):
                if types[place] == type_ and days[place] >= since_day:
                    found.add(item_keys[place])
    return found


def n_counted(item_keys, event_types, interests, Py_ssize_t n):
    cdef set found = set()
    cdef Py_ssize_t count = 0
    for key, event_type in zip(item_keys, event_types, strict=True):
        if <double>interests[event_type] > 0 and (len(found) < n or key in found):
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


cdef class Called:
    cdef vector[uint64_t] best  # the inverted bits of the sum, then the key, so that the least is the best
    cdef Py_ssize_t n
    cdef const int32_t[::1] rows
    cdef const int32_t[:, ::1] near
    cdef const float[:, ::1] scores
    cdef vector[Seed] seeds

    def __init__(
        self, const int32_t[::1] rows, const int32_t[:, ::1] keys, const float[:, ::1] scores, float[::1] sums,
        dict seed_weights, Py_ssize_t n,
    ):
        cdef vector[int32_t] met
        cdef Py_ssize_t n_items = sums.shape[0] - 1, length = keys.shape[1], row, place
        cdef Seed seed
        cdef int32_t key
        cdef uint32_t bits
        cdef float total
        if not (keys.shape[0] == scores.shape[0] and length == scores.shape[1]):
            raise ValueError("keys and scores of unequal shape")
        self.rows, self.near, self.scores = rows, keys, scores
        for item_key, weight in seed_weights.items():
            self.seeds.push_back(Seed(item_key, weight))
        met.reserve(self.seeds.size() * length)
        for seed in self.seeds:
            row = self.row_of(seed.first)
            if row < 0:
                continue
            for place in range(length):
                key = keys[row, place]
                if 0 <= key < n_items:
                    total = seed.second * scores[row, place]  # rounded to 32 bits before the addition
                    sums[key] = sums[key] + total
                    met.push_back(key)
        for seed in self.seeds:
            if 0 <= seed.first < n_items:
                sums[seed.first] = 0
        self.best.reserve(met.size())
        for key in met:
            total = sums[key]
            sums[key] = 0
            if total > 0:
                memcpy(&bits, &total, 4)
                self.best.push_back(<uint64_t>(~bits) << 32 | <uint32_t>key)
        self.n = min(n, <Py_ssize_t>self.best.size())
        partial_sort(self.best.begin(), self.best.begin() + self.n, self.best.end())

    cdef Py_ssize_t row_of(self, int64_t item_key) noexcept:
        """The row of an item's neighbours; -1 where it has none."""
        cdef Py_ssize_t row = self.rows[item_key] if 0 <= item_key < self.rows.shape[0] else -1
        return row if 0 <= row < self.near.shape[0] - 1 else -1

    cdef int32_t key(self, Py_ssize_t place) noexcept:
        return <int32_t>(self.best[place] & 0xFFFFFFFF)

    @property
    def keys(self):
        return [self.key(place) for place in range(self.n)]

    def score(self, Py_ssize_t place):
        if not 0 <= place < self.n:
            raise IndexError(place)
        cdef uint32_t bits = ~<uint32_t>(self.best[place] >> 32)
        cdef float total
        memcpy(&total, &bits, 4)
        return total

    def because(self, int32_t item_key):
        cdef Py_ssize_t row, place
        cdef Seed seed
        cdef int64_t found = self.seeds[0].first if self.seeds.size() else -1
        cdef float part, greatest = -1
        for seed in self.seeds:
            row = self.row_of(seed.first)
            for place in range(self.near.shape[1] if row >= 0 else 0):
                part = seed.second * self.scores[row, place]
                if self.near[row, place] == item_key and part > greatest:
                    greatest, found = part, seed.first
        return found


cdef Py_ssize_t position(vector[Keyed]& in_order, int32_t item_key) noexcept:
    """The item's index among those sorted by key; -1 if missing."""
    cdef Py_ssize_t at = lower_bound(in_order.begin(), in_order.end(), Keyed(item_key, 0)) - in_order.begin()
    return at if at < <Py_ssize_t>in_order.size() and in_order[at].first == item_key else -1


cdef class Fused:
    cdef vector[int32_t] listed
    cdef const float[::1] scores
    cdef const int16_t[::1] sources
    cdef vector[Keyed] both  # items in both, with their places among the neighbours, sorted by key
    cdef vector[Placed] twice
    cdef vector[char] is_twice  # by place among the neighbours
    cdef tuple attributions
    cdef Called called
    cdef object of_called, because
    cdef double weight
    cdef size_t a, b, c

    def __init__(
        self, const int32_t[::1] item_keys, const float[::1] scores, const int16_t[::1] sources, attributions,
        Called called, of_called, double weight,
    ):
        cdef vector[Keyed] places
        cdef Py_ssize_t place, other, at
        cdef double points
        if not len(item_keys) == len(scores) == len(sources) or not attributions:
            raise ValueError("columns of unequal length, or nothing to attribute them to")
        self.scores, self.sources, self.attributions = scores, sources, tuple(attributions)
        self.called, self.of_called, self.because, self.weight = called, of_called, called.because, weight
        if len(item_keys):
            self.listed.assign(&item_keys[0], &item_keys[0] + len(item_keys))
        self.is_twice.resize(called.n)
        places.reserve(called.n)
        for place in range(called.n):
            places.push_back(Keyed(called.key(place), place))
        sort(places.begin(), places.end())
        for place in range(<Py_ssize_t>self.listed.size()):
            at = position(places, self.listed[place])
            if at >= 0:
                other = places[at].second
                points = 1 / (FUSION + place) + weight * (1 / (FUSION + other))
                self.twice.push_back(Placed(-points, place))
                self.both.push_back(places[at])
                self.is_twice[other] = 1
        sort(self.twice.begin(), self.twice.end())
        sort(self.both.begin(), self.both.end())

    def first(self, Py_ssize_t n, set unwanted, bytearray available, fits):
        cdef list picks = []
        cdef int32_t at, n_listed = self.listed.size()
        if n <= 0:
            return picks
        while True:
            at = self.following()
            if at < 0:
                return picks
            item_key = self.listed[at] if at < n_listed else self.called.key(at - n_listed)
            if may(item_key, unwanted, available, fits):
                unwanted.add(item_key)
                picks.append(self.pick(at, item_key))
                if len(picks) == n:
                    return picks

    cdef pick(self, int32_t at, item_key):
        cdef Py_ssize_t n_listed = self.listed.size(), last = len(self.attributions) - 1, source
        if at >= n_listed:
            parts = (item_key, self.called.score(at - n_listed), self.of_called, self.because)
        else:
            source = self.sources[at]
            because = self.because if position(self.both, self.listed[at]) >= 0 else None
            attribution = self.attributions[source if 0 <= source < last else last]
            parts = (item_key, <double>self.scores[at], attribution, because)
        return tuple.__new__(Pick, parts)

    cdef int32_t following(self) noexcept:
        """The next place, with those of neighbours counted on from the list's end; -1 at the end."""
        cdef size_t n = self.listed.size()
        cdef Placed best = Placed(1.0, -1), other
        cdef int which = 0
        while self.b < n and position(self.both, self.listed[self.b]) >= 0:
            self.b += 1
        while self.c < <size_t>self.called.n and self.is_twice[self.c]:
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


cdef void append_score(string& text, score):
    """As the shortest text that parses to the same float32; null if not finite."""
    cdef char digits[32]
    cdef float value = score if score is not None else NAN
    if not isfinite(value):
        text.append(b"null")
        return
    cdef size_t start = text.size()
    append_chars(text, digits, to_chars(digits, digits + 32, value).ptr)
    if text.find_first_of(<const char*>b".e", start) >= text.size():
        text.append(b".0")


def entries(list ids, picks, reasons):
    cdef string text = b"["
    cdef char digits[32]
    cdef Py_ssize_t rank = 0, key
    for pick in picks:
        item_key, score, attribution, _ = <tuple>pick
        key = item_key
        external = ids[key] if 0 <= key < len(ids) else None
        if external is None:
            raise KeyError(item_key)
        text.append(b',{"item_id":' if rank else b'{"item_id":')
        if type(external) is int:
            append_chars(text, digits, integer_to_chars(digits, digits + 32, <long long>external).ptr)
        else:
            text.append(<string>orjson.dumps(external))
        text.append(b',"score":')
        append_score(text, score)
        rank += 1
        text.append(b',"rank":')
        append_chars(text, digits, integer_to_chars(digits, digits + 32, <long long>rank).ptr)
        text.append(b",")
        text.append(<string>attribution.json)
        if reasons is not None:
            text.append(b',"reason":')
            text.append(<string>reasons[rank - 1])
        text.append(b"}")
    text.append(b"]")
    return <bytes>text
