"""Hyper-parameters: which values make sense, and one error that names those that do not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any, TypeVar, cast

from pydantic import Field, TypeAdapter, ValidationError

from recsys.errors import InputError

T = TypeVar("T")
Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Part = Annotated[float, Field(ge=0, lt=1)]  # something is left


def made(kind: type[T], name: str, params: Mapping[str, Any]) -> T:
    """A dataclass with these parameters over its defaults, each within what its type allows.

    Raises InputError, which calls it `name`, for parameters that it does not have and for values that do not fit.
    """
    known = [field.name for field in fields(cast(Any, kind)) if field.init]
    unknown = sorted(set(params) - set(known))
    if unknown:
        raise InputError(f"{name} has no parameter {', '.join(unknown)}; it has {', '.join(known)}")
    try:
        return TypeAdapter(kind).validate_python(dict(params))
    except ValidationError as error:
        raise InputError("; ".join(_in_words(name, dict(one)) for one in error.errors())) from None


def _in_words(name: str, error: Mapping[str, Any]) -> str:
    place = ".".join(map(str, (name, *error["loc"])))
    message = str(error["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    return f"{place} {message}; received {error['input']!r:.60}"
