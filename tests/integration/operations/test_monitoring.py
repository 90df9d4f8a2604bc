"""What monitoring/ holds, tried on a real Prometheus that scrapes the running service: the rules and the dashboard."""

from __future__ import annotations

import asyncio
import json
import math
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
import yaml

from fast_api_service.settings import ApiSettings
from fast_api_service.traffic import DEGRADED_PARTS
from recsys.artifacts import ArtifactStore
from recsys.events.connections import Connections
from recsys.serving import update
from recsys.updater.store import TrainingStore, UpdateRow
from tests.conftest import free_port
from tests.integration import serving_shop as shop
from tests.integration import tiny_model

MONITORING = Path(__file__).resolve().parents[3] / "monitoring"
PANELS = json.loads((MONITORING / "grafana" / "dashboards" / "service.json").read_text())["panels"]
ALERTS = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"][0]["rules"]
RATE_INTERVAL = "20s"  # Grafana puts at least four scrapes in place of $__rate_interval

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None,
    reason="Prometheus is not installed; Debian has it: apt-get install prometheus",
)


def promtool(*arguments: str) -> str:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, cwd=MONITORING, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_prometheus
def test_promtool_finds_no_fault_and_the_alerts_fire_when_they_should() -> None:
    assert f"{len(ALERTS)} rules found" in promtool("check", "rules", "alerts.yml")
    assert "SUCCESS" in promtool("check", "config", "prometheus.yml")
    assert "SUCCESS" in promtool("test", "rules", "alerts_test.yml")


def test_each_alert_says_what_to_do_and_is_tried() -> None:
    tried = (MONITORING / "alerts_test.yml").read_text()
    for alert in ALERTS:
        name, annotations = alert["alert"], alert["annotations"]
        assert alert["labels"]["severity"] in {"critical", "warning"}
        assert len(annotations["summary"]) < 100 < len(annotations["description"]), name
        assert f'alertname="{name}", alertstate="firing"' in tried, f"{name} is not seen to fire"
        assert set(re.findall(r"Recsys\w+", annotations["description"])) <= {alert["alert"] for alert in ALERTS}
        for panel in re.findall(r'"([A-Z][\w ]+)"', annotations["description"]):
            assert panel in {panel["title"] for panel in PANELS}, f"{name} names a panel that is not there"


def test_the_readme_lists_the_alerts_that_there_are() -> None:
    rows = re.findall(r"^\| `(Recsys\w+)` \|", (MONITORING / "README.md").read_text(), re.MULTILINE)
    assert rows == [alert["alert"] for alert in ALERTS]


def test_containers_scrape_what_they_start() -> None:
    services = yaml.safe_load((MONITORING.parent / "fast_api_service" / "compose.yaml").read_text())["services"]
    for group in yaml.safe_load((MONITORING / "targets.compose.yml").read_text()):
        assert {target.partition(":")[0] for target in group["targets"]} <= services.keys()
    source = yaml.safe_load((MONITORING / "grafana/provisioning/datasources/prometheus.yml").read_text())
    provider = yaml.safe_load((MONITORING / "grafana/provisioning/dashboards/recsys.yml").read_text())
    needed = {source["datasources"][0]["url"], provider["providers"][0]["options"]["path"]}
    assert needed <= {f"${{{name}}}" for name in services["grafana"]["environment"]}
    assert source["datasources"][0]["uid"] == "prometheus"
    for panel in PANELS:
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"prometheus"}


