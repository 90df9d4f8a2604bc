"""Several workers on one port: they answer, are replaced when they die, end together, and speak as one service."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest
import sqlalchemy as sa
from prometheus_client.parser import text_string_to_metric_families

from recsys import api_key
from recsys.storage import api_keys
from tests.conftest import free_port
from tests.integration import serving_shop as shop

N = 2
TURNS = 200  # fresh connections, each of which meets one of the workers


@contextmanager
def several(url: str, **environment: str) -> Iterator[httpx.Client]:
    """A service of N workers, all of them ready, with the shop's first publication."""
    with shop.running_service(url, API_WORKERS=str(N), **environment) as client:
        shop.wait_until(lambda: len(ready(client)) == N, 60)
        yield client


@pytest.fixture
def stocked(clean_database_url: str, clean_database: sa.Engine) -> str:
    shop.stock(clean_database)
    shop.publish(clean_database, "v1", shop.FIRST)
    return clean_database_url


def samples(client: httpx.Client, name: str, **headers: str) -> dict[str, float]:
    """Value by worker, "" where the metric is of all together; sums over other labels."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(fresh(client, "GET", "/metrics", headers=headers).text):
        for sample in family.samples:
            if sample.name == name:
                worker = sample.labels.get("api_worker", "")
                found[worker] = found.get(worker, 0.0) + sample.value
    return found


def ready(client: httpx.Client, **headers: str) -> set[str]:
    """Workers that have a publication in service."""
    return {worker for worker, number in samples(client, "recsys_publication_id", **headers).items() if number > 0}


def answered(client: httpx.Client, route: str) -> dict[str, float]:
    """Requests of a route by worker."""
    text = fresh(client, "GET", "/metrics").text
    counted = re.findall(rf'^recsys_requests_total{{api_worker="(\d+)".*route="{route}".*}} ([\d.]+)$', text, re.M)
    return {worker: float(number) for worker, number in counted}


def fresh(client: httpx.Client, method: str, path: str, **options: object) -> httpx.Response:
    """The answer over a connection of its own."""
    return httpx.request(method, f"{client.base_url}{path}", timeout=30, **options)  # type: ignore[arg-type]


def workers_of(client: httpx.Client) -> list[psutil.Process]:
    """Processes of the service that listen, beside the one that was started."""
    children = psutil.Process(client.process.pid).children()  # type: ignore[attr-defined]
    return [child for child in children if "resource_tracker" not in " ".join(child.cmdline())]


def status_of(client: httpx.Client) -> int:
    """The status of a recommendation; 0 where the connection broke, as of what a killed one was answering."""
    with suppress(httpx.TransportError):
        return fresh(client, "POST", "/recommend", json={"user_id": 501}).status_code
    return 0


def recommends(client: httpx.Client) -> bool:
    return status_of(client) == 200


def is_gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_one_is_one_process(stocked: str) -> None:
    with shop.running_service(stocked) as client:
        assert psutil.Process(client.process.pid).children() == []  # type: ignore[attr-defined]
        text = client.get("/metrics").text
    assert "api_worker" not in text
    assert "\nrecsys_workers 1.0\n" in text
    assert "\nrecsys_workers_up 1.0\n" in text


def test_an_event_posted_to_one_is_in_the_next_answer_of_any(stocked: str) -> None:
    with several(stocked) as client:
        for turn in range(TURNS):
            event = {"user_id": 502, "item_id": 1012 + turn % 20, "event_id": f"e{turn}"}
            assert client.post("/online/data/add", json=event).status_code == 200  # always the same connection
            answer = fresh(client, "POST", "/recommend", json={"user_id": 502}).json()
            assert answer["provenance"]["n_recent"] == min(turn + 1, 50), turn
            if turn >= 20 and len(answered(client, "/recommend")) == N:
                break
        assert len(answered(client, "/online/data/add")) == 1
        assert len(answered(client, "/recommend")) == N  # each of them has answered


def test_metrics_are_those_of_all_in_a_form_that_prometheus_reads(stocked: str) -> None:
    with several(stocked) as client:
        n_requests = 0
        while len(answered(client, "/recommend")) < N:
            assert n_requests < TURNS
            n_requests += recommends(client)
        assert sum(answered(client, "/recommend").values()) == n_requests
        text = fresh(client, "GET", "/metrics").text
    families = list(text_string_to_metric_families(text))  # raises where a sample stands twice or outside its metric
    names = [family.name for family in families]
    assert len(names) == len(set(names))
    assert len(re.findall(r"^# TYPE ", text, re.M)) == len(set(re.findall(r"^# TYPE (\S+)", text, re.M)))
    of_all = {"recsys_workers": {"": N}, "recsys_workers_up": {"": N}}
    for family in families:
        by_worker = {sample.labels.get("api_worker", "") for sample in family.samples}
        assert by_worker <= (of_all[family.name].keys() if family.name in of_all else {"0", "1"}), family.name
        if family.name in of_all:
            assert [sample.value for sample in family.samples] == [N]


@pytest.mark.slow
def test_one_that_is_killed_is_replaced_while_the_others_answer(stocked: str) -> None:
    with several(stocked) as client:
        first = workers_of(client)
        assert len(first) == N
        first[0].kill()
        shop.wait_until(lambda: not psutil.pid_exists(first[0].pid), 20)
        assert {status_of(client) for _ in range(20)} == {200}  # by the other one
        shop.wait_until(lambda: len(workers_of(client)) == N, 20)
        for one in set(workers_of(client)) - set(first):  # another dies while it starts
            one.kill()
        statuses = set()

        def all_are_ready() -> bool:
            statuses.update(status_of(client) for _ in range(20))
            return len(ready(client)) == N

        shop.wait_until(all_are_ready, 60)
        assert statuses <= {200, 0}  # a replacement takes no request that it cannot answer yet
        assert samples(client, "recsys_workers_up") == {"": N}
        second = workers_of(client)
        assert len(second) == N
        assert first[1] in second
        assert first[0] not in second


@pytest.mark.slow
def test_metrics_do_not_wait_for_one_that_stands_still(stocked: str) -> None:
    with several(stocked) as client:
        still = workers_of(client)[0]
        still.suspend()
        try:
            text = fresh(client, "GET", "/metrics").text
        finally:
            still.resume()
        assert len(set(re.findall(r'api_worker="(\d+)"', text))) == N - 1
        assert f"\nrecsys_workers {float(N)}\n" in text
        assert f"\nrecsys_workers_up {float(N - 1)}\n" in text
        assert samples(client, "recsys_workers_up") == {"": N}  # it goes on


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_all_end_with_the_first(stocked: str, how: signal.Signals) -> None:
    port, folder = free_port(), tempfile.mkdtemp()
    settings = {"API_PORT": str(port), "API_WORKERS": str(N), "DATABASE_URL": stocked, "TMPDIR": folder}
    process = subprocess.Popen([sys.executable, "-m", "fast_api_service"], env=os.environ | settings)
    everybody: list[psutil.Process] = []
    try:
        url = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=url, timeout=30) as client:
            shop.wait_until(lambda: answers(url) and len(ready(client)) == N, 60)
        everybody = psutil.Process(process.pid).children(recursive=True)
        assert len(everybody) >= N
        process.send_signal(how)
        assert process.wait(30) == (-9 if how == signal.SIGKILL else 0)
        shop.wait_until(lambda: all(is_gone(one) for one in everybody), 30)
        assert not answers(url)
        assert os.listdir(folder) == []  # nothing of theirs is left
    finally:
        process.kill()
        process.wait()
        for one in everybody:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        shutil.rmtree(folder)


def answers(url: str) -> bool:
    with suppress(httpx.TransportError):
        return httpx.get(f"{url}/health").status_code == 200
    return False


@pytest.mark.parametrize(
    ("environment", "status", "text"),
    [
        ({"API_WORKERS": "0"}, 2, "API_WORKERS"),
        ({"DATABASE_URL": "mysql://localhost/x"}, 2, "cannot start"),
        ({"TMPDIR": "{long}"}, 3, "failed at start-up; all workers are stopped"),  # too long for the path of a socket
    ],
    ids=["no workers", "no Postgres", "workers that cannot start"],
)
def test_what_cannot_start_ends(
    stocked: str, tmp_path: Path, environment: dict[str, str], status: int, text: str
) -> None:
    long = tmp_path / ("x" * 120)
    long.mkdir()
    given = {name: value.format(long=long) for name, value in environment.items()}
    settings = {"API_PORT": str(free_port()), "API_WORKERS": str(N), "DATABASE_URL": stocked} | given
    call = [sys.executable, "-m", "fast_api_service"]
    ended = subprocess.run(call, env=os.environ | settings, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == status, ended.stderr
    assert text in ended.stderr
    assert list(long.iterdir()) == []


def test_a_key_has_one_limit_for_all_of_them(stocked: str, clean_database: sa.Engine) -> None:
    slow, _ = api_keys.create(clean_database, "slow", [api_key.RECOMMEND], rate_per_s=0.001)
    metrics, _ = api_keys.create(clean_database, "scraper", [api_key.METRICS], rate_per_s=1e6)
    with shop.running_service(stocked, API_WORKERS=str(N)) as client:
        bearer = {"authorization": f"Bearer {metrics}"}
        shop.wait_until(lambda: len(ready(client, **bearer)) == N, 60)
        codes = []
        for _ in range(TURNS):
            headers = {"authorization": f"Bearer {slow}"}
            codes.append(fresh(client, "POST", "/recommend", json={}, headers=headers).status_code)
            refused = samples(client, "recsys_shed_total", **bearer)
            if len(codes) >= 10 and min(refused.values()) > 0:
                break
        assert codes == [200] + [429] * (len(codes) - 1)
        assert min(refused[worker] for worker in ("0", "1")) > 0  # both were asked
