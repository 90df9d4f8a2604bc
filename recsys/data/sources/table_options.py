"""The options of source `table` as they are typed, each checked by itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

from recsys.data.sources.numbers import Decimal
from recsys.errors import InputError
from recsys.ids import IdType


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
