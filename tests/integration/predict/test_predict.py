"""The model in service: /predict, listings, rescoring and export, over HTTP on real Postgres."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnxruntime
import pytest
import sqlalchemy as sa

from fast_api_service.predict.schemas import ExportAnswer, PositionsAnswer, PredictAnswer
from fast_api_service.schemas import ModelInfo
from tests.integration import serving_shop as shop
from tests.integration import tiny_model
from tests.integration.serving_shop import recommended

RESCORED = {"surfaces": {"homepage": {"blend": "rescore"}}}


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("artifacts")
    tiny_model.write(root, "v1")
    tiny_model.write(root, "v2", rising=True)
    return root


@pytest.fixture(scope="module")
def service(database_url: str, database: sa.Engine, artifacts: Path) -> Iterator[httpx.Client]:
    shop.stock(database)
    shop.publish(database, "v1", shop.FIRST, {"deepfm": "deepfm/v1"})
    with shop.running_service(database_url, ARTIFACT_ROOT=str(artifacts)) as client:
        shop.wait_until(lambda: shop.is_ready(client), 10)
        shop.wait_until(lambda: tiny_model.in_service(client) == "deepfm/v1", 5)
        client.put("/config", json={"config": RESCORED}).raise_for_status()
        shop.wait_until(lambda: recommended(client)["provenance"]["config_id"] == 1, 5)
        yield client


def predicted(client: httpx.Client, **request: Any) -> dict[str, Any]:
    return shop.answered(client, "/predict", PredictAnswer, **request)


def probabilities(client: httpx.Client, **request: Any) -> list[float]:
    return [one["probability"] for one in predicted(client, **request)["predictions"]]


def test_requests_of_the_same_moment_get_each_its_own_answer(service: httpx.Client) -> None:
    """They are read together; with many users, one by itself."""
    queries = [[501], [999_999], [502, 501], [503], [*range(501, 504), *range(900_000, 900_060)]] * 8

    def answer(user_ids: list[int]) -> Any:
        found = predicted(service, user_ids=user_ids, item_ids=[1001] * len(user_ids))
        return found["predictions"], found["unknown_users"], found["provenance"]["degraded"]

    alone = [answer(user_ids) for user_ids in queries[:5]]
    assert all(not degraded for *_, degraded in alone)
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(answer, queries)) == alone * 8


def expected(bias: float, taste: float, hour: int = 0) -> float:
    """By the formula of the tiny model; the part of the day is 1 for the hours from 0 to 2."""
    logit = bias + taste + 0.1 * (hour // 3 + 1)
    return float(1 / (1 + np.exp(-(logit - 1))))


def test_a_pair_two_lists_and_pairs_give_the_same(service: httpx.Client) -> None:
    at_night = {"user_feats": {"hour": 0}}
    one = predicted(service, user_id=501, item_id=1005, **at_night)
    assert one["predictions"][0]["item_id"] == 1005
    assert (one["unknown_users"], one["unknown_items"], one["warnings"]) == ([], [], [])
    assert one["provenance"]["model"] == "deepfm/v1"
    # 0.8 and 0.6 are the weights of the two odd items that user 1 looked at
    assert one["predictions"][0]["probability"] == pytest.approx(expected(50 / 20, 1.4), abs=1e-5)
    lists = predicted(service, user_ids=[502, "501", 502], item_ids=[1001, "1005", 1002], **at_night)
    assert [row["user_id"] for row in lists["predictions"]] == [502, 501, 502]
    assert lists["predictions"][1] == one["predictions"][0]
    pairs = [{"user_id": row["user_id"], "item_id": row["item_id"]} for row in lists["predictions"]]
    assert predicted(service, pairs=pairs, **at_night)["predictions"] == lists["predictions"]
    assert probabilities(service, pairs=pairs[::-1], **at_night) == [
        row["probability"] for row in lists["predictions"][::-1]
    ]


def test_who_and_what_is_unknown_is_scored_and_named(service: httpx.Client) -> None:
    body = predicted(service, user_ids=[501, 777, 503, 777], item_ids=[1001, 1060, 4242, 1001])
    assert (body["unknown_users"], body["users_known_by_events"]) == ([777], [503])
    assert body["unknown_items"] == [1060, 4242]
    assert all(0 <= row["probability"] <= 1 for row in body["predictions"])


def test_a_user_with_events_and_no_row_of_their_own_is_not_unknown(service: httpx.Client) -> None:
    """By night: fewer events than a row needs. By day: events alone. Only who has neither is unknown."""

    def unknown() -> tuple[list[int], list[int]]:
        body = predicted(service, user_ids=[501, 503, 7701, 7702], item_ids=[1001] * 4)
        return body["unknown_users"], body["users_known_by_events"]

    assert unknown() == ([7701, 7702], [503])
    event = {"event_id": "7701", "user_id": 7701, "item_id": 1002}
    assert service.post("/online/data/add", json=event).status_code == 200
    assert unknown() == ([7702], [503, 7701])
    listing = {"user_id": 503, "category_id": 902, "products": [PRODUCT]}
    assert service.post("/predict/product_positions", json=listing).json()["unknown_user"] is False


def test_features_of_the_request_and_those_that_nobody_knows(service: httpx.Client) -> None:
    morning, evening = (probabilities(service, user_id=502, item_id=1009, user_feats={"hour": h})[0] for h in (1, 22))
    assert (morning, evening) == pytest.approx((expected(46 / 20, 0, 1), expected(46 / 20, 0, 22)), abs=1e-5)
    same = predicted(service, user_id=502, item_id=1009, user_feats={"part_of_day": 8, "mood": "good", "hour": 99.5})
    assert same["predictions"][0]["probability"] == evening
    assert len(same["warnings"]) == 2
    assert "hour: should be an integer from 0 to 23" in same["warnings"][0]
    assert same["warnings"][1] == "user_feats.mood: the model has not met this value, it is taken as unknown"
    answer = predicted(service, user_id=502, item_id=1009, user_feats={"part_of_day": 8, "stars": 5, "tags": ["a"]})
    assert answer["predictions"][0]["probability"] == evening
    assert [warning.split(":")[0] for warning in answer["warnings"]] == ["user_feats.stars", "user_feats.tags"]
    assert "known only after the action" in answer["warnings"][0]


@pytest.mark.parametrize(
    ("request_", "word"),
    [
        ({}, "user_id"),
        ({"user_id": 1}, "item_id"),
        ({"user_ids": [1, 2], "item_ids": [1]}, "as many"),
        ({"user_ids": [], "item_ids": []}, "user_ids"),
        ({"pairs": [{"user_id": 1}]}, "item_id"),
        ({"pairs": [{"user_id": 1, "item_id": 2}], "user_id": 3}, "no such field"),
        ({"pairs": [{"user_id": 1, "item_id": 2}] * 10_001}, "10000"),
        ({"user_id": "no integer", "item_id": 1}, "not an integer"),
    ],
)
def test_what_cannot_be_predicted_is_refused(service: httpx.Client, request_: Any, word: str) -> None:
    response = service.post("/predict", json=request_)
    assert response.status_code == 422
    assert word in response.json()["error"]


def test_ten_thousand_pairs_of_as_many_users(service: httpx.Client) -> None:
    users = [501, 502, *range(10_000, 19_998)]
    body = predicted(service, user_ids=users, item_ids=[1001 + n % 55 for n in range(10_000)])
    assert len(body["predictions"]) == 10_000
    assert len(body["unknown_users"]) == 9998
    alone = predicted(service, user_id=502, item_id=1002)["predictions"][0]
    assert body["predictions"][1] == alone


def test_an_event_changes_the_next_prediction(service: httpx.Client) -> None:
    pairs = {"user_ids": [888, 888], "item_ids": [1007, 1008]}
    odd, even = probabilities(service, **pairs)
    event = {"user_id": 888, "item_id": 1002, "event_type": "view"}
    assert service.post("/online/data/add", json=event).json()["accepted"] == 1
    odd_then, even_then = probabilities(service, **pairs)
    assert odd_then < odd
    assert even_then > even


def test_products_stand_where_their_best_item_is_listed(service: httpx.Client) -> None:
    products = [
        {"product_id": "shirt", "item_ids": [1009, 1006]},
        {"product_id": 7, "item_ids": [1052]},  # of another category
        {"product_id": 8, "item_ids": [1003, 4242]},  # not available; unknown
    ]
    request = {"user_id": 501, "category_id": 902, "products": products, "user_feats": {"mood": 1}}
    response = service.post("/predict/product_positions", json=request)
    body = response.json()
    PositionsAnswer.model_validate(body)
    # odd items come first for user 1, in the order of their keys, and 3 and 13 are not available
    assert body["positions"][0]["position"] == 4
    assert body["positions"][0]["item_id"] == 1009
    assert [one["position"] for one in body["positions"][1:]] == [None, None]
    assert (body["n_listed"], body["n_available"], body["unknown_user"]) == (47, 47, False)
    assert len(body["warnings"]) == 2
    assert "2 of 3 have no item that is listed" in body["warnings"][1]
    empty = service.post("/predict/product_positions", json=request | {"category_id": 904}).json()
    assert (empty["n_listed"], empty["positions"][0]["position"], empty["unknown_user"]) == (0, None, False)
    unknown = service.post("/predict/product_positions", json=request | {"category_id": 4711})
    assert (unknown.status_code, unknown.json()["status"]) == (404, "unknown_category")


def test_the_pool_is_put_in_the_models_order(service: httpx.Client) -> None:
    body = recommended(service, user_id=501, seq=[1001], top_k=5, user_feats={"hour": 0})
    ids = [item["item_id"] for item in body["recommendations"]]
    pool = [1001, 1002, 1004, 1005, 1006, 1007, 1008, 1009, 1010]  # the ranked list, and what 1001 calls
    scores = [item["score"] for item in body["recommendations"]]
    assert scores == sorted(scores, reverse=True)
    assert set(ids) <= set(pool)
    # user 1 likes odd items, and just now looked at one more of them
    assert ids[:2] == [1001, 1005]
    assert body["provenance"]["rescored_by"] == "deepfm/v1"
    assert body["provenance"]["degraded"] == []
    ranked = recommended(service, user_id=501, candidate_items=[1008, 1009, 1060, 1001, 1003], top_k=5)
    assert [item["item_id"] for item in ranked["recommendations"]] == [1001, 1009, 1008, 1060]
    elsewhere = recommended(service, user_id=501, surface="cart", user_feats={"hour": 0})
    assert elsewhere["recommendations"][0]["item_id"] == 1001
    assert "not rescored" in elsewhere["warnings"][0]
    assert "rescored_by" not in elsewhere["provenance"]


def test_a_batch_is_rescored_as_each_of_its_users(service: httpx.Client, database: sa.Engine) -> None:
    query = {"user_ids": [501, 502, 999], "top_k": 5}
    body = service.post("/recommend/batch", json=query, headers={"x-request-id": "of-the-batch"}).json()
    assert body["provenance"]["rescored_by"] == "deepfm/v1"
    for result in body["results"]:
        alone = recommended(service, user_id=result["user_id"], top_k=5)["recommendations"]
        assert [item["item_id"] for item in result["recommendations"]] == [item["item_id"] for item in alone]
    of_batch = "predictions where request_id = 'of-the-batch'"
    shop.wait_until(lambda: shop.count(database, of_batch) == 3, 10)
    assert shop.count(database, f"{of_batch} and user_id in ('501', '502') and rescored_by = 'deepfm/v1'") == 2
    assert shop.count(database, f"{of_batch} and user_id = '999' and rescored_by is null") == 1


def test_the_export_runs_anywhere(service: httpx.Client) -> None:
    response = service.post("/model/export")
    exported = ExportAnswer.model_validate(response.json())
    assert exported.created
    assert {"network.onnx", "network.keras", "spec.json", "weights/item_fields.table.npy"} <= exported.files.keys()
    folder = Path(exported.path)
    assert json.loads((folder / "manifest.json").read_text())["files"] == exported.files
    session = onnxruntime.InferenceSession(folder / "network.onnx", providers=["CPUExecutionProvider"])
    pair = {"user": [[1, 1, 1, 1, 0, 0, 0, 0, 0]], "history": [[0]], "item": [[5, 1, 1, 0, 0, 0]], "user_of_pair": [0]}
    inputs = {name: np.array(value, dtype=np.int32) for name, value in pair.items()}
    (logit,) = session.run(["logits"], inputs | {"history_weight": np.zeros((1, 1), np.float32)})[0]
    assert logit == pytest.approx(50 / 20 + 0.1, abs=1e-5)
    again = service.post("/model/export").json()
    assert (again["artifact"], again["created"]) == (exported.artifact, False)


def test_a_model_of_earlier_code_is_not_exported_and_says_what_to_do(
    clean_database_url: str, clean_database: sa.Engine, artifacts: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(artifacts, tmp_path / "artifacts", ignore=shutil.ignore_patterns("deepfm_export"))
    shop.stock(clean_database)
    shop.publish(clean_database, "v1", shop.FIRST, {"deepfm": "deepfm/v1"})
    with shop.running_service(clean_database_url, ARTIFACT_ROOT=str(root)) as client:
        shop.wait_until(lambda: shop.is_ready(client), 10)
        shop.wait_until(lambda: tiny_model.in_service(client) == "deepfm/v1", 10)
        (root / "deepfm_serving" / "v1" / "keras.json").unlink()
        refused = client.post("/model/export")
        assert (refused.status_code, refused.json()["status"]) == (503, "export_failed")
        assert "keras.json" in refused.json()["error"]
        assert "recsys train-deepfm --force" in refused.json()["error"]
        exports = root / "deepfm_export"
        assert not exports.exists() or not list(exports.iterdir())


def test_the_model_follows_the_publication_and_never_stops_it(
    clean_database_url: str, clean_database: sa.Engine, artifacts: Path
) -> None:
    shop.stock(clean_database)
    shop.publish(clean_database, "v1", shop.FIRST)  # has no model
    with shop.running_service(clean_database_url, ARTIFACT_ROOT=str(artifacts)) as client:
        shop.wait_until(lambda: shop.is_ready(client), 10)
        client.put("/config", json={"config": RESCORED}).raise_for_status()
        shop.wait_until(lambda: recommended(client)["provenance"]["config_id"] == 1, 5)
        for path, body in (
            ("/predict", {"user_id": 501, "item_id": 1001}),
            ("/predict/product_positions", {"user_id": 501, "category_id": 902, "products": [PRODUCT]}),
            ("/model/export", None),
        ):
            away = client.post(path, json=body)
            assert (away.status_code, away.json()["status"]) == (503, "model_unavailable"), path
            assert away.headers["retry-after"]
        fused = recommended(client, user_id=501, user_feats={"hour": 0})
        assert fused["recommendations"][0]["item_id"] == 1001
        assert (fused["provenance"]["degraded"], len(fused["warnings"])) == (["model"], 1)
        assert 'recsys_degraded_answers_total{part="model"}' in client.get("/metrics").text

        for version in ("v1", "v2"):
            number = shop.publish(clean_database, f"lists-{version}", shop.FIRST, {"deepfm": f"deepfm/{version}"})
            shop.wait_until(lambda version=version: tiny_model.in_service(client) == f"deepfm/{version}", 5)
            shop.wait_until(lambda number=number: publication(client) == number, 5)
            first, last = probabilities(client, user_ids=[502, 502], item_ids=[1002, 1054])
            assert (first > last) == (version == "v1")

        shop.publish(clean_database, "lists-v3", shop.FIRST, {"deepfm": "deepfm/missing"})
        shop.wait_until(lambda: info(client)["wanted"] == "deepfm/missing" and info(client)["problem"], 5)
        model = info(client)
        assert model["loaded"] == "deepfm/v2"
        assert "train_deepfm" in model["problem"]
        assert predicted(client, user_id=502, item_id=1001)["provenance"]["model"] == "deepfm/v2"
        text = client.get("/metrics").text
        assert 'recsys_model_load_failures_total{model="deepfm"} 1.0' in text
        assert "recsys_model_loaded 1.0" in text
        damaged = artifacts / "deepfm_serving" / "v1" / "network.onnx"
        whole = damaged.read_bytes()
        try:
            damaged.write_bytes(whole[:-1])
            shop.publish(clean_database, "lists-v4", shop.FIRST, {"deepfm": "deepfm/v1"})
            shop.wait_until(lambda: "damaged" in (info(client)["problem"] or ""), 5)
            assert recommended(client, user_id=501)["provenance"]["rescored_by"] == "deepfm/v2"
        finally:
            damaged.write_bytes(whole)


PRODUCT = {"product_id": 1, "item_ids": [1001]}


def publication(client: httpx.Client) -> int:
    number: int = client.get("/ready").json()["publication_id"]
    return number


def info(client: httpx.Client) -> dict[str, Any]:
    body = client.get("/model/info").json()
    ModelInfo.model_validate(body)
    scorer: dict[str, Any] = body["scorer"]
    return scorer


def test_strings_stay_strings_in_predictions(
    clean_database_url: str, clean_database: sa.Engine, artifacts: Path
) -> None:
    shop.stock(clean_database, "string")
    shop.publish(clean_database, "v1", shop.FIRST, {"deepfm": "deepfm/v1"})
    with shop.running_service(clean_database_url, ARTIFACT_ROOT=str(artifacts)) as client:
        shop.wait_until(lambda: shop.is_ready(client), 10)
        shop.wait_until(lambda: tiny_model.in_service(client) == "deepfm/v1", 5)
        body = predicted(client, user_ids=["user-501", 17], item_ids=["item-1", 18])
        assert [(row["user_id"], row["item_id"]) for row in body["predictions"]] == [
            ("user-501", "item-1"),
            ("17", "18"),
        ]
        assert (body["unknown_users"], body["unknown_items"]) == (["17"], ["18"])
        started = time.monotonic()
        with clean_database.connect() as connection:  # Postgres answers too late
            connection.execute(sa.text("lock table user_recent in access exclusive mode"))
            late = predicted(client, user_id="user-501", item_id="item-1")
        assert time.monotonic() - started < 20
        assert late["provenance"]["degraded"] == ["users", "recent_events"]
        assert late["unknown_users"] == ["user-501"]
