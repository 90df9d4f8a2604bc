"""What the settings say of models, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from recsys.candidates import registry
from recsys.errors import InputError
from recsys.parameters import made
from recsys.ranking.ranker import RankerParams
from recsys.settings import Settings


def ranker_params(loaded: Settings, over: Mapping[str, Any] | None = None) -> RankerParams:
    """The settings' parameters of the ranker, those of `over` before them; InputError where one does not fit."""
    return made(RankerParams, "ranker", {"seed": loaded.seed, **loaded.ranker_params, **(over or {})})


def check(loaded: Settings) -> None:
    """InputError, which names the variable, for generators that there are not, and for parameters that do not fit."""
    _require_known("RECSYS_GENERATORS", loaded.generators)
    _require_known("RECSYS_GENERATOR_PARAMS", loaded.generator_params)
    try:
        for name, params in loaded.generator_params.items():
            registry.make(name, params)
    except InputError as error:
        raise InputError(f"RECSYS_GENERATOR_PARAMS: {error}") from None
    try:
        ranker_params(loaded)
    except InputError as error:
        raise InputError(f"RECSYS_RANKER_PARAMS: {error}") from None


def _require_known(variable: str, names: Iterable[str]) -> None:
    unknown = sorted(set(names) - set(registry.NAMES))
    if unknown:
        raise InputError(
            f"{variable}: no candidate generator is called {', '.join(unknown)}; there are {', '.join(registry.NAMES)}"
        )
