"""Data sets with hardly anything in them: one item with a title, nobody who bought anything, one day, one category."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys.candidates import registry
from recsys.data.dataset import Dataset
from recsys.errors import InputError
from recsys.features.frame import CATEGORICAL, Features
from recsys.types import MICROSECONDS_PER_DAY as DAY
from tests.unit.features.test_features import AS_OF, PAIRS, Event, ItemProperty, dataset_of

USERS = np.arange(6, dtype=np.int32)  # 0 and 5 are unknown
IN_MEMORY = ("popular", "recent", "als", "covisitation", "item_knn", "ease")

days = st.sampled_from([150.0, 150.0, 150.5, 160.0, 199.0])  # often the same instant
events = st.lists(
    st.tuples(days, st.integers(1, 4), st.integers(1, 4), st.sampled_from(["view", "buy"]), st.just(np.nan) | days),
    max_size=8,
)
properties = st.lists(
    st.one_of(
        st.tuples(days, st.integers(1, 4), st.just("title"), st.sampled_from(["", "red mug", "red lamp", "a", "日本"])),
        st.tuples(days, st.integers(1, 4), st.just("price"), st.sampled_from(["0", "-1", "5.5", ""])),
        st.tuples(days, st.integers(1, 4), st.just("available"), st.sampled_from(["0", "1"])),
        st.tuples(days, st.integers(1, 4), st.just("categoryid"), st.sampled_from(["shoes", "hats", "nowhere"])),
    ),
    max_size=6,
)
cuts = st.sampled_from([150 * DAY, 151 * DAY, 180 * DAY, AS_OF])


def check_features(dataset: Dataset, at: int) -> None:
    table = Features(dataset, at, threads=1).join(PAIRS)
    assert len(table) == len(PAIRS)
    for name in table.column_names[2:]:
        values = table[name].to_numpy()
        assert not np.isinf(values).any(), name
        assert name not in CATEGORICAL or (values >= -1).all()


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(events=events, properties=properties, at=cuts)
def test_features_of_hardly_anything(events: list[Event], properties: list[ItemProperty], at: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        check_features(dataset_of(Path(folder), events, properties), at)


@pytest.mark.parametrize("events", [[], [(150.0, 1, 2, "view", np.nan)]], ids=["no event", "on another item"])
def test_an_item_with_a_title_that_nobody_has_touched(tmp_path: Path, events: list[Event]) -> None:
    dataset = dataset_of(tmp_path, events, [(150.0, 1, "title", "Blue running shoes")])
    check_features(dataset, AS_OF)
    near = Features(dataset, AS_OF, threads=1).join(PAIRS)["pair_title_similarity"].to_numpy()
    assert np.isnan(near).all()


@pytest.mark.parametrize("name", IN_MEMORY)
@settings(max_examples=10, suppress_health_check=[HealthCheck.too_slow])
@given(events=events, properties=properties, at=cuts)
def test_generators_fit_hardly_anything_or_say_why_not(
    name: str, events: list[Event], properties: list[ItemProperty], at: int
) -> None:
    """Whatever is left to learn from, a generator fits and answers, or says in one line what is missing."""
    with tempfile.TemporaryDirectory() as folder:
        dataset = dataset_of(Path(folder), events, properties)
        history, catalogue = dataset.interactions(at), dataset.catalogue(at)
        if not (len(history) and len(catalogue)):
            with pytest.raises(InputError, match="import events or choose a later cut"):
                registry.make(name, {}).fit(history, catalogue)
            return
        try:
            model = registry.make(name, {}).fit(history, catalogue)
        except InputError:  # a single item
            return
        found = model.candidates(USERS, 3)
        assert found.item_key.shape == (len(USERS), 3)
        given = found.item_key[found.item_key >= 0]
        assert np.isin(given, catalogue.item_key[catalogue.available]).all()
        assert np.isfinite(found.score[found.item_key >= 0]).all()
