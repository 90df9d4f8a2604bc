"""What an id is: of users, items and categories, in files that are imported, at night and in the service.

Ids are stored as text. Of type `integer` they are whole numbers of at most 18 digits without leading zeros, of type
`string` any text of at most MAX_ID_LENGTH characters. Blanks at the ends are no part of an id.
"""

from __future__ import annotations

import re
from typing import Final, Literal

IdType = Literal["integer", "string"]

# At the ends of an id they are no part of it: what \s is in a JSON Schema.
BLANKS: Final = (
    " \t\n\v\f\r\u00a0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000\ufeff"
)
MAX_ID_LENGTH: Final = 128  # characters
MAX_DIGITS: Final = 18  # beyond them numbers leave the range of 64 bits
MAX_INTEGER: Final = 10**MAX_DIGITS - 1
INTEGER_ID_PATTERN: Final = "^(0|-?[1-9][0-9]{0,17})$"
WHOLE_FRACTION: Final = "(?:[.,]0{0,2})?"  # of a whole number written as a float; three digits may be thousands
NO_NUL: Final = r"^[^\u0000]+$"  # of a text that Postgres can hold, which is not empty
ID_PATTERN: Final = r"^[^\u0000]*[^\s\u0000][^\u0000]*$"  # of text with more than blanks
_INTEGER_ID = re.compile(INTEGER_ID_PATTERN.replace("$", r"\Z"))
_WHOLE_FLOAT = re.compile(INTEGER_ID_PATTERN.replace("$", WHOLE_FRACTION + r"\Z"))


def is_id(text: str, id_type: IdType) -> bool:
    """Whether a stored text is an id of this type."""
    if id_type == "integer":
        return _INTEGER_ID.match(text) is not None
    is_bounded = 1 <= len(text) <= MAX_ID_LENGTH and text[0] not in BLANKS and text[-1] not in BLANKS
    return is_bounded and is_storable(text)


def whole_number(text: str) -> str | None:
    """The integer id that a text is, also one written as a float (`5863.0`), as spreadsheets and pandas do; None for
    what is none."""
    found = _WHOLE_FLOAT.match(text)
    return None if found is None else found[1]


def is_storable(text: str) -> bool:
    """Whether Postgres can hold a text: neither NUL nor half of a pair of surrogates is in it."""
    return "\0" not in text and (text.isascii() or not _has_surrogate(text))


def _has_surrogate(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)
