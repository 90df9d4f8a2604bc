"""Functions of the engine (DuckDB) that Ibis has no word for. Another engine needs another name for each, here alone.

Ibis never calls the bodies: a declaration is its signature, and the name in the decorator where it differs.
"""

# mypy: disable-error-code="empty-body, no-untyped-def"

from __future__ import annotations

import ibis


@ibis.udf.agg.builtin(name="arg_max")
def latest(value: str, at) -> str:
    """The value of the row with the greatest `at`, of any ordered type; null values do not count."""


@ibis.udf.scalar.builtin
def to_json(text: str) -> str:
    """A text as JSON: in quotes, with escapes."""


@ibis.udf.scalar.builtin
def sha256(text: str) -> str:
    """SHA-256 of a text in UTF-8, hexadecimal."""


@ibis.udf.scalar.builtin
def epoch_us(at) -> int:
    """Microseconds since the epoch. A difference of instants with a time zone would take 17 times as long."""


@ibis.udf.scalar.builtin
def bit_count(bits: int) -> int:
    """How many bits are set."""
