"""External ids: converts any JSON type that clients send to the catalogue's own type."""

from __future__ import annotations

import hashlib
from itertools import repeat
from typing import Any

from recsys.errors import InputError
from recsys.ids import BLANKS, MAX_DIGITS, MAX_ID_LENGTH, MAX_INTEGER, IdType, is_id, is_storable, whole_number

JsonType = IdType
ExternalId = int | str


def external_id(value: Any) -> ExternalId:
    """An integer within 18 digits or a string of 1 to MAX_ID_LENGTH characters that Postgres can store, stripped of
    blanks.

    Raises ValueError for other values.
    """
    if type(value) is int and -MAX_INTEGER <= value <= MAX_INTEGER:
        return value
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # JSON does not distinguish 1.0 from 1
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("an id is an integer or a string")
    if isinstance(value, int):
        if abs(value) > MAX_INTEGER:
            raise ValueError(f"an integer id has at most {MAX_DIGITS} digits")
        return value
    value = value.strip(BLANKS)
    if not 1 <= len(value) <= MAX_ID_LENGTH:
        raise ValueError(f"an id has 1 to {MAX_ID_LENGTH} characters besides blanks at its ends")
    if not is_id(value, "string"):
        raise ValueError("an id has neither NUL nor a lone surrogate")
    return value


def to_external(value: ExternalId, json_type: JsonType, entity: str) -> ExternalId:
    """`value` in the JSON type of the catalogue: 123 and "123" are the same id in either kind of catalogue, and in one
    of integers "123.0" is, too, since clients may take ids from a float column.

    Raises InputError for text that is not a plain integer (at most 18 digits, no leading zeros) in a catalogue of
    integers.
    """
    if json_type == "string":
        return str(value)
    if type(value) is int and -MAX_INTEGER <= value <= MAX_INTEGER:
        return value
    whole = whole_number(str(value))
    if whole is None:
        raise InputError(
            f"{entity} id {str(value)[:40]!r} is not an integer, and {entity} ids of this catalogue are integers"
        )
    return int(whole)


def read_id(text: str, json_type: JsonType, entity: str) -> ExternalId:
    """A stored id in the JSON type of the catalogue; InputError for an invalid one, from rows written by hand."""
    if not is_id(text, json_type):
        kind = "an integer" if json_type == "integer" else "a string"
        raise InputError(f"{entity} id {text[:40]!r} is not {kind} as ids of this catalogue are")
    return int(text) if json_type == "integer" else text


def read_ids(texts: list[str], json_type: JsonType) -> list[ExternalId] | None:
    """As `read_id` for each of at least one text; None where any of them is invalid."""
    if json_type == "string":
        is_bounded = min(map(len, texts)) >= 1 and max(map(len, texts)) <= MAX_ID_LENGTH
        is_stripped = list(map(str.strip, texts, repeat(BLANKS))) == texts
        return list(texts) if is_bounded and is_stripped and is_storable("".join(texts)) else None
    try:
        numbers = list(map(int, texts))
    except ValueError:
        return None
    is_within = min(numbers) >= -MAX_INTEGER and max(numbers) <= MAX_INTEGER
    return list(numbers) if is_within and list(map(str, numbers)) == texts else None


def stored_id(text: str | None, json_type: JsonType) -> ExternalId | None:
    """As `read_id`, None for an invalid id."""
    return read_id(text, json_type, "") if text is not None and is_id(text, json_type) else None


def digest_of(user_id: str) -> bytes:
    """SHA-256 of a canonical user id, stored for erased users."""
    return hashlib.sha256(user_id.encode()).digest()
