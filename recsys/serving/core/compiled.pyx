# distutils: language = c++
# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""The functions and classes of `pure`, where what they promise is written, in C++.

Whatever a file holds, nothing is read or written beyond its arrays.
"""

from libc.math cimport pow
from libc.stdint cimport int16_t, int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memcpy
from libcpp.algorithm cimport lower_bound, partial_sort, sort
from libcpp.pair cimport pair
from libcpp.vector cimport vector

from recsys.serving.core import pure

cdef double FUSION = pure.FUSION
ctypedef pair[double, int32_t] Placed  # minus the points, and a place: the least is the best
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


def bought_before(const int32_t[::1] item_keys, const float[::1] days, const int16_t[::1] types, dict since_day):
    cdef set found = set()
    cdef Py_ssize_t place, n = len(item_keys)
    cdef int64_t type_
    cdef double since
    if not len(days) == n == len(types):
        raise ValueError("columns of unequal length")
    for key, value in since_day.items():
        type_, since = key, value
        for place in range(n):
            if types[place] == type_ and days[place] >= since:
                found.add(item_keys[place])
    return found


def first(item_keys, Py_ssize_t n, set unwanted, bytearray available, fits):
    cdef list places = [], keys = []
    cdef Py_ssize_t place, key, n_items = len(available)
    for place, item_key in enumerate(item_keys):
        key = item_key
        if 0 <= key < n_items and available[key] and item_key not in unwanted and (fits is None or fits(item_key)):
            unwanted.add(item_key)
            places.append(place)
            keys.append(item_key)
            if len(keys) == n:
                break
    return places, keys


cdef class Called:
    cdef vector[uint64_t] best  # the bits of the sum, turned over, then the key: the least is the best
    cdef Py_ssize_t n

    def __init__(
        self, const int32_t[::1] rows, const int32_t[:, ::1] keys, const float[:, ::1] scores, float[::1] sums,
        dict seed_weights, Py_ssize_t n,
    ):
        cdef vector[int32_t] met
        cdef Py_ssize_t n_items = sums.shape[0] - 1, n_owners = min(keys.shape[0], scores.shape[0]) - 1, row, place
        cdef Py_ssize_t length = min(keys.shape[1], scores.shape[1])
        cdef int64_t seed
        cdef int32_t key
        cdef uint32_t bits
        cdef float weight, total
        met.reserve(len(seed_weights) * length)
        for seed, weight in seed_weights.items():
            row = rows[seed] if 0 <= seed < rows.shape[0] else n_owners
            if not 0 <= row < n_owners:
                continue
            for place in range(length):
                key = keys[row, place]
                if 0 <= key < n_items:
                    total = weight * scores[row, place]  # rounded to 32 bits before it is added
                    sums[key] = sums[key] + total
                    met.push_back(key)
        for seed in seed_weights:
            if 0 <= seed < n_items:
                sums[seed] = 0
        self.best.reserve(met.size())
        for key in met:
            total = sums[key]
            sums[key] = 0
            if total > 0:
                memcpy(&bits, &total, 4)
                self.best.push_back(<uint64_t>(~bits) << 32 | <uint32_t>key)
        self.n = min(n, <Py_ssize_t>self.best.size())
        partial_sort(self.best.begin(), self.best.begin() + self.n, self.best.end())

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


cdef Py_ssize_t position(vector[Keyed]& in_order, int32_t item_key) noexcept:
    """Where the item is among those in the order of their keys; -1 where it is not."""
    cdef Py_ssize_t at = lower_bound(in_order.begin(), in_order.end(), Keyed(item_key, 0)) - in_order.begin()
    return at if at < <Py_ssize_t>in_order.size() and in_order[at].first == item_key else -1


cdef class Fused:
    cdef vector[int32_t] listed, order
    cdef vector[Keyed] both  # items in both, and their places in what is called, in the order of their keys
    cdef vector[Placed] twice
    cdef Called called
    cdef double weight
    cdef vector[char] is_twice  # by place in what is called
    cdef size_t a, b, c

    def __init__(self, const int32_t[::1] listed, Called called, double weight):
        cdef vector[Keyed] places
        cdef Py_ssize_t place, other, at
        cdef double points
        self.called, self.weight = called, weight
        if len(listed):
            self.listed.assign(&listed[0], &listed[0] + len(listed))
        self.is_twice.resize(called.n)
        places.reserve(called.n)
        for place in range(called.n):
            places.push_back(Keyed(called.key(place), place))
        sort(places.begin(), places.end())
        for place in range(len(listed)):
            at = position(places, listed[place])
            if at >= 0:
                other = places[at].second
                points = 1 / (FUSION + place) + weight * (1 / (FUSION + other))
                self.twice.push_back(Placed(-points, place))
                self.both.push_back(places[at])
                self.is_twice[other] = 1
        sort(self.twice.begin(), self.twice.end())
        sort(self.both.begin(), self.both.end())

    def at(self, nth):
        cdef Py_ssize_t one
        cdef list places = []
        for one in nth:
            if not 0 <= one < <Py_ssize_t>self.order.size():
                raise IndexError(one)
            places.append(self.order[one])
        return places

    def is_in_both(self, int32_t item_key):
        return position(self.both, item_key) >= 0

    def __iter__(self):
        return self

    def __next__(self):
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
        if which == 0:
            raise StopIteration
        self.a, self.b, self.c = self.a + (which == 1), self.b + (which == 2), self.c + (which == 3)
        self.order.push_back(best.second)
        return self.listed[best.second] if best.second < <int32_t>n else self.called.key(best.second - n)
