"""The updater: its throughput against plain Keras, and how soon a posted event changes what another process predicts.

    python -m research.benchmarks.updater [--users 200000] [--items 50000] [--events 60000] [--seconds 60] [--rate 200]

- throughput: the updater as a process drains a log of views and carts, with all that it does: reading, features,
  sampled and older rows, progressive validation of both models, artifacts, commits. Against it `train_on_batch` of the
  same network (LazyAdam, sampled softmax) on arrays that are there already, as many rows a batch; before and after, in
  a process of its own. A row is an event, new or older, with its 15 sampled negatives. Wanted: at least half.
- freshness: one service takes `--rate` events a second, and now and then a purchase; another one is asked until an
  update that holds the purchase has changed its answer for the pair. Wanted: p50 below 1 s, p99 below 5 s.
- lag: the rate at which the log was drained is what the updater keeps up with; beyond, the lag grows by the difference.

One Postgres, fsync on. The model has the pipeline's default size and random weights.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import psutil
import sqlalchemy as sa

from recsys.events.connections import Connections
from recsys.events.event import parse
from recsys.events.postgres_log import PostgresLog
from recsys.settings import UpdaterSettings
from research.benchmarks.predict import write_model
from research.benchmarks.serving import filled, free_port, wait

OPTIONS = UpdaterSettings()
_PLAIN = """
import os, sys, time
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
import numpy as np
from pathlib import Path
from recsys.candidates.deepfm_training import Schedule, compile_network, make_network
from recsys.serving.scorer import Scorer
scorer, rows = Scorer(Path(sys.argv[1])), int(sys.argv[2])
network = make_network(scorer.spec.network, dict(scorer.weights))
compile_network(network, Schedule(1, 1, 1, rows, 0.002, 0))
rng, config, length = np.random.default_rng(0), scorer.spec.network, scorer.spec.history_length
batches = []
for _ in range(20):
    user = np.stack([rng.integers(0, n, rows) for n in config["user_sizes"]], axis=1).astype(np.int32)
    item = np.stack([rng.integers(0, n, (rows, 16)) for n in config["item_sizes"]], axis=2).astype(np.int32)
    history = rng.integers(0, config["history_size"], (rows, length)).astype(np.int32)
    weight = rng.random((rows, length)).astype(np.float32) / 10
    batches.append(({"user": user, "history": history, "history_weight": weight, "item": item},
                    np.zeros((rows, 16), np.float32)))
for inputs, target in batches[:5]:
    network.train_on_batch(inputs, target)
started, n = time.perf_counter(), 0
while time.perf_counter() - started < 8:
    network.train_on_batch(*batches[n % 20])
    n += 1
print(n * rows / (time.perf_counter() - started))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--events", type=int, default=60_000)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rate", type=int, default=200)
    arguments = parser.parse_args()
    with filled(arguments.users, arguments.items) as (url, engine, folder):
        with engine.begin() as connection:
            connection.execute(sa.text("""update publications set models = models || '{"deepfm": "deepfm/1"}'"""))
        root = folder / "artifacts"
        write_model(str(root), arguments.users, arguments.items)
        throughput(url, engine, root, arguments)
        freshness(url, engine, root, arguments)


def throughput(url: str, engine: sa.Engine, root: Path, arguments: argparse.Namespace) -> None:
    """Drain a log, between two measurements of plain Keras."""
    asyncio.run(_fill_log(url, arguments))
    plain = [_plain(root)]
    process = start(url, root, "recsys.updater.__main__")
    try:
        while learned(engine) == 0:
            time.sleep(0.02)
        started, first = time.perf_counter(), learned(engine)
        while (done := learned(engine)) < arguments.events:
            time.sleep(0.05)
        seconds = time.perf_counter() - started
        memory = psutil.Process(process.pid).memory_info().rss / 2**30
    finally:
        process.terminate()
        process.wait(30)
    plain.append(_plain(root))
    events_per_s = (done - first) / seconds
    rows_per_s = events_per_s / (1 - OPTIONS.replay_share)
    reference = statistics.mean(plain)
    print(
        f"throughput: {events_per_s:,.0f} events/s, {rows_per_s:,.0f} rows/s with the older ones, against"
        f" {reference:,.0f} rows/s of train_on_batch ({', '.join(f'{one:,.0f}' for one in plain)}):"
        f" {rows_per_s / reference:.2f}; {memory:.2f} GiB resident",
        flush=True,
    )


