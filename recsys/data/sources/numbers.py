"""Numbers as people write them: `12,50`, `$5.00`, `1.299,00`, `1 299,00`; the decimal sign is one for a column."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.data.sources.words import BLANKS

Decimal = Literal[".", ","]
_NUMBER: Final = r"^[+-]?[0-9]+(?:[.,][0-9]*)?(?:[eE][+-]?[0-9]+)?$"
MAX_LENGTH: Final = 100  # characters of a number; on longer texts the patterns below could take for ever

_MONEY: Final = (
    "(?:(?:US|CA|AU|NZ|HK|R)?[$]|[€£¥₹₽₩₺₴₪฿]|EUR|USD|GBP|CHF|JPY|CNY|RMB|INR|RUB|PLN|CZK|SEK|NOK|DKK|HUF|RON|BGN|TRY|"
    "BRL|MXN|AUD|CAD|NZD|SGD|HKD|TWD|KRW|ZAR|ILS|AED|SAR|THB|VND|IDR|MYR|PHP|UAH|CLP|COP|ARS|"
    "[kK]r[.]?|Rs[.]?|zł|Kč|Ft|lei|лв[.]?)"
)
_BLANK: Final = f"[{BLANKS}]"
_BODY = re.compile(
    rf"(?P<sign>[+-]?){_BLANK}*(?:{_MONEY}{_BLANK}*)?(?P<inner>[+-]?)(?P<body>[0-9.,'\u2019{BLANKS}]*[0-9][.,]?)"
    rf"(?P<power>[eE][+-]?[0-9]+)?(?:,?-)?{_BLANK}*(?:{_MONEY})?"
)
_MINUS_LAST = re.compile(rf"^([^+-]*[0-9])-({_BLANK}*(?:{_MONEY})?)$")
_THOUSANDS: Final = r"[1-9][0-9]{0,2}[.,][0-9]{3}"  # or a fraction of three digits
_INDIAN: Final = "|[1-9][0-9]?(?:,[0-9]{2})*,[0-9]{3}"  # 1,00,000
_GROUPS = {
    mark: re.compile(
        rf"[0-9]+|[1-9][0-9]{{0,2}}(?:([{re.escape(other)}'\u2019{BLANKS}])[0-9]{{3}}(?:\1[0-9]{{3}})*)"
        + (_INDIAN if mark == "." else "")
    )
    for mark, other in ((".", ","), (",", "."))
}


def read_numbers(texts: pa.Array, decimal: Decimal | None) -> pa.Array:
    """Texts as float64, null where one is no number. `decimal` None: a dot, and what could be either is no number."""
    if decimal != ",":
        try:
            return texts.cast(pa.float64())
        except pa.ArrowInvalid:
            pass
    return per_value(texts, lambda text: number(text, decimal), pa.float64())


def as_numbers(texts: pa.Array) -> pa.Array:
    """Texts as integers where all are, else as floats; null where one is no plain number."""
    texts = pc.utf8_trim_whitespace(texts)
    texts = pc.if_else(pc.match_substring_regex(texts, _NUMBER), texts, pa.scalar(None, pa.string()))
    texts = pc.replace_substring(texts, ",", ".")
    try:
        return texts.cast(pa.int64())
    except pa.ArrowInvalid:
        return texts.cast(pa.float64())


def plain_numbers(numbers: pa.Array) -> pa.Array:
    """Floats as text without an exponent: `12.5`, `3`."""
    return per_value(numbers, lambda value: np.format_float_positional(value, trim="-"), pa.string())


def per_value(values: pa.Array, one: Callable[[Any], Any], kind: pa.DataType) -> pa.Array:
    """`one` of each different value; null where null."""
    encoded = values.dictionary_encode()
    results = pa.array([one(value) for value in encoded.dictionary.to_pylist()], kind)
    return results.take(encoded.indices)


def number(text: str, decimal: Decimal | None) -> float | None:
    """A number with a currency and with groups of thousands; None where it is none, or could be two."""
    found = _parts(text)
    if not found:
        return None
    body = found["body"]
    if decimal is None and re.fullmatch(r"[1-9][0-9]{0,2},[0-9]{3}", body):
        return None
    mark = decimal or "."
    whole, point, fraction = body.rpartition(mark) if mark in body else (body, "", "")
    if point and not fraction.isdigit() and fraction:
        return None
    if whole and not _GROUPS[mark].fullmatch(whole):
        return None
    if found["sign"] and found["inner"]:
        return None
    digits = re.sub(r"[^0-9]", "", whole) or "0"
    return float(f"{found['sign']}{found['inner']}{digits}.{fraction or '0'}{found['power'] or ''}")


def _parts(text: str) -> re.Match[str] | None:
    text = text.strip()
    return _BODY.fullmatch(_with_minus_first(text)) if len(text) <= MAX_LENGTH else None


def _with_minus_first(text: str) -> str:
    """A number below zero with a plain minus before it: books write `(4.20)` or `4.20-`, typesetters another sign."""
    text = text.replace("\u2212", "-").replace("\u2011", "-")
    if text.startswith("(") and text.endswith(")"):
        return f"-{text[1:-1].strip()}"
    return _MINUS_LAST.sub(r"-\1\2", text)


def ambiguous(texts: pa.Array) -> str | None:
    """One with a dot that may divide thousands or begin a fraction."""
    doubtful = texts.filter(
        pc.fill_null(pc.match_substring_regex(texts, rf"(^|[^0-9.,]){_THOUSANDS}($|[^0-9.,])"), False)
    )
    with_dot = doubtful.filter(pc.match_substring(doubtful, "."))
    return with_dot[0].as_py() if len(with_dot) else None


def votes(texts: pa.Array) -> Counter[str]:
    """How many texts can only be read with the one or the other decimal sign."""
    marked = texts.filter(pc.fill_null(pc.match_substring_regex(texts, "[0-9.,][.,]|[.,][0-9]"), False))
    counted: Counter[str] = Counter()
    for pair in marked.value_counts().to_pylist():
        found = _parts(pair["values"])
        if found and (mark := _decimal_of(found["body"])):
            counted[mark] += pair["counts"]
    return counted


def decimal_of(counted: Counter[str]) -> Decimal | None:
    """The decimal sign of a column by its votes: one for all, never both. None where nothing tells."""
    if not counted[","] and not counted["."]:
        return None
    return "," if counted[","] > counted["."] else "."


def _decimal_of(body: str) -> Decimal | None:
    dots, commas = body.count("."), body.count(",")
    if dots and commas:
        last: Decimal = "." if body.rfind(".") > body.rfind(",") else ","
        return last if body.count(last) == 1 else None
    if dots > 1:
        return ","
    if commas > 1:
        return "."
    if re.fullmatch(_THOUSANDS, body):
        return None
    return "." if dots else ","
