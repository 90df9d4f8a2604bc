"""The demo on real data of three kinds, one after the other in one place: every run green, lists for everybody."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.demo_world import Demo, running_demo

DATA = os.environ.get("RECSYS_DATA_DIR", "")

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(not DATA, reason="RECSYS_DATA_DIR is not set: the data sets' licences keep them out of here"),
]


@pytest.fixture(scope="module")
def demo() -> Iterator[Demo]:
    # large sets let the sequence network learn for its six minutes; here half a one is enough
    with running_demo(RECSYS_GENERATOR_PARAMS='{"sequence": {"max_minutes": 0.5, "continued_minutes": 0.2}}') as demo:
        yield demo


# The RetailRocket folder is a part of the set: no item properties, and hardly enough purchases for a ranker.
@pytest.mark.parametrize(
    ("source", "path", "tiers"),
    [
        ("retailrocket", "retailrocket", {"ranked", "personal"}),
        ("movielens", "ml-1m", {"ranked"}),
        ("online-retail", "online-retail/online_retail.parquet", {"ranked"}),
    ],
)
def test_every_run_is_green_and_everybody_gets_ten_items(demo: Demo, source: str, path: str, tiers: set[str]) -> None:
    output = demo.run("start", SOURCE=source, INPUT=str(Path(DATA) / path), REPLACE="1")
    demo.check_run()
    demo.check_lists()
    demo.check_bought()
    answers = demo.check_answers()
    tier = answers["known"]["provenance"]["tier"]
    assert tier in tiers
    assert answers["unknown"]["provenance"]["tier"] == "popular"
    ((n_active,),) = demo.rows("select count(distinct visitorid) from raw.events")
    assert demo.n_lists(tier) > 0.95 * n_active
    if source == "retailrocket":
        assert "item_properties" in output, "a missing file is reported"
