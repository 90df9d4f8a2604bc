"""How long POST /recommend takes at which rate: latencies of an open loop whose rate steps up.

    python -m research.benchmarks.load_curve [--workers 1 2] [--rates 50 100 …] [--scenarios quiet …] [--seconds 10]

Requests come at random (Poisson) times, whether or not earlier ones were answered, and each latency is counted from
the time at which its request was to come: what waits because the service, or this client, is behind is in it (no
coordinated omission). The world is that of serving.py. Every rate is one step of --seconds, in each of these scenarios:

quiet    nothing else happens
events   2,000 events/s are posted beside it, in batches of 100
switch   another publication comes into service in the middle of the step
kill     one worker is killed by SIGKILL in the middle (where there are several)

The table has a row a step. offered and answered: requests, and good answers, a second; p50, p90, p99: latency of good
answers in ms; late: the 99th percentile of how late the client sent, in ms (beyond a few it was the client, or all its
connections were waiting); busy: share of requests answered 503; lost: share that was answered otherwise, or not within
some seconds, or was sent to a worker that was killed (nothing is sent twice); cpu: processor time of all workers for an
answer in ms (events, a new worker and the switch included, the client and Postgres not); mib: memory of the service's
own (USS); busiest: share of answers of the busiest worker. Client, service and Postgres share the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import random
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import psutil
import sqlalchemy as sa

from recsys.artifacts import ArtifactStore
from research.benchmarks.ingestion import BATCH, batches
from research.benchmarks.open_loop import Client
from research.benchmarks.serving import filled, free_port, point_at, publish, wait

QUIET, EVENTS, SWITCH, KILL = SCENARIOS = ("quiet", "events", "switch", "kill")
RATES = (50, 100, 200, 400, 600, 800, 1000, 1200)
CONNECTIONS = 128  # twice the requests that a worker lets in at a time
EVENTS_PER_S = 2000
WARM_UP_S, WARM_UP_RATE = 2.0, 100.0
_HEAD = b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"


@dataclass(frozen=True)
class Step:
    """What one step came to; times in ms, rates a second, shares of the requests offered."""

    workers: int
    scenario: str
    offered: float
    answered: float
    p50: float
    p90: float
    p99: float
    late: float
    busy: float  # answered 503
    lost: float  # connection lost, another status, or no answer in time
    cpu: float  # an answer
    mib: float
    busiest: float  # share of the busiest worker; NaN where one was killed


class Service:
    """`python -m fast_api_service` with so many workers."""

    def __init__(self, url: str, workers: int) -> None:
        self.port, self.workers = free_port(), workers
        environment = {"DATABASE_URL": url, "API_PORT": str(self.port), "API_WORKERS": str(workers)}
        self.process = subprocess.Popen([sys.executable, "-m", "fast_api_service"], env=os.environ | environment)
        wait(f"http://127.0.0.1:{self.port}/ready")
        self.wait_for_all()

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(60)

    def wait_for_all(self) -> None:
        """Until each worker has a publication."""
        deadline = time.monotonic() + 60
        while sum(number > 0 for number in self._numbers("recsys_publication_id").values()) < self.workers:
            if time.monotonic() > deadline:
                raise TimeoutError("workers are missing")
            time.sleep(0.1)

    def answers_by_worker(self) -> dict[str, float]:
        return self._numbers('recsys_requests_total{[^}]*route="/recommend"')

    def _numbers(self, metric: str) -> dict[str, float]:
        """The metric, whose labels may begin in the pattern, by worker."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            lines = re.findall(rf"^{metric}.*$", answer.read().decode(), re.MULTILINE)
        found: dict[str, float] = {}
        for line in lines:
            worker = re.search(r'api_worker="(\d+)"', line)
            name = worker[1] if worker else "0"
            found[name] = found.get(name, 0.0) + float(line.rpartition(" ")[2])
        return found

    def cpu_s(self) -> float:
        """Of all processes since the start, those that are no more included."""
        first = psutil.Process(self.process.pid)
        ended = first.cpu_times()
        total = float(ended.children_user + ended.children_system)
        for process in (first, *first.children()):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def own_mib(self) -> float:
        first = psutil.Process(self.process.pid)
        total = 0
        for process in (first, *first.children()):
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_full_info().uss
        return total / 2**20

    def kill_one(self) -> None:
        """SIGKILL to a worker; a helper of multiprocessing, which is there as well, is smaller."""
        children = psutil.Process(self.process.pid).children()
        max(children, key=lambda process: process.memory_info().rss).kill()


