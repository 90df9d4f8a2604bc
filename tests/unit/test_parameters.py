"""Hyper-parameters from settings: what fits is taken over, what does not is named before anything is computed."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from recsys.candidates import registry
from recsys.errors import InputError
from recsys.parameters import made
from recsys.ranking.ranker import RankerParams
from recsys.settings import Settings
from recsys.steps import recipe
from recsys.steps.stages import usable

NAN = float("nan")
UNFIT: list[tuple[str, str, Any]] = [
    ("als", "factors", 0),
    ("als", "regularization", 0),
    ("als", "num_threads", -1),
    ("als", "history_half_life_sessions", NAN),
    ("item_knn", "n_neighbours", -1),
    ("covisitation", "within_hours", "text"),
    ("covisitation", "damping", NAN),
    ("next_item", "half_life_days", NAN),
    ("next_item", "history_half_life_places", 0),
    ("ease", "history_half_life_sessions", 0),
    ("session_neighbours", "n_newest", -1),
    ("session_neighbours", "reach", -1),
    ("session_neighbours", "n_walk", -1),
    ("session_neighbours", "again", 0),
    ("content", "title_share", 1.5),
    ("popular", "half_life_days", -1),
    ("recent", "half_life_days", 0),
    ("deepfm", "hidden", []),
    ("deepfm", "hidden", [64, 0]),
    ("deepfm", "learning_rate", NAN),
    ("sequence", "dim", 0),
    ("sequence", "dim", "big"),
    ("sequence", "heads", 0),
    ("sequence", "heads", 7),
    ("sequence", "blocks", 0),
    ("sequence", "max_length", 0),
    ("sequence", "dropout", 1.5),
    ("sequence", "learning_rate", -1),
    ("sequence", "validation_share", 1.5),
    ("sequence", "max_minutes", 0),
    ("sequence", "max_epochs", 0),
    ("sequence", "patience", 0),
    ("sequence", "n_negatives", 0),
    ("sequence", "batch_events", 0),
]


@pytest.mark.parametrize("name", registry.NAMES)
def test_defaults_and_values_as_json_has_them_are_taken_over(name: str) -> None:
    kind: Any = registry.class_of(name)
    shipped = {one.name: getattr(kind(), one.name) for one in dataclasses.fields(kind)}
    assert registry.make(name) == kind()
    as_json = {key: list(value) if isinstance(value, tuple) else value for key, value in shipped.items()}
    assert registry.make(name, as_json) == kind()


@pytest.mark.parametrize(("name", "parameter", "value"), UNFIT)
def test_a_value_that_does_not_fit_is_named(name: str, parameter: str, value: Any) -> None:
    with pytest.raises(InputError, match=rf"^{name}\.{parameter}.* should .*received"):
        registry.make(name, {parameter: value})


@pytest.mark.parametrize("name", registry.NAMES)
def test_no_parameter_takes_a_number_that_is_none(name: str) -> None:
    kind: Any = registry.class_of(name)
    for field in dataclasses.fields(kind):
        if isinstance(getattr(kind(), field.name), int | float):
            with pytest.raises(InputError, match=rf"{name}\.{field.name} should"):
                registry.make(name, {field.name: NAN})


def test_several_are_named_at_once_and_an_unknown_one_with_the_known() -> None:
    with pytest.raises(InputError, match=r"ranker\.depth should.*received 99; ranker\.n_models should.*received 0"):
        made(RankerParams, "ranker", {"depth": 99, "n_models": 0})
    with pytest.raises(InputError, match=r"ranker\.losses\.0 should be 'Logloss' or 'YetiRank'; received 'magic'"):
        made(RankerParams, "ranker", {"losses": ["magic"]})
    with pytest.raises(InputError, match=r"ranker\.threads.* should be"):
        made(RankerParams, "ranker", {"threads": 0})
    with pytest.raises(InputError, match="ranker has no parameter nonsense; it has losses, iterations"):
        made(RankerParams, "ranker", {"nonsense": 1})


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"generators": ["popular", "nonsense"]}, "RECSYS_GENERATORS: no candidate generator is called nonsense"),
        ({"generator_params": {"sequense": {}}}, "RECSYS_GENERATOR_PARAMS: no candidate generator is called sequense"),
        ({"generator_params": {"als": {"factors": 0}}}, r"RECSYS_GENERATOR_PARAMS: als\.factors should"),
        ({"ranker_params": {"nonsense": 1}}, "RECSYS_RANKER_PARAMS: ranker has no parameter nonsense"),
    ],
)
def test_settings_of_models_are_checked_before_anything_is_computed(settings: dict[str, Any], match: str) -> None:
    recipe.check(Settings())
    with pytest.raises(InputError, match=match):
        recipe.check(Settings(**settings))


def test_ease_alone_is_left_out_of_a_large_catalogue_and_names_count_once() -> None:
    names = [name for name in registry.NAMES for _ in range(2)]
    assert usable(names, {}, 20_001) == [name for name in registry.NAMES if name != "ease"]
    assert usable(["ease"], {"ease": {"max_items": 30_000}}, 20_001) == ["ease"]
