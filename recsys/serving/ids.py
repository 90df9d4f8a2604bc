"""External ids at the edge: whatever JSON type a client sends, the catalogue's own type inside and in answers."""

from __future__ import annotations

import hashlib
import re
from typing import Any, Literal

from recsys.errors import InputError

JsonType = Literal["integer", "string"]
ExternalId = int | str

MAX_ID_LENGTH = 128  # characters
NO_NUL = r"^[^\u0000]+$"  # of a text that Postgres can hold, which is not empty
INTEGER_ID_PATTERN = "^(0|-?[1-9][0-9]{0,17})$"
MAX_INTEGER = 10**18 - 1
_INTEGER_ID = re.compile(INTEGER_ID_PATTERN.replace("$", r"\Z"))


def external_id(value: Any) -> ExternalId:
    """An integer within 18 digits or a string of 1 to MAX_ID_LENGTH characters that Postgres can hold as text.

    Raises ValueError for all else.
    """
    if type(value) is int and -MAX_INTEGER <= value <= MAX_INTEGER:
        return value
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # JSON does not tell 1.0 from 1
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("an id is an integer or a string")
    if isinstance(value, int):
        if abs(value) > MAX_INTEGER:
            raise ValueError("an integer id has at most 18 digits")
        return value
    if not 1 <= len(value) <= MAX_ID_LENGTH:
        raise ValueError(f"an id has 1 to {MAX_ID_LENGTH} characters")
    if "\0" in value or (not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value)):
        raise ValueError("an id holds neither NUL nor half of a surrogate pair")
    return value


def to_external(value: ExternalId, json_type: JsonType, entity: str) -> ExternalId:
    """`value` in the JSON type of the catalogue: 123 and "123" name the same thing in either kind of catalogue.

    Raises InputError where that is impossible: text that is no plain integer (at most 18 digits, no leading
    zeros) for a catalogue of integers.
    """
    if json_type == "string":
        return str(value)
    if type(value) is int and -MAX_INTEGER <= value <= MAX_INTEGER:
        return value
    text = str(value)
    if not _INTEGER_ID.match(text):
        raise InputError(
            f"{entity} id {text[:40]!r} is not an integer, and {entity} ids of this catalogue are integers"
        )
    return int(text)


def digest_of(user_id: str) -> bytes:
    """What is remembered of an erased user: SHA-256 of the id as the catalogue writes it."""
    return hashlib.sha256(user_id.encode()).digest()
