"""What follows recent events by the published index of sessions, over HTTP; and without an index that can be read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import sqlalchemy as sa

from recsys.artifacts import ArtifactStore
from recsys.candidates.session_neighbours import SessionNeighbours
from recsys.steps.benchmarks.sessions import Split
from tests.integration import serving_shop as shop
from tests.integration.serving_shop import recommended

SESSIONS = [[51, 52, 53], [52, 53, 54], [51, 52, 53, 55]]


def write_index(root: Path, version: str) -> Path:
    """The index of SESSIONS as an artifact; its folder."""
    split = Split([np.array(session, np.int32) for session in SESSIONS], (), np.zeros(0, np.int32), None)
    index = SessionNeighbours().fit(split.events, split.catalogue).index
    with ArtifactStore(str(root)).writing("session_index", version, made_by="tests") as (folder, _):
        index.write(folder)
    return root / "session_index" / version


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("artifacts")


@pytest.fixture(scope="module")
def service(database_url: str, database: sa.Engine, root: Path) -> Iterator[httpx.Client]:
    write_index(root, "v1")
    shop.stock(database)
    shop.publish(database, "v1", shop.FIRST, {"session_index": "session_index/v1"})
    with shop.running_service(database_url, ARTIFACT_ROOT=str(root), API_MODEL_WAIT_S="1") as client:
        shop.wait_until(lambda: shop.is_ready(client), 10)
        shop.wait_until(lambda: tier(client, seq=[1052]) == "session", 10)
        yield client


def tier(client: httpx.Client, **request: Any) -> str:
    found: str = recommended(client, **request)["provenance"]["tier"]
    return found


def test_the_clicks_of_a_guest_are_followed_with_a_reason(service: httpx.Client) -> None:
    body = recommended(service, seq=[1051, 1052], explain=True, exclude=[1051, 1052])
    provenance, (first, *_) = body["provenance"], body["recommendations"]
    assert (provenance["tier"], provenance["n_recent"], provenance["degraded"]) == ("session", 2, [])
    assert provenance["models"]["session_index"] == "session_index/v1"
    assert provenance["list_version"] is None
    assert (first["item_id"], first["source"], first["generator"]) == (1053, "session", "session_neighbours")
    assert first["reason"] == {"item_id": 1052}


def test_posted_events_count_at_once_and_purchases_are_hidden(service: httpx.Client) -> None:
    sample = {"user_id": 9001, "item_id": 1052, "event_type": "view"}
    assert service.post("/online/data/add", json={"samples": [sample]}).status_code == 200
    shown = recommended(service, user_id=9001)["recommendations"]
    assert (shown[0]["item_id"], shown[0]["source"]) == (1052, "session")  # many return to what they just saw
    bought = sample | {"event_type": "transaction"}
    assert service.post("/online/data/add", json={"samples": [bought]}).status_code == 200
    after = recommended(service, user_id=9001)["recommendations"]
    assert after[0]["source"] == "session"
    assert 1052 not in {item["item_id"] for item in after}


def test_a_surface_may_leave_out_what_was_just_seen(service: httpx.Client) -> None:
    def shown() -> set[int]:
        return {item["item_id"] for item in recommended(service, seq=[1052])["recommendations"]}

    shop.put(service, "/config", config={"surfaces": {"homepage": {"own_items": False}}})
    shop.wait_until(lambda: 1052 not in shown(), 10)
    assert 1053 in shown()
    shop.put(service, "/config", config={})
    shop.wait_until(lambda: 1052 in shown(), 10)


def test_users_without_recent_events_are_answered_as_before(service: httpx.Client) -> None:
    body = recommended(service, user_id=501, top_k=5)
    assert [item["item_id"] for item in body["recommendations"]] == [1001, 1002, 1004, 1005, 1006]
    assert body["provenance"]["degraded"] == []


def test_a_broken_index_is_told_and_taken_when_it_is_whole(
    service: httpx.Client, database: sa.Engine, root: Path
) -> None:
    """It puts other publications into service."""
    folder = write_index(root, "v2")
    path = folder / "walk_values.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    shop.publish(database, "v2", shop.FIRST, {"session_index": "session_index/v2"})
    shop.wait_until(lambda: recommended(service)["provenance"]["publication_id"] == 2, 20)
    body = recommended(service, seq=[1001])
    assert (body["provenance"]["tier"], body["provenance"]["degraded"]) == ("i2i", ["session"])
    assert recommended(service)["provenance"]["degraded"] == []  # the same with the index
    batch = service.post("/recommend/batch", json={"user_ids": [9001, 502], "top_k": 2}).json()
    assert batch["provenance"]["degraded"] == ["session"]
    state = service.get("/model/info").json()["scorer"]["sessions"]
    assert (state["wanted"], state["is_loaded"]) == ("session_index/v2", False)
    assert "walk_values.npy is damaged" in state["problem"]
    metrics = service.get("/metrics").text
    assert 'recsys_degraded_answers_total{part="session"} 2.0' in metrics
    assert 'recsys_model_load_failures_total{model="session_index"}' in metrics
    path.write_bytes(whole)
    shop.wait_until(lambda: tier(service, seq=[1052]) == "session", 20)
    assert service.get("/model/info").json()["scorer"]["sessions"]["problem"] is None


def test_a_publication_without_an_index_serves_as_before(service: httpx.Client, database: sa.Engine) -> None:
    last = shop.publish(database, "v3", shop.FIRST)
    shop.wait_until(lambda: recommended(service)["provenance"]["publication_id"] == last, 20)
    body = recommended(service, seq=[1001])
    assert (body["provenance"]["tier"], body["provenance"]["degraded"]) == ("i2i", [])
