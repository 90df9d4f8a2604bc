"""How one publication follows another: with its models, as one, and without holding anything else up."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from recsys.artifacts import MANIFEST
from tests.integration import serving_shop as shop
from tests.integration import tiny_model
from tests.integration.recommend.test_fold_in import train
from tests.integration.serving_shop import recommended

SEQ = [1031, 1032, 1034]  # of somebody new, whom the ALS can fold in
RESCORED = {"surfaces": {"homepage": {"blend": "rescore"}}}


@contextmanager
def scoring(database_url: str, engine: sa.Engine, root: Path, **environment: str) -> Iterator[httpx.Client]:
    """A service that scores by v1 of ALS and DeepFM; there is a v2 of both."""
    shop.stock(engine)
    for number in (1, 2):
        tiny_model.write(root, f"v{number}", rising=number == 2)
        train(root, f"v{number}")
    shop.publish(engine, "v1", shop.FIRST, {"deepfm": "deepfm/v1"})
    with shop.running_service(database_url, ARTIFACT_ROOT=str(root), **environment) as client:
        shop.wait_until(lambda: shop.is_ready(client), 10)
        client.put("/config", json={"config": RESCORED}).raise_for_status()
        shop.wait_until(lambda: recommended(client, seq=SEQ)["provenance"].get("rescored_by") == "deepfm/v1", 20)
        yield client


def shown(client: httpx.Client) -> set[int]:
    return {item["item_id"] for item in recommended(client, top_k=100)["recommendations"]}


def publication(client: httpx.Client) -> int:
    number: int = recommended(client, top_k=1)["provenance"]["publication_id"]
    return number


@contextmanager
def loading_held_up(database: sa.Engine, publication_id: int) -> Iterator[None]:
    """Whoever loads this publication waits at its neighbours."""
    sql = "select manifest ->> 'i2i' from publications where publication_id = :id"
    with database.connect() as holder:
        partition = f"lists_{holder.execute(sa.text(sql), {'id': publication_id}).scalar_one()}"
        holder.execute(sa.text(f"lock table {partition} in access exclusive mode"))
        yield
        holder.rollback()


def point_at(database: sa.Engine, publication_id: int) -> None:
    with database.begin() as connection:
        fence = connection.execute(sa.text("select fence + 1 from publication_pointer for update")).scalar_one()
        shop.point_at(connection, publication_id, fence)


def test_catalogue_keys_and_configuration_do_not_wait_for_a_publication(
    clean_database_url: str, clean_database: sa.Engine
) -> None:
    shop.stock(clean_database)
    first = shop.publish(clean_database, "v1", shop.FIRST)
    second = shop.publish(clean_database, "v2", shop.SECOND)
    point_at(clean_database, first)
    with shop.running_service(clean_database_url) as client, shop.running_service(clean_database_url) as other:
        for worker in (client, other):
            shop.wait_until(lambda worker=worker: shop.is_ready(worker), 10)
        with loading_held_up(clean_database, second):
            point_at(clean_database, second)
            waiting = sa.text("select count(*) from pg_stat_activity where wait_event_type = 'Lock'")
            with clean_database.connect() as look:
                look.execution_options(isolation_level="AUTOCOMMIT")
                shop.wait_until(lambda: look.execute(waiting).scalar_one() >= 2, 10)
            shop.put(client, "/items/1045", available=False)
            shop.put(client, "/items/2001", available=True)
            assert client.delete("/items/1046").status_code == 200
            with clean_database.begin() as connection:
                connection.execute(sa.text("delete from items where item_id = '1047'"))
            version = client.put("/config", json={"config": {"recent_half_life_hours": 5}}).json()["config_id"]
            gone = {1045, 1046, 1047}
            for worker in (client, other):
                shop.wait_until(lambda worker=worker: not gone & shown(worker) and 2001 in shown(worker), 5)
                shop.wait_until(lambda worker=worker: recommended(worker)["provenance"]["config_id"] == version, 5)
                assert publication(worker) == first  # all of that before the switch
            with clean_database.begin() as connection:
                digest = "decode(repeat('ab', 32), 'hex')"
                insert = f"insert into api_keys (key_id, name, digest, scopes) values ('k', 'n', {digest}, '{{admin}}')"
                connection.execute(sa.text(insert))
            for worker in (client, other):
                shop.wait_until(lambda worker=worker: worker.post("/recommend", json={}).status_code == 401, 5)
            with clean_database.begin() as connection:
                connection.execute(sa.text("delete from api_keys"))
            for worker in (client, other):
                shop.wait_until(lambda worker=worker: worker.post("/recommend", json={}).status_code == 200, 5)
                assert publication(worker) == first
        for worker in (client, other):
            shop.wait_until(lambda worker=worker: publication(worker) == second, 10)
            assert not gone & shown(worker), "the switch undid a change that came while it loaded"
            assert 2001 in shown(worker)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "artifacts"


@contextmanager
def held_back(folder: Path) -> Iterator[None]:
    """An artifact whose manifest can only be read when this ends."""
    manifest, kept = folder / MANIFEST, folder.parent / "kept"
    manifest.rename(kept)
    os.mkfifo(manifest)
    text = kept.read_text()
    try:
        yield
    finally:
        pipe = os.open(manifest, os.O_RDWR)  # whoever waits for a writer is let in, before the file is back
        kept.rename(manifest)
        os.write(pipe, text.encode())
        os.close(pipe)


@contextmanager
def asking(client: httpx.Client, n: int, once: Callable[[httpx.Client], None]) -> Iterator[None]:
    """Have `n` others ask all the time."""
    stop = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=client.base_url, timeout=60) as own:
            while not stop.is_set():
                once(own)

    threads = [threading.Thread(target=ask) for _ in range(n)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_lists_wait_for_their_models_and_all_are_switched_as_one(
    clean_database_url: str, clean_database: sa.Engine, root: Path
) -> None:
    with scoring(clean_database_url, clean_database, root) as client:
        seen: list[dict[str, Any]] = []
        with asking(client, 3, lambda own: seen.append(recommended(own, seq=SEQ))):
            with held_back(root / "deepfm_serving" / "v2"):
                shop.publish(clean_database, "v2", shop.SECOND, {"deepfm": "deepfm/v2"})
                time.sleep(3)
                assert seen[-1]["provenance"]["publication_id"] == 1  # its model is on its way
            shop.wait_until(lambda: seen[-1]["provenance"]["publication_id"] == 2, 20)
            again = shop.publish(clean_database, "v3", shop.FIRST, {"als": "als/v2", "deepfm": "deepfm/v2"})
            shop.wait_until(lambda: seen[-1]["provenance"]["publication_id"] == again, 20)
        of = [answer["provenance"] for answer in seen]
        assert {tuple(provenance["degraded"]) for provenance in of} == {()}
        assert {(provenance["publication_id"], provenance["rescored_by"]) for provenance in of} == {
            (1, "deepfm/v1"),
            (2, "deepfm/v2"),
            (3, "deepfm/v2"),
        }
        for answer in seen:
            assert any(item["source"] == "fold_in" for item in answer["recommendations"]), answer


def test_after_a_while_it_goes_without_and_says_so(
    clean_database_url: str, clean_database: sa.Engine, root: Path
) -> None:
    with scoring(clean_database_url, clean_database, root, API_MODEL_WAIT_S="0.5") as client:
        pair = {"user_id": 501, "item_id": 1001}
        with held_back(root / "deepfm_serving" / "v2"), held_back(root / "als" / "v2"):
            shop.publish(clean_database, "v2", shop.SECOND, {"deepfm": "deepfm/v2"})
            shop.wait_until(lambda: publication(client) == 2, 20)
            assert recommended(client, seq=SEQ)["provenance"]["degraded"] == ["fold_in", "model"]
            provenance = recommended(client, user_id=501)["provenance"]
            assert (provenance["rescored_by"], provenance["degraded"]) == ("deepfm/v1", ["model"])
            provenance = client.post("/predict", json=pair).json()["provenance"]
            assert (provenance["model"], provenance["publication_id"], provenance["degraded"]) == (
                "deepfm/v1",
                2,
                ["model"],
            )
            batch = client.post("/recommend/batch", json={"user_ids": [501, 502], "surface": "homepage"}).json()[
                "provenance"
            ]
            assert (batch["rescored_by"], batch["degraded"]) == ("deepfm/v1", ["model"])
            scorer = client.get("/model/info").json()["scorer"]
            assert scorer["problem"] == "deepfm/v2 is being loaded"
            assert scorer["factors"]["is_loaded"] is False
        shop.wait_until(lambda: recommended(client, seq=SEQ)["provenance"]["degraded"] == [], 20)
        assert recommended(client, seq=SEQ)["provenance"]["rescored_by"] == "deepfm/v2"
        provenance = client.post("/predict", json=pair).json()["provenance"]
        assert (provenance["model"], provenance["degraded"]) == ("deepfm/v2", [])
        scorer = client.get("/model/info").json()["scorer"]
        assert (scorer["problem"], scorer["factors"]["is_loaded"]) == (None, True)


def test_artifacts_that_come_after_the_start_are_taken(
    clean_database_url: str, clean_database: sa.Engine, root: Path
) -> None:
    shop.stock(clean_database)
    shop.publish(clean_database, "v1", shop.FIRST, {"deepfm": "deepfm/v1"})
    with shop.running_service(clean_database_url, ARTIFACT_ROOT=str(root)) as client:
        shop.wait_until(lambda: shop.is_ready(client), 10)
        shop.wait_until(lambda: client.get("/model/info").json()["scorer"]["factors"]["problem"], 10)
        scorer = client.get("/model/info").json()["scorer"]
        assert "deepfm/v1 cannot be loaded" in scorer["problem"]
        assert recommended(client, seq=SEQ)["provenance"]["degraded"] == ["fold_in"]
        tiny_model.write(root, "v1")
        train(root, "v1")
        shop.wait_until(lambda: tiny_model.in_service(client) == "deepfm/v1", 20)
        shop.wait_until(lambda: recommended(client, seq=SEQ)["provenance"]["tier"] == "fold_in", 20)
        scorer = client.get("/model/info").json()["scorer"]
        assert (scorer["problem"], scorer["factors"]["problem"]) == (None, None)
        assert recommended(client, seq=SEQ)["provenance"]["degraded"] == []


def test_a_batch_has_one_configuration_and_one_model(
    clean_database_url: str, clean_database: sa.Engine, root: Path
) -> None:
    shop.stock(clean_database)
    for number in (1, 2):
        tiny_model.write(root, f"v{number}", rising=number == 2)
    shop.publish(clean_database, "v1", shop.FIRST, {"deepfm": "deepfm/v1"})
    with shop.running_service(clean_database_url, ARTIFACT_ROOT=str(root), API_BATCH_DEADLINE_MS="60000") as client:
        shop.wait_until(lambda: shop.is_ready(client), 10)
        shop.wait_until(lambda: tiny_model.in_service(client) == "deepfm/v1", 20)
        client.put("/config", json={"config": RESCORED}).raise_for_status()
        shop.wait_until(lambda: recommended(client)["provenance"]["config_id"] == 1, 5)
        answers: list[dict[str, Any]] = []
        body = {"user_ids": [501] * 400, "top_k": 5, "surface": "homepage"}
        with asking(client, 2, lambda own: answers.append(own.post("/recommend/batch", json=body).json())):
            for number in range(6):  # in the middle of batches
                client.put("/config", json={"config": {} if number % 2 == 0 else RESCORED}).raise_for_status()
                time.sleep(0.7)
            shop.publish(clean_database, "v2", shop.FIRST, {"deepfm": "deepfm/v2"})
            shop.wait_until(lambda: publication(client) == 2, 20)
            shop.wait_until(lambda: answers[-1]["provenance"]["publication_id"] == 2, 20)
        for answer in answers:
            assert len({str(result["recommendations"]) for result in answer["results"]}) == 1, answer["provenance"]
            is_rescored = answer["provenance"]["config_id"] % 2 == 1
            by = f"deepfm/v{answer['provenance']['publication_id']}"
            assert answer["provenance"].get("rescored_by") == (by if is_rescored else None)
        assert len({answer["provenance"]["config_id"] for answer in answers}) > 1
