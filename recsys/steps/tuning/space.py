"""What is searched: the range of each hyper-parameter, of every generator and of the ranker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any

from recsys.candidates import registry
from recsys.errors import InputError
from recsys.ranking.ranker import RankerParams

if TYPE_CHECKING:
    from optuna.trial import Trial

RANKER = "ranker"
_DIGITS = 3  # significant ones of a number that is chosen: more say nothing, and are a burden to paste


@dataclass(frozen=True)
class Real:
    """A number in [low, high]; `log`: its magnitude is drawn evenly."""

    low: float
    high: float
    log: bool = False

    def suggest(self, trial: Trial, name: str) -> float:
        return float(f"{trial.suggest_float(name, self.low, self.high, log=self.log):.{_DIGITS}g}")


@dataclass(frozen=True)
class Whole:
    """A whole number in [low, high]."""

    low: int
    high: int
    log: bool = False

    def suggest(self, trial: Trial, name: str) -> int:
        return int(trial.suggest_int(name, self.low, self.high, log=self.log))


@dataclass(frozen=True)
class OneOf:
    """One of some values."""

    values: tuple[Any, ...]

    def suggest(self, trial: Trial, name: str) -> Any:
        return trial.suggest_categorical(name, self.values)


Space = Mapping[str, Real | Whole | OneOf]

_DAYS = Real(5, 1000, log=True)  # a half-life of an event
_TREND = {"trend": Real(0, 1.5), "trend_half_life_days": Real(5, 90, log=True)}
_SESSIONS = Real(0.3, 30, log=True)  # a half-life in sessions, or places, from the user's last
_RULES: Space = {
    "distance_power": Real(0, 1.5),
    "backward": Real(0, 1),
    "damping": Real(0, 1),
    "n_neighbours": Whole(30, 500, log=True),
}

SPACES: Mapping[str, Space] = {
    "popular": {"half_life_days": Real(1, 60, log=True), "all_time_share": Real(0.001, 0.5, log=True)},
    "recent": {"half_life_days": Real(20, 2000, log=True)},
    "als": {
        "factors": OneOf((32, 64, 96, 128)),
        "regularization": Real(0.005, 5, log=True),
        "alpha": Real(0.1, 20, log=True),
        "iterations": Whole(8, 30),
        "half_life_days": _DAYS,
        "history_half_life_sessions": _SESSIONS,
        "bm25_k1": Real(1, 200, log=True),
        "bm25_b": Real(0, 1),
        **_TREND,
    },
    "covisitation": {
        "max_distance": Whole(5, 150, log=True),
        "half_life_days": _DAYS,
        "history_half_life_days": _DAYS,
        "history_half_life_sessions": _SESSIONS,
        **_RULES,
    },
    "next_item": {"max_distance": Whole(1, 50, log=True), "history_half_life_places": _SESSIONS, **_RULES},
    "item_knn": {
        "half_life_days": _DAYS,
        "history_half_life_days": _DAYS,
        "history_half_life_sessions": _SESSIONS,
        "n_neighbours": Whole(20, 300, log=True),
    },
    "ease": {
        "l2": Real(20, 2000, log=True),
        "half_life_days": _DAYS,
        "history_half_life_sessions": _SESSIONS,
        **_TREND,
    },
    "session_neighbours": {
        "decay": Real(0.2, 0.95),
        "idf_power": Real(0, 3),
        "n_newest": Whole(200, 5000, log=True),
        "n_neighbours": Whole(50, 2000, log=True),
        "length_power": Real(0, 1),
        "backward": Real(0, 1),
        "walk_decay": Real(0.1, 0.9),
        "walk_power": Real(0.1, 1),
        "popularity_power": Real(-1, 0.5),
        "recent_power": Real(0, 1),
        "half_life_days": _DAYS,
    },
    "content": {
        "title_share": Real(0, 1),
        "history_half_life_days": _DAYS,
        "history_half_life_sessions": _SESSIONS,
        "n_neighbours": Whole(20, 300, log=True),
    },
    "deepfm": {
        "dim": OneOf((16, 32, 64)),
        "half_life_days": _DAYS,
        "history_half_life_days": _DAYS,
        "n_negatives": Whole(5, 30, log=True),
        "uniform_share": Real(0, 1),
        "learning_rate": Real(0.0005, 0.01, log=True),
    },
    "sequence": {
        "dim": OneOf((32, 64, 128)),
        "blocks": Whole(1, 3),
        "max_length": OneOf((20, 50, 100, 200)),
        "dropout": OneOf((None, 0.1, 0.2, 0.35, 0.5)),
        "learning_rate": Real(0.0003, 0.003, log=True),
    },
    RANKER: {
        "learning_rate": Real(0.01, 0.2, log=True),
        "depth": Whole(4, 8),
        "l2_leaf_reg": Real(1, 50, log=True),
        "column_share": Real(0.1, 1),
        "max_negatives": Whole(10, 150, log=True),
    },
}


def space_of(name: str) -> Space:
    """InputError for a name that is neither a generator's nor the ranker's."""
    if name not in SPACES:
        raise InputError(f"nothing to tune is called {name!r}; there are {', '.join(registry.NAMES)}, and {RANKER}")
    return SPACES[name]


def defaults_of(name: str) -> dict[str, Any]:
    """The values that ship of all that is searched."""
    made_by: Any = RankerParams if name == RANKER else registry.class_of(name)
    shipped = {one.name: one.default for one in fields(made_by) if one.default is not MISSING}
    return {parameter: shipped[parameter] for parameter in space_of(name)}


def suggested(trial: Trial, space: Space) -> dict[str, Any]:
    """The values that a trial of Optuna takes."""
    return {name: one.suggest(trial, name) for name, one in space.items()}