def test_a_worker_opens_no_more_connections_than_the_alert_says(
    clean_database_url: str, clean_database: sa.Engine
) -> None:
    """API_POOL_SIZE that read for requests, and so many others as the text names."""
    [text] = [alert["annotations"]["description"] for alert in ALERTS if alert["alert"] == "RecsysConnectionsScarce"]
    [(n_others, n_all)] = re.findall(r"API_POOL_SIZE \+ (\d+) \((\d+) by default\)", text)
    pool_size = ApiSettings.model_fields["pool_size"].default
    assert int(n_all) == pool_size + int(n_others)
    shop.stock(clean_database)
    shop.publish(clean_database, "v1", shop.FIRST)
    query = sa.text("select count(*) from pg_stat_activity where application_name like 'recsys-api%'")
    most = 0
    with shop.running_service(clean_database_url) as client, ThreadPoolExecutor(48) as threads:
        shop.wait_until(lambda: shop.is_ready(client), 10)
        for number in range(10):
            requests = [
                *(threads.submit(client.post, "/recommend", json={"user_id": 501}) for _ in range(16)),
                *(threads.submit(client.get, "/similar/1001") for _ in range(8)),
                *(
                    threads.submit(client.post, "/online/data/add", json={"user_id": user, "item_id": 1001})
                    for user in range(16)
                ),
                *(threads.submit(client.put, f"/items/{1001 + n}", json={"price": number}) for n in range(7)),
                threads.submit(client.get, "/dashboard/data"),
            ]
            with clean_database.connect() as connection:
                while not all(one.done() for one in requests):
                    most = max(most, connection.scalar(query) or 0)
        shown = client.get("/metrics").text
        n_connections = float(re.findall(r"^recsys_postgres_connections ([0-9.]+)$", shown, re.MULTILINE)[0])
        assert n_connections >= 1
    assert pool_size <= most <= int(n_all)


class Prometheus:
    """A client of one Prometheus."""

    def __init__(self, client: httpx.Client) -> None:
        self.client = client

    def get(self, path: str, **parameters: str) -> Any:
        response = self.client.get(f"/api/v1/{path}", params=parameters)
        assert response.status_code == 200, response.text
        return response.json()["data"]

    def values(self, expression: str) -> list[float]:
        """Numbers of the series that an expression gives now; a ratio 0/0 is none."""
        values = [float(series["value"][1]) for series in self.get("query", query=expression)["result"]]
        return [value for value in values if not math.isnan(value)]


@contextmanager
def running_prometheus(folder: Path, targets: list[str]) -> Iterator[Prometheus]:
    """Prometheus with the configuration of monitoring/, but scraping `targets`, and more often."""
    shutil.copy(MONITORING / "alerts.yml", folder)
    configuration = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    configuration["global"] = {"scrape_interval": "2s", "evaluation_interval": "2s"}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    (folder / "targets.yml").write_text(yaml.safe_dump([{"targets": targets}]))
    port = free_port()
    call = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (folder / "prometheus.log").open("wb") as output:
        process = subprocess.Popen(call, stdout=output, stderr=subprocess.STDOUT)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            shop.wait_until(lambda: process.poll() is not None or is_ready(client), 60)
            assert process.poll() is None, (folder / "prometheus.log").read_text()
            yield Prometheus(client)
    finally:
        process.terminate()
        process.wait(20)


def is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/-/ready").status_code == 200
    except httpx.TransportError:
        return False


@contextmanager
def traffic(client: httpx.Client) -> Iterator[None]:
    """Requests that are answered from every list, some of them short."""
    over = threading.Event()

    def ask() -> None:
        while not over.wait(0.1):
            for user_id, top_k in ((501, 10), (502, 10), (999, 10), (501, 1000)):
                client.post("/recommend", json={"user_id": user_id, "top_k": top_k})
            client.get("/similar/1001")

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.fixture(scope="module")
def nobody() -> str:
    """An address where no worker listens."""
    return f"127.0.0.1:{free_port()}"


async def commit_update(database_url: str, root: Path) -> None:
    """An update of the model that changes nothing, and says how well the last events were predicted."""
    store = ArtifactStore(str(root))
    with store.writing(update.KIND, "000000000001-f0", made_by="tests") as (folder, _):
        update.Update().write(folder / update.WEIGHTS)
    checksum = update.checksum_of(store.manifest(f"{update.KIND}/000000000001-f0"))
    row = UpdateRow(
        number=1,
        base="deepfm/v1",
        is_base=True,
        artifact=f"{update.KIND}/000000000001-f0",
        parent=None,
        chain=update.chained(None, "deepfm/v1", checksum),
        log="postgres",
        after="",
        n_events=0,
        newest_at=None,
        fence=0,
        metrics={"window": {"auc": 0.7, "frozen_auc": 0.6}},
    )
    connections = Connections(database_url, "tests")
    await TrainingStore(connections).commit(row)
    beat = "update training_state set heartbeat_at = now()"
    await connections.transaction(lambda connection: connection.execute(beat))
    await connections.close()