def freshness(url: str, engine: sa.Engine, root: Path, arguments: argparse.Namespace) -> None:
    """Seconds from the post of a purchase at one service to the changed prediction of another one."""
    ports = [free_port() for _ in range(2)]
    services = [start(url, root, "fast_api_service", API_PORT=str(port)) for port in ports]
    updater = start(url, root, "recsys.updater.__main__")
    over = threading.Event()
    try:
        for port in ports:
            wait(f"http://127.0.0.1:{port}/ready")
        first, second = (httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) for port in ports)
        while first.get("/online/training/status").json()["state"] != "running":
            time.sleep(0.2)
        noise = threading.Thread(target=_views, args=(ports[0], arguments, over))
        noise.start()
        time.sleep(3)
        taken, lags, ends = [], [], time.monotonic() + arguments.seconds
        rng = np.random.default_rng(9)
        while time.monotonic() < ends:
            taken.append(_one_purchase(first, second, engine, arguments, rng))
            lags.append(first.get("/online/training/status").json()["lag"])
            time.sleep(0.2)
        over.set()
        noise.join()
        p50, p99 = np.percentile(taken, [50, 99])
        print(
            f"freshness at {arguments.rate} events/s: p50 {p50:.2f} s, p99 {p99:.2f} s, longest {max(taken):.2f} s of"
            f" {len(taken)} purchases; lag at most {max(lags)} events",
            flush=True,
        )
    finally:
        over.set()
        for process in (updater, *services):
            process.terminate()
            process.wait(30)


def _one_purchase(
    first: httpx.Client,
    second: httpx.Client,
    engine: sa.Engine,
    arguments: argparse.Namespace,
    rng: np.random.Generator,
) -> float:
    """Post it, and ask until an update that holds it has changed the answer for the pair."""
    pair = {
        "user_id": 7 * int(rng.integers(1, arguments.users)),
        "item_id": 1000 + int(rng.integers(1, arguments.items)),
    }
    before = second.post("/predict", json=pair).json()["predictions"][0]["probability"]
    buyer = 7 * int(rng.integers(1, arguments.users))
    body = {"samples": [{"user_id": buyer, "item_id": pair["item_id"], "event_type": "transaction"}]}
    started = time.perf_counter()
    position = first.post("/online/data/add", json=body).raise_for_status().json()["position"]
    needed = None
    while True:
        time.sleep(0.02)
        if needed is None:
            needed = _update_of(engine, position)
        if needed is not None and second.get("/model/info").json()["scorer"]["online"]["update"] >= needed:
            after = second.post("/predict", json=pair).json()["predictions"][0]["probability"]
            assert after != before, "the update has changed nothing for the pair"
            return time.perf_counter() - started
        if time.perf_counter() - started > 60:
            raise TimeoutError("the purchase was not learned within 60 s")


def _update_of(engine: sa.Engine, position: int) -> int | None:
    """The first update whose offset (transaction:position) is at or after a place in the log."""
    sql = """
    select min(number) from model_updates join (select epoch_xid, position from events where position = :position) e
        on (split_part("after", ':', 1)::bigint, split_part("after", ':', 2)::bigint) >= (e.epoch_xid, e.position)
    where "after" <> ''
    """
    with engine.connect() as connection:
        found = connection.execute(sa.text(sql), {"position": position}).scalar_one()
    return None if found is None else int(found)


def _views(port: int, arguments: argparse.Namespace, over: threading.Event) -> None:
    """Post views at a steady rate, ten times a second."""
    rng, n = np.random.default_rng(3), max(arguments.rate // 10, 1)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        due = time.monotonic()
        while not over.is_set():
            samples = [
                {"user_id": 7 * int(rng.integers(1, arguments.users)), "item_id": 1000 + int(item)}
                for item in rng.integers(1, arguments.items, n)
            ]
            client.post("/online/data/add", json={"samples": samples}).raise_for_status()
            due += 0.1
            time.sleep(max(due - time.monotonic(), 0))


async def _fill_log(url: str, arguments: argparse.Namespace) -> None:
    rng, now = np.random.default_rng(1), dt.datetime.now(dt.UTC)
    connections = Connections(url, "benchmark")
    log = PostgresLog(connections)
    for start in range(0, arguments.events, 1000):
        samples = [
            {
                "event_id": f"b{start + n}",
                "user_id": str(7 * int(rng.integers(1, arguments.users))),
                "item_id": str(1000 + int(arguments.items * rng.random() ** 3) + 1),
                "event_type": "view",
                "timestamp": now + dt.timedelta(milliseconds=start + n),
                "parameters": {"duration": int(rng.integers(1, 90)), "device": "mobile"},
            }
            for n in range(min(1000, arguments.events - start))
        ]
        await log.append([event for _, event in parse(samples, now + dt.timedelta(days=1))[0]])
    await connections.close()


def _plain(root: Path) -> float:
    call = [sys.executable, "-c", _PLAIN, str(root / "deepfm_serving" / "1"), str(OPTIONS.step_rows)]
    return float(subprocess.run(call, check=True, capture_output=True, text=True).stdout)


def start(url: str, root: Path, module: str, *words: str, **more: str) -> subprocess.Popen[bytes]:
    """A process of ours on a database and a folder of artifacts."""
    environment = os.environ | {"DATABASE_URL": url, "ARTIFACT_ROOT": str(root)} | more
    return subprocess.Popen([sys.executable, "-m", module, *words], env=environment, stderr=subprocess.DEVNULL)


def learned(engine: sa.Engine) -> int:
    """Events that all updates have learned."""
    with engine.connect() as connection:
        return int(connection.execute(sa.text("select coalesce(sum(n_events), 0) from model_updates")).scalar_one())


if __name__ == "__main__":
    main()
