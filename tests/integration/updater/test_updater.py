"""The updater as a process beside the service: an event changes what another process answers."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import boto3
import httpx
import numpy as np
import onnxruntime
import pytest
import sqlalchemy as sa

from recsys.serving.update import KIND, number_of
from tests import online_world as world
from tests import s3_server
from tests.integration import serving_shop as shop
from tests.integration import tiny_model
from tests.integration.updater.updater_processes import (
    append,
    execute,
    learned,
    online,
    post,
    probability,
    rows,
    service,
    status,
    updater,
    updates,
)

pytestmark = [pytest.mark.slow]  # a network is trained, and processes import TensorFlow


def test_what_one_process_is_told_another_one_predicts(
    clean_database_url: str, clean_database: sa.Engine, artifacts: Path
) -> None:
    world.stock(clean_database)
    with (
        service(clean_database_url, artifacts) as first,
        service(clean_database_url, artifacts) as second,
        updater(clean_database_url, artifacts),
    ):
        shop.wait_until(lambda: status(first)["state"] == "running", 60)
        before = probability(second, 7, 33)
        # other users' purchases: only what was learned can tell of them
        for number in range(0, 50, 10):
            bought = [world.sample(9 + 2 * n, 33, number + n, event_type="transaction") for n in range(10)]
            post(first, *bought)
            shop.wait_until(lambda n=number: online(second)["update"] >= 2 + n // 10, 10)
        assert probability(second, 7, 33) > before + 0.03
        shop.wait_until(lambda: online(second)["update"] == online(first)["update"] > 1, 5)
        now = status(first)
        assert (now["last_update"], now["lag"]) == (online(second)["update"], 0)
        assert now["model"] == "deepfm/v1"
        assert now["heartbeat_age_s"] < 5
        listed = first.get("/online/updates/list").json()["updates"]
        assert [update["number"] for update in listed] == list(range(now["last_update"], 0, -1))
        assert listed[-1]["is_base"]
        assert sum(update["n_events"] for update in listed) == 50


def test_a_user_whom_only_events_name_gets_a_row_and_loses_it_when_erased(
    clean_database_url: str, clean_database: sa.Engine, artifacts: Path
) -> None:
    world.stock(clean_database)
    with (
        service(clean_database_url, artifacts) as first,
        service(clean_database_url, artifacts) as second,
        updater(clean_database_url, artifacts),
    ):
        pair = {"user_id": 590, "item_id": 1033}

        def unknown() -> list[int]:
            found = second.post("/predict", json=pair).json()
            return [*found["unknown_users"], *found["users_known_by_events"]]

        def known_as() -> str:
            answer = second.post("/recommend", json={"user_id": 590}).json()
            return str(answer["provenance"]["user"])

        assert (unknown(), known_as()) == ([590], "unknown")
        bought = [world.sample(90, 30 + n, n, event_type="transaction") for n in range(6)]
        post(first, *bought)
        shop.wait_until(lambda: not unknown(), 30)
        assert known_as() == "light"
        first.delete("/users/590").raise_for_status()
        shop.wait_until(lambda: unknown() == [590], 5)
        again = first.post("/online/data/add", json=world.sample(90, 33, 50))
        assert again.status_code == 422
        assert known_as() == "unknown"


def test_an_export_holds_what_was_learned_for_onnx_and_for_keras(
    clean_database_url: str, clean_database: sa.Engine, artifacts: Path, tmp_path: Path
) -> None:
    import keras

    import recsys.networks.deepfm  # noqa: F401 - Keras knows the network by it

    root = shutil.copytree(artifacts, tmp_path / "artifacts")
    world.stock(clean_database)
    with service(clean_database_url, root) as client, updater(clean_database_url, root):
        of_the_night = client.post("/model/export").json()
        post(client, *[world.sample(9 + 2 * n, 33, n, event_type="transaction") for n in range(10)])
        shop.wait_until(lambda: online(client)["update"] >= 2, 90)
        learned_since = client.post("/model/export").json()
    assert (of_the_night["created"], learned_since["created"]) == (True, True)
    logits = []
    for exported in (of_the_night, learned_since):
        folder = Path(exported["path"])
        network = keras.saving.load_model(folder / "network.keras")
        session = onnxruntime.InferenceSession(folder / "network.onnx", providers=["CPUExecutionProvider"])
        width = {one.name: one.shape[1] for one in session.get_inputs() if one.name in ("user", "item")}
        inputs = {
            "user": np.ones((1, width["user"]), np.int32),
            "history": np.array([[1, 2]], np.int32),
            "history_weight": np.array([[0.5, 0.5]], np.float32),
            "item": np.array([[row] + [1] * (width["item"] - 1) for row in range(5)], np.int32),
        }
        (by_onnx,) = session.run(["logits"], inputs | {"user_of_pair": np.zeros(5, np.int32)})
        by_keras = np.asarray(network({**inputs, "item": inputs["item"][None]}))[0]
        np.testing.assert_allclose(by_keras, by_onnx, rtol=1e-4, atol=1e-4)
        logits.append(by_onnx)
    assert not np.allclose(*logits)


def test_one_works_and_another_waits_for_it(
    clean_database_url: str, clean_database: sa.Engine, artifacts: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(artifacts, tmp_path / "artifacts")
    world.stock(clean_database)
    execute(clean_database, "update training_state set watchdog_s = 5")
    random = np.random.default_rng(4)

    def holder() -> str | None:
        return rows(clean_database, "select holder from training_state")[0]["holder"]

    with updater(clean_database_url, root, may_be_killed=True) as first:
        shop.wait_until(lambda: str(holder()).endswith(f":{first.pid}"), 60)
        with updater(clean_database_url, root) as second:
            append(clean_database_url, [world.taste(number, random) for number in range(100)])
            shop.wait_until(lambda: learned(clean_database) == 100, 60)
            assert {row["fence"] for row in rows(clean_database, "select fence from model_updates")} == {1}
            first.send_signal(signal.SIGSTOP)  # it hangs, and wakes up after another has taken over
            shop.wait_until(lambda: str(holder()).endswith(f":{second.pid}"), 60)
            append(clean_database_url, [world.taste(number, random) for number in range(100, 200)])
            first.send_signal(signal.SIGCONT)
            assert first.wait(30) == 3, "who lost the lease ends"
            shop.wait_until(lambda: learned(clean_database) == 200, 60)
            assert str(holder()).endswith(f":{second.pid}")
    numbers = [row["number"] for row in rows(clean_database, "select number from model_updates order by number")]
    assert numbers == list(range(1, len(numbers) + 1))


def test_wrong_labels_make_the_guard_roll_back_everywhere(
    clean_database_url: str, clean_database: sa.Engine, artifacts: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(artifacts, tmp_path / "artifacts")
    world.stock(clean_database)
    random = np.random.default_rng(5)
    pairs = {"pairs": [[500 + user, 1000 + item] for user in range(1, 21) for item in range(1, 21)]}

    def answers(client: httpx.Client) -> np.ndarray:
        body = client.post("/predict", json={"pairs": [{"user_id": u, "item_id": i} for u, i in pairs["pairs"]]}).json()
        return np.array([one["probability"] for one in body["predictions"]])

    options: dict[str, Any] = {
        "batch_events": 200, "updates_per_base": 6, "guard_window": 150, "guard_bound": 0.05, "step_rows": 32,
        "batch_s": 1e6, "priority_event_types": [],  # updates by the number of events alone, however busy the machine
    }  # fmt: skip
    with (
        service(clean_database_url, root) as client,
        updater(clean_database_url, root, **options),
    ):
        shop.wait_until(lambda: status(client)["state"] == "running", 60)
        before = answers(client)
        poisoned = [world.taste(number, random, label=0) for number in range(1200)]  # what people like, as disliked
        append(clean_database_url, poisoned)
        shop.wait_until(lambda: learned(clean_database) == 1200, 60)
        shop.wait_until(lambda: online(client)["update"] == status(client)["last_update"], 5)
        assert status(client)["rollbacks"] == 0, "as long as all is wrong, the wrong one predicts it better"
        assert np.abs(answers(client) - before).mean() > 0.05
        append(clean_database_url, [world.taste(number, random) for number in range(1200, 1600)])
        shop.wait_until(lambda: status(client)["rollbacks"] == 1, 30)
        shop.wait_until(lambda: learned(clean_database) == 1600, 30)
        now = status(client)
        assert now["last_rollback"]["reason"].startswith("guard: progressive AUC")
        assert now["last_rollback"]["reason"].endswith("back to the base of update 1")  # as the night left it
        assert now["state"] == "running"
        shop.wait_until(lambda: online(client)["update"] == now["last_update"], 5)
        assert "recsys_model_update_rollbacks_total 1.0" in client.get("/metrics").text
        rolled_back = next(one for one in updates(client) if one["reason"].startswith("guard"))
        assert (rolled_back["is_base"], rolled_back["parent"]) == (True, None)
        # and it learns again, from there on
        append(clean_database_url, [world.taste(number, random) for number in range(1600, 2200)])
        shop.wait_until(lambda: learned(clean_database) == 2200, 60)
        now = status(client)
        assert now["rollbacks"] == 1
        assert now["progressive"]["auc"] > now["progressive"]["frozen_auc"] - 0.05


def test_a_worker_that_misses_or_doubts_an_update_replays_from_the_base(
    clean_database_url: str, clean_database: sa.Engine, artifacts: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(artifacts, tmp_path / "artifacts")
    world.stock(clean_database)
    random = np.random.default_rng(6)
    append(clean_database_url, [world.taste(number, random) for number in range(250)])
    options = {"batch_events": 50, "batch_s": 1e6, "priority_event_types": []}
    with updater(clean_database_url, root, **options):
        shop.wait_until(lambda: learned(clean_database) == 250, 60)
    execute(clean_database, "create table kept as select * from model_updates where number = 4")
    with service(clean_database_url, root) as client:
        shop.wait_until(lambda: online(client)["update"] == 6, 5)
        whole, at_6 = online(client), probability(client, 7, 33)
        execute(clean_database, "delete from model_updates where number = 4")
        with service(clean_database_url, root) as other:
            # it goes as far as it can, says why no further, and stays there
            shop.wait_until(lambda: online(other)["update"] == 3 and online(other)["problem"], 10)
            assert "those between are missing" in online(other)["problem"]
            assert "recsys_model_update_reloads_total 1.0" in other.get("/metrics").text
            assert probability(other, 7, 33) != at_6
            artifact = root / rows(clean_database, "select artifact from kept")[0]["artifact"] / "weights.npz"
            content = artifact.read_bytes()
            artifact.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
            execute(clean_database, "insert into model_updates select * from kept")
            shop.wait_until(lambda: "damaged" in str(online(other)["problem"]), 15)
            assert online(other)["update"] == 3
            artifact.write_bytes(content)
            shop.wait_until(lambda: online(other)["chain"] == whole["chain"], 15)
            assert online(other)["problem"] is None
            assert probability(other, 7, 33) == at_6
        # an updater that finds the chain broken begins anew, and the workers with it
        execute(clean_database, "update model_updates set chain = 'another' where number = 4")
        with updater(clean_database_url, root, **options):
            shop.wait_until(lambda: online(client)["update"] == 12, 60)
        assert updates(client)[5]["reason"].startswith("the nightly model; the earlier updates cannot be resumed")
        assert probability(client, 7, 33) != at_6, "other numbers, other draws"


def test_after_a_night_it_learns_what_the_new_model_has_not_seen(
    clean_database_url: str, clean_database: sa.Engine, artifacts: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(artifacts, tmp_path / "artifacts")
    world.write_model(root, "v2", seed=1, cut_at=world.CUT + 100_000_000)  # the data end 100 s later
    world.stock(clean_database)
    random = np.random.default_rng(8)
    append(clean_database_url, [world.taste(number, random) for number in range(200)])  # one a second
    options = {"batch_events": 50, "batch_s": 1e6, "priority_event_types": []}
    with service(clean_database_url, root) as client, updater(clean_database_url, root, **options):
        shop.wait_until(lambda: learned(clean_database) == 200, 60)
        shop.publish(clean_database, "v2", shop.SECOND, {"deepfm": "deepfm/v2"})
        shop.wait_until(lambda: status(client)["model"] == "deepfm/v2" and status(client)["lag"] == 0, 60)
        shop.wait_until(lambda: online(client)["update"] == status(client)["last_update"], 10)
        assert tiny_model.in_service(client) == "deepfm/v2"
        begun, *after = sorted(updates(client), key=lambda one: one["number"])[-5:]
        assert (begun["base"], begun["is_base"], begun["reason"]) == ("deepfm/v2", True, "the nightly model")
        assert [update["n_events"] for update in after] == [50] * 4, "all that has come since the night's data end"
        assert sum(update["metrics"]["examples"] for update in after) == 100, "half of them were learned at night"
        # and back: a publication that is taken back brings the former model, and all that came after its data
        with clean_database.begin() as connection:
            shop.point_at(connection, 1, 3)
        shop.wait_until(lambda: status(client)["model"] == "deepfm/v1" and status(client)["lag"] == 0, 60)
        assert sum(update["n_events"] for update in updates(client) if update["number"] > after[-1]["number"]) == 200
        # nights with fewer updates than make a base: of the artifacts, those from the third newest base on are kept
        shop.publish(clean_database, "v3", shop.SECOND, {"deepfm": "deepfm/v2"})
        shop.wait_until(lambda: status(client)["model"] == "deepfm/v2" and status(client)["lag"] == 0, 60)
        newest, _, oldest, *before = [one["number"] for one in updates(client) if one["is_base"]]
        assert (before, oldest) == ([1], begun["number"])
        shop.wait_until(lambda: online(client)["update"] == status(client)["last_update"] > newest, 10)
        kept = sorted(number_of(path.name) for path in (root / KIND).iterdir())
        assert kept == list(range(oldest, status(client)["last_update"] + 1))


def test_a_worker_keeps_no_more_of_the_updates_in_s3_than_it_may_need(
    clean_database_url: str,
    clean_database: sa.Engine,
    artifacts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    downloads = tmp_path / "tmp" / f"recsys-artifacts-{os.getuid()}"
    downloads.parent.mkdir()
    monkeypatch.setenv("TMPDIR", str(downloads.parent))
    monkeypatch.setenv("RECSYS_LOCAL_DIR", str(tmp_path / "local"))
    world.stock(clean_database)
    random = np.random.default_rng(9)
    options = {"batch_events": 50, "batch_s": 1e6, "priority_event_types": [], "updates_per_base": 3}
    with s3_server.bucket(monkeypatch) as url:
        put(url, artifacts)
        with service(clean_database_url, url) as client, updater(clean_database_url, url, **options):
            for start in range(0, 400, 100):
                append(clean_database_url, [world.taste(start + number, random) for number in range(100)])
                shop.wait_until(lambda n=start: learned(clean_database) == n + 100, 60)
                shop.wait_until(lambda: online(client)["update"] == status(client)["last_update"], 10)
            newest = next(one["number"] for one in updates(client) if one["is_base"])
            kept = sorted(number_of(path.name) for path in (downloads / KIND).iterdir())
            assert kept == list(range(newest, status(client)["last_update"] + 1))


def put(url: str, root: Path) -> None:
    """Bring artifacts of a folder into S3."""
    bucket, client = url.removeprefix("s3://"), boto3.client("s3")
    for path in sorted(root.rglob("*")):
        if path.is_file():
            client.upload_file(str(path), bucket, str(path.relative_to(root)))