@pytest.fixture(scope="module")
def prometheus(
    database_url: str, database: sa.Engine, nobody: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """A Prometheus that has scraped the service under traffic for some seconds, and misses another worker."""
    shop.stock(database)
    shop.publish(database, "20260101T000000-1a2b3c4d5e", shop.FIRST, {"deepfm": "deepfm/v1"})
    artifacts = tmp_path_factory.mktemp("artifacts")
    tiny_model.write(artifacts, "v1")
    asyncio.run(commit_update(database_url, artifacts))
    with shop.running_service(database_url, ARTIFACT_ROOT=str(artifacts)) as client:
        shop.wait_until(lambda: shop.is_ready(client), 10)
        worker = client.base_url.netloc.decode()
        folder = tmp_path_factory.mktemp("prometheus")
        with traffic(client), running_prometheus(folder, [worker, nobody]) as prometheus:
            counted = 'count_over_time(recsys_requests_total{route="/similar/{item_id}"}[1m])'
            shop.wait_until(lambda: max(prometheus.values(counted), default=0) > 3, 60)
            yield prometheus


def queries(panel: dict[str, Any]) -> list[str]:
    return [target["expr"].replace("$__rate_interval", RATE_INTERVAL) for target in panel["targets"]]


@needs_prometheus
@pytest.mark.slow
def test_every_query_of_the_dashboard_gives_data(prometheus: Prometheus) -> None:
    empty = [query for panel in PANELS for query in queries(panel) if not prometheus.values(query)]
    assert empty == []
    value = {panel["title"]: [prometheus.values(query) for query in queries(panel)] for panel in PANELS}
    shop.wait_until(lambda: prometheus.values(queries(PANELS[0])[0]) == [1.0], 20)  # of the two targets
    assert value["Models in service"] == [[1.0, 1.0]]  # als and deepfm
    assert sorted(value["Progressive AUC"][0]) == [0.6, 0.7]  # as the update in service says
    assert value["Updater lag"] == [[0.0]]
    assert value["Between Kafka and the tables"] == [[0.0], [0.0], [0.0], [0.0, 0.0]]  # Postgres is the log
    assert value["Memory"][0][0] > 1e7
    assert sum(value["Connections to Postgres"][0]) >= 1
    assert min(seconds for per_route in value["Latency of requests"] for seconds in per_route) > 0
    answers = value["Answers by list"]
    ranked, personal, fold_in, session, i2i, similar, default, nothing = (rates[0] for rates in answers)
    assert min(ranked, personal, i2i, default) > 0
    assert fold_in == session == similar == nothing == 0
    assert set(value["Degraded share"][0]) == set(value["Share of errors by route"][0]) == {0.0}
    assert (len(value["Degraded share"][0]), len(value["Events posted"][0])) == (len(DEGRADED_PARTS), 3)
    assert max(value["Short answers"][0]) <= 1
    rates, waiting = value["Exposure log"]
    assert (min(rates), max(rates) > 0, len(rates)) == (0, True, 2)  # nothing is dropped
    assert 0 <= waiting[0] < 1000


def summaries(prometheus: Prometheus) -> dict[str, str]:
    """What the alerts on workers that are down say, those included that still wait for their time."""
    alerts = [alert for alert in prometheus.get("alerts")["alerts"] if alert["labels"]["alertname"] == "RecsysDown"]
    return {alert["labels"]["instance"]: alert["annotations"]["summary"] for alert in alerts}


@needs_prometheus
@pytest.mark.slow
def test_the_alerts_look_at_series_that_exist(prometheus: Prometheus, nobody: str) -> None:
    groups = prometheus.get("rules")["groups"]
    assert [rule["name"] for group in groups for rule in group["rules"]] == [alert["alert"] for alert in ALERTS]
    for alert in ALERTS:
        value = re.sub(r"\s(>=?|==) [\d.]+( \* [\d.]+)*(?=\)|\s|$)", "", alert["expr"])
        assert value != alert["expr"], f"{alert['alert']} has no bound"
        # nothing fails here, so what succeeds has to stand for it
        assert prometheus.values(value.replace('status=~"5.."', 'status=~"2.."')), alert["alert"]
    shop.wait_until(lambda: summaries(prometheus).get(nobody), 20)
    assert summaries(prometheus)[nobody] == f"The service at {nobody} does not answer"