def recommendations(n_users: int, seed: int) -> Iterator[bytes]:
    """Requests of random users, without end."""
    pick = random.Random(seed)
    while True:
        body = b'{"user_id": %d, "top_k": 10}' % (7 * pick.randint(1, n_users))
        yield _HEAD % (b"/recommend", len(body)) + body


def posts(n_users: int, n_items: int, seed: int, n: int) -> list[bytes]:
    """So many requests with a batch of events each, ready to be sent."""
    bodies = (orjson.dumps({"samples": batch}) for batch in itertools.islice(batches(n_users, n_items, seed), n))
    return [_HEAD % (b"/online/data/add", len(body)) + body for body in bodies]


async def play(
    service: Service, rate: float, seconds: float, n_connections: int, requests: Iterator[bytes], seed: int,
    events: Sequence[bytes] = (), disturb: Any = None,
) -> tuple[list[tuple[float, float, float, int]], int]:  # fmt: skip
    """Offer `rate` a second, post `events` evenly beside it, call `disturb` in the middle; answers, and requests."""
    client = Client(service.port, requests)
    poster = Client(service.port, iter(events))
    await client.open(n_connections)
    await poster.open(4 if events else 0)
    first = time.perf_counter() + 0.1
    # a Poisson process of which it is known how many come
    times = first + np.sort(np.random.default_rng(seed).uniform(0, seconds, max(1, round(rate * seconds))))
    beside = [first + seconds * number / len(events) for number in range(len(events))]

    async def disturb_in_the_middle() -> None:
        await asyncio.sleep(0.1 + seconds / 2)
        if disturb is not None:
            await asyncio.to_thread(disturb)

    await asyncio.gather(client.offer(times), poster.offer(beside), disturb_in_the_middle())
    client.close()
    poster.close()
    if any(status != 200 for *_, status in poster.answers) or len(poster.answers) < len(events):
        n_stored = sum(status == 200 for *_, status in poster.answers)
        print(f"of {len(events)} batches of events {n_stored} were stored")
    return client.answers, len(times)


def percentile(values: np.ndarray, share: float) -> float:
    """In ms of seconds."""
    return float(np.percentile(values, share) * 1000) if len(values) else float("nan")


def measured(service: Service, scenario: str, rate: float, seed: int, of: argparse.Namespace, disturb: Any) -> Step:
    """One step; events of another seed are others."""
    events: list[bytes] = []
    if scenario == EVENTS:
        events = posts(of.users, of.items, seed, max(1, int(EVENTS_PER_S * of.seconds / BATCH)))
    requests = recommendations(of.users, seed)
    before, by_worker = service.cpu_s(), service.answers_by_worker()
    playing = play(service, rate, of.seconds, of.connections, requests, seed, events, disturb)
    answers, n = asyncio.run(playing)
    cpu_s, mib = service.cpu_s() - before, service.own_mib()
    service.wait_for_all()
    counts = [count - by_worker.get(name, 0.0) for name, count in service.answers_by_worker().items()]
    rows = np.array(answers).reshape(-1, 4)
    good = rows[rows[:, 3] == 200]
    latency = good[:, 2] - good[:, 0]
    lasted = max(of.seconds, float(good[:, 2].max() - rows[:, 0].min())) if len(good) else of.seconds
    n_busy = int((rows[:, 3] == 503).sum())
    return Step(
        workers=service.workers,
        scenario=scenario,
        offered=rate,
        answered=len(good) / lasted,
        p50=percentile(latency, 50),
        p90=percentile(latency, 90),
        p99=percentile(latency, 99),
        late=percentile(rows[:, 1] - rows[:, 0], 99),
        busy=n_busy / n,
        lost=(n - len(good) - n_busy) / n,
        cpu=cpu_s * 1000 / max(1, len(rows)),
        mib=mib,
        busiest=max(counts) / sum(counts) if scenario != KILL else float("nan"),  # a new worker counts anew
    )


