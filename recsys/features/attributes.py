"""The descriptions of items as sparse matrices: their attributes, and the words of their titles.

An attribute is a category, the category above it, a value of a property (each of a list, or of a text with `|`, `;` or
`,` between), or one of the overlapping ranges in which a number lies. Its weight is log(n_items / items that have it):
what all have says nothing. What a single item has is left out, as is a text that is too long to name anything.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from recsys import columns as col
from recsys.data.dataset import AVAILABLE, CATEGORY, PRICE, TITLE
from recsys.features.title import bags
from recsys.types import Catalogue, Descriptions

UNUSED: Final = frozenset({AVAILABLE, CATEGORY, PRICE, TITLE, col.RECOMMENDATION_WEIGHT})  # or known otherwise
MAX_VALUES = 32  # of one property of an item; those beyond are not read
LONGEST_VALUE = 64  # characters
N_RANGES = 20  # of a number, with as many items in each
_BETWEEN = re.compile(r"\s*[|;,]\s*")
_NUMBER = re.compile(r"n?-?[0-9]+(\.[0-9]+)?")  # in RetailRocket's form with an n in front
_FRACTION = re.compile(r"n.*|.*\..*")


@dataclass
class _Property:
    """The values of one property: for each the item, and its text as a code."""

    items: array[int] = field(default_factory=lambda: array("i"))
    codes: array[int] = field(default_factory=lambda: array("i"))
    code_by_text: dict[str, int] = field(default_factory=dict)


def attributes(catalogue: Catalogue, descriptions: Descriptions | None) -> sp.csr_matrix:
    """The weight of each attribute of each item, 0 where it has it not: CSR float32 (n_items, n_attributes)."""
    n_items = len(catalogue)
    parts = [_of_codes(*_known(keys), n_items) for keys in (catalogue.category_key, catalogue.parent_category_key)]
    if descriptions is not None:
        priced = np.flatnonzero(np.isfinite(descriptions.price))
        parts.append(_of_numbers(priced, descriptions.price[priced], n_items))
        parts += [_of_property(one, n_items) for one in _by_property(descriptions.properties)]
    has = sp.hstack(parts, format="csc", dtype=np.float32)
    n_with = np.diff(has.indptr)
    telling = (n_with > 1) & (n_with < n_items)
    return (has[:, telling] @ sp.diags(np.log(n_items / n_with[telling]))).tocsr().astype(np.float32)


def titles(catalogue: Catalogue, descriptions: Descriptions | None) -> sp.csr_matrix:
    """TF-IDF of the titles, rows of length 1, or 0 without a title: CSR float32 (n_items, n_words)."""
    if descriptions is None or not any(descriptions.title):
        return sp.csr_matrix((len(catalogue), 1), dtype=np.float32)
    return bags([title or "" for title in descriptions.title])


def _known(keys: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The items that have a category, and its code."""
    items = np.flatnonzero(keys >= 0)
    return items, np.unique(keys[items], return_inverse=True)[1]


def _by_property(properties: Sequence[str | None]) -> list[_Property]:
    """The values of each property, in the order of their names. What is no JSON object says nothing."""
    found: dict[str, _Property] = {}
    for item, text in enumerate(properties):
        for name, value in _object(text).items():
            if name not in UNUSED:
                one = found.setdefault(name, _Property())
                for part in _values(value):
                    one.items.append(item)
                    one.codes.append(one.code_by_text.setdefault(part, len(one.code_by_text)))
    return [found[name] for name in sorted(found)]


def _object(text: str | None) -> dict[str, Any]:
    try:
        read = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return {}
    return read if isinstance(read, dict) else {}


def _values(value: Any) -> Iterator[str]:
    """The distinct values that one property of an item has."""
    several = value if isinstance(value, list) else _BETWEEN.split(value) if isinstance(value, str) else [value]
    texts = (str(one).strip().lower() for one in several[:MAX_VALUES] if isinstance(one, str | int | float))
    yield from dict.fromkeys(text for text in texts if 0 < len(text) <= LONGEST_VALUE)


def _of_property(one: _Property, n_items: int) -> sp.csr_matrix:
    """Ranges where all values are numbers and some have a fraction, else a column for each value: integers are often
    codes."""
    items, codes = np.frombuffer(one.items, dtype=np.int32), np.frombuffer(one.codes, dtype=np.int32)
    texts = list(one.code_by_text)
    if any(map(_FRACTION.fullmatch, texts)) and all(map(_NUMBER.fullmatch, texts)):
        return _of_numbers(items, np.array([float(text.lstrip("n")) for text in texts])[codes], n_items)
    return _of_codes(items, codes, n_items)


def _of_codes(items: NDArray[Any], codes: NDArray[Any], n_items: int) -> sp.csr_matrix:
    """A column for each code."""
    ones = np.ones(len(items), dtype=np.float32)
    return sp.csr_matrix((ones, (items, codes)), shape=(n_items, int(codes.max(initial=0)) + 1))


def _of_numbers(items: NDArray[Any], values: NDArray[np.float64], n_items: int) -> sp.csr_matrix:
    """A column for each of `N_RANGES` ranges with as many items in each, and for as many that are shifted by half of
    one: near numbers share two, those a little farther apart one."""
    if not len(values):
        return sp.csr_matrix((n_items, 1), dtype=np.float32)
    grids = []
    for shift in (0.0, 0.5):
        edges = np.unique(np.quantile(values, np.clip((np.arange(1, N_RANGES + 1) - shift) / N_RANGES, 0, 1)))
        grids.append(_of_codes(items, np.searchsorted(edges, values, side="left"), n_items))
    return sp.hstack(grids, format="csr")
