"""The options of source `table` as they are typed, each checked by itself."""

from __future__ import annotations

import csv as csv_module
import math
from collections.abc import Mapping
from typing import cast

from recsys.data.sources.formats import DELIMITER_WORDS
from recsys.data.sources.numbers import Decimal
from recsys.data.sources.reading import CsvFormat
from recsys.data.sources.texts import is_encoding
from recsys.errors import InputError
from recsys.ids import IdType

FORMAT_OPTIONS = ("delimiter", "header", "names", "encoding", "quoting")


def decimal_sign(given: str | None) -> Decimal | None:
    if given not in (None, ".", ","):
        raise InputError(f"option decimal={given} is unknown; use . or ,")
    return None if given is None else cast(Decimal, given)


def as_id_type(entity: str, given: str) -> IdType:
    if given not in ("integer", "string"):
        raise InputError(f"option {entity}_id_type={given} is unknown; use integer or string")
    return cast(IdType, given)


def weights_of(given: str) -> dict[str, float]:
    weights: dict[str, float] = {}
    for pair in given.split(","):
        name, _, number = pair.rpartition(":")
        try:
            weights[name.strip()] = float(number)
        except ValueError:
            name = ""
        if not name.strip() or not math.isfinite(weights[name.strip()]):
            raise InputError(f"option weights={given}: {pair!r} is not of the form TYPE:NUMBER with a finite number")
    return weights


def types_of(
    option: str, options: Mapping[str, str], weights: Mapping[str, float], default: tuple[str, ...]
) -> tuple[str, ...]:
    if option not in options:
        return default
    chosen = tuple(name.strip() for name in options[option].split(",")) if options[option].strip() else ()
    if option == "labels" and not chosen:
        raise InputError("option labels is empty; name one event type at least that the ranker is to bring about")
    unknown = [name for name in chosen if name not in weights]
    if unknown:
        raise InputError(
            f"option {option} names {', '.join(unknown)}, which has no weight; known: {', '.join(weights)}"
        )
    return chosen


def csv_format(options: Mapping[str, str]) -> CsvFormat:
    """The options that say how files are written; InputError for one that cannot be."""
    given = {name: options[name] for name in FORMAT_OPTIONS if options.get(name)}
    delimiter = given.get("delimiter")
    if delimiter is not None:
        delimiter = DELIMITER_WORDS.get(delimiter.lower(), delimiter)
        if len(delimiter.encode()) > 4 or set(delimiter) & set('"\r\n\0'):
            raise InputError(
                f"option delimiter={delimiter!r} is none; use comma, semicolon, tab, pipe, space or 1 to 4 characters"
            )
    names = given.get("names")
    columns = None if names is None else tuple(name.strip() for name in next(csv_module.reader([names])))
    encoding = given.get("encoding")
    if encoding is not None and not is_encoding(encoding):
        raise InputError(f"option encoding={encoding} is unknown; use utf-8, utf-16, cp1252, latin-1 or the like")
    return CsvFormat(
        delimiter=delimiter,
        names=columns,
        header=_yes_or_no("header", given),
        quoting=_yes_or_no("quoting", given),
        encoding=encoding,
    )


def _yes_or_no(option: str, given: Mapping[str, str]) -> bool | None:
    if option not in given:
        return None
    if given[option].lower() not in ("yes", "no"):
        raise InputError(f"option {option}={given[option]} is unknown; use yes or no")
    return given[option].lower() == "yes"