def run(url: str, engine: sa.Engine, store: ArtifactStore, of: argparse.Namespace) -> Iterator[Step]:
    """All steps."""
    publications = [publish(engine, version, of.users, of.items, store=store) for version in ("2", "3")]
    for workers in of.workers:
        service = Service(url, workers)
        try:
            warm_up = play(service, WARM_UP_RATE, min(WARM_UP_S, of.seconds), 8, recommendations(of.users, 0), 0)
            asyncio.run(warm_up)
            for number, (scenario, rate) in enumerate(itertools.product(of.scenarios, of.rates), 1):
                if scenario == KILL and workers == 1:
                    continue
                disturb = {
                    SWITCH: lambda number=number: point_at(engine, publications[number % 2]),
                    KILL: service.kill_one,
                }.get(scenario)
                yield measured(service, scenario, rate, 1000 * workers + number, of, disturb)
        finally:
            service.end()


_FORMATS = {
    "workers": "7d", "scenario": "8", "offered": "7.0f", "answered": "8.0f", "p50": "7.1f", "p90": "7.1f",
    "p99": "7.1f", "late": "6.1f", "busy": "6.3f", "lost": "6.3f", "cpu": "6.2f", "mib": "5.0f", "busiest": "7.2f",
}  # fmt: skip


def line(step: Step) -> str:
    return " ".join(f"{getattr(step, name):{kind}}" for name, kind in _FORMATS.items())


def heading() -> str:
    assert list(_FORMATS) == [field.name for field in fields(Step)]
    return " ".join(
        f"{name:{'<' if name == 'scenario' else '>'}{kind.partition('.')[0].rstrip('d')}}"
        for name, kind in _FORMATS.items()
    )


def plot(steps: Sequence[Step], path: Path) -> None:
    """Latencies and answers against the rate offered."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    colours = {QUIET: "#1f6feb", EVENTS: "#d29922", SWITCH: "#2da44e", KILL: "#cf222e"}
    names = {EVENTS: f"{EVENTS_PER_S:,} events/s beside it", SWITCH: "a switch", KILL: "a worker killed"}
    figure, (slow, rate) = pyplot.subplots(1, 2, figsize=(10.4, 3.8))
    for workers, scenario in sorted({(step.workers, step.scenario) for step in steps}):
        of = [step for step in steps if (step.workers, step.scenario) == (workers, scenario)]
        how: dict[str, Any] = {
            "color": colours[scenario], "linestyle": "-" if workers > 1 else "--", "marker": ".",
            "label": f"{workers} worker{'s' if workers > 1 else ''}, {names.get(scenario, scenario)}",
        }  # fmt: skip
        offered = [step.offered for step in of]
        slow.plot(offered, [step.p99 for step in of], **how)
        rate.plot(offered, [step.answered for step in of], **how)
    most = max(step.offered for step in steps)
    rate.plot([0, most], [0, most], color="#8b949e", linewidth=0.8, label="all of them")
    slow.set_yscale("log")
    slow.yaxis.set_major_formatter("{x:g}")
    slow.yaxis.set_minor_formatter("{x:g}")
    slow.set_ylabel("99th percentile, ms")
    rate.set_ylabel("good answers a second")
    for axes in (slow, rate):
        axes.set_xlabel("requests offered a second")
        axes.grid(alpha=0.3)
    rate.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=200_000, help="of the world (%(default)s)")
    parser.add_argument("--items", type=int, default=50_000, help="of the world (%(default)s)")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="API_WORKERS, one after the other (1 2)")
    parser.add_argument("--rates", type=float, nargs="+", default=RATES, help=f"requests a second {RATES}")
    parser.add_argument("--seconds", type=float, default=10, help="of a step (%(default)s)")
    parser.add_argument("--scenarios", choices=SCENARIOS, nargs="+", default=SCENARIOS, help="(all)")
    parser.add_argument("--connections", type=int, default=CONNECTIONS, help="of the client (%(default)s)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the rows there as JSON")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the curves there (.png, .svg)")
    of = parser.parse_args()
    with filled(of.users, of.items) as (url, engine, folder):
        os.environ["ARTIFACT_ROOT"] = str(folder / "artifacts")
        store = ArtifactStore(os.environ["ARTIFACT_ROOT"])
        steps = []
        print(heading(), flush=True)
        for step in run(url, engine, store, of):
            steps.append(step)
            print(line(step), flush=True)
    if of.output:
        of.output.write_bytes(orjson.dumps([asdict(step) for step in steps], option=orjson.OPT_INDENT_2))
    if of.plot:
        plot(steps, of.plot)


if __name__ == "__main__":
    main()
