"""Memory while millions of events pass: of an API worker, and of `recsys updater` as users run it.

    python -m research.benchmarks.memory [--events 10000000] [--minutes 90] [--rate N] [--csv FILE] [--plot FILE]

One worker takes the events over HTTP, 1,000 a request, over a few connections; after each batch a few recommendations
and a prediction are asked for, of its users. Users and items follow power laws, 90 % of the events are views. Beside
it the updater learns them. Every few seconds: resident memory (RSS) and the part of it that is nobody else's (USS) of
the worker and of the updater (supervisor and child), events posted and learned, and the lag between the two.

It ends when the updater has learned `--learned` events, or after `--minutes`; and says how many passed through each.
The slope is the least-squares one of USS over the second half of what passed through the process. With `--rate` events
are posted at a steady rate: below that at which the updater learns the lag must not grow. TMPDIR names the disk: a
million events take about 1 GB of it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import csv
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import psutil
import sqlalchemy as sa

from research.benchmarks.predict import write_model
from research.benchmarks.serving import filled, free_port, wait
from research.benchmarks.updater import learned, start

BATCH = 1000
TYPES, SHARES = ("view", "addtocart", "transaction"), (0.9, 0.08, 0.02)
N_RECOMMENDATIONS = 5  # asked for after each batch
MIB = 2**20
_JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Sample:
    """What was seen at a moment; memory in MiB, `uss` being what no other process shares."""

    seconds: float
    posted: int
    learned: int
    lag: int
    api_rss: float
    api_uss: float
    supervisor_uss: float
    updater_rss: float
    updater_uss: float
    disk_gib: float


@dataclass
class Client:
    """Posts events from a thread of its own, as fast as they are taken, or at a steady rate."""

    port: int
    n_users: int
    n_items: int
    n_events: int
    rate: float | None
    n_connections: int
    posted: int = 0
    refused: int = 0  # answers 429 and 503, after which the same batch is posted again
    failed: str = ""
    took_s: list[float] = field(default_factory=list)  # of a batch
    over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        try:
            asyncio.run(self._all())
        except Exception as error:  # told by the main thread
            self.failed = f"{type(error).__name__}: {error}"

    async def _all(self) -> None:
        batches = self._batches(np.random.default_rng(7))
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", timeout=120) as client:
            await asyncio.gather(*(self._post(client, batches) for _ in range(self.n_connections)))

    async def _post(self, client: httpx.AsyncClient, batches: Iterator[tuple[int, bytes, list[Any]]]) -> None:
        for n, body, requests in batches:
            while not self.over.is_set():
                started = time.perf_counter()
                answer = await client.post("/online/data/add", content=body, headers=_JSON)
                if answer.status_code in (429, 503):
                    self.refused += 1
                    await asyncio.sleep(0.2)
                    continue
                assert answer.status_code == 200, answer.text
                assert answer.json()["accepted"] == n, answer.text
                self.took_s.append(time.perf_counter() - started)
                self.posted += n
                break
            for path, question in requests:
                (await client.post(path, json=question)).raise_for_status()
            if self.over.is_set():
                return
            await self._keep_pace()

    async def _keep_pace(self) -> None:
        if self.rate:
            due = self._started + self.posted / self.rate
            await asyncio.sleep(max(due - time.monotonic(), 0))

    def _batches(self, rng: np.random.Generator) -> Iterator[tuple[int, bytes, list[Any]]]:
        """Events, how many, and what to ask for after them."""
        self._started = time.monotonic()
        for first in range(0, self.n_events, BATCH):
            n = min(BATCH, self.n_events - first)
            users = 7 * skewed(rng, self.n_users, n, 0.6)
            items = 1000 + skewed(rng, self.n_items, n, 0.8)
            kinds = rng.choice(len(TYPES), n, p=SHARES)
            rows = zip(users.tolist(), items.tolist(), kinds.tolist(), rng.integers(1, 90, n).tolist(), strict=True)
            samples = [
                {"event_id": f"m{first + place}", "user_id": user, "item_id": item, "event_type": TYPES[kind],
                 "parameters": {"duration": duration}}
                for place, (user, item, kind, duration) in enumerate(rows)
            ]  # fmt: skip
            requests: list[Any] = [
                ("/recommend", {"user_id": user, "top_k": 10}) for user in users[:N_RECOMMENDATIONS].tolist()
            ]
            requests.append(("/predict", {"user_id": int(users[0]), "item_id": int(items[0])}))
            yield n, orjson.dumps({"samples": samples}), requests


def skewed(rng: np.random.Generator, n: int, size: int, exponent: float) -> np.ndarray:
    """Ranks from 1 to n, drawn as often as rank^-exponent; exponent below 1."""
    return 1 + (n * rng.random(size) ** (1 / (1 - exponent))).astype(np.int64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=10_000_000, help="to post")
    parser.add_argument("--learned", type=int, help="events after which it ends; as many as are posted when not set")
    parser.add_argument("--minutes", type=float, default=90)
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--rate", type=float, help="events a second; as fast as they are taken when not set")
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--every", type=float, default=5, help="seconds between samples")
    parser.add_argument("--disk-gib", type=float, default=25, help="it ends when more is used")
    parser.add_argument("--dim", type=int, default=32, help="of the model's embeddings; a smaller one learns faster")
    parser.add_argument("--csv", type=Path, help="all samples")
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    with filled(arguments.users, arguments.items) as (url, engine, folder):
        with engine.begin() as connection:
            connection.execute(sa.text("""update publications set models = models || '{"deepfm": "deepfm/1"}'"""))
        root = folder / "artifacts"
        write_model(str(root), arguments.users, arguments.items, dim=arguments.dim)
        samples = watch(url, engine, folder, arguments)
    report(samples)
    if arguments.plot:
        plot(samples, arguments.plot)


def watch(url: str, engine: sa.Engine, folder: Path, arguments: argparse.Namespace) -> list[Sample]:
    """Start all, sample until it ends, stop all."""
    port, root = free_port(), folder / "artifacts"
    api = start(url, root, "fast_api_service", API_PORT=str(port))
    supervisor = start(url, root, "recsys.cli", "updater")
    client = Client(port, arguments.users, arguments.items, arguments.events, arguments.rate, arguments.connections)
    thread = threading.Thread(target=client.run)
    try:
        wait(f"http://127.0.0.1:{port}/ready")
        _wait_for(lambda: _state(engine).state == "running", 300)
        thread.start()
        return _sampled(client, lambda: _sample(client, engine, api.pid, supervisor.pid, folder), arguments)
    finally:
        client.over.set()
        for process in (supervisor, api):
            process.terminate()
            process.wait(60)
        if thread.ident:
            thread.join()
        _say(client, _state(engine))


def _sampled(client: Client, sample: Callable[[], Sample], arguments: argparse.Namespace) -> list[Sample]:
    """A sample every few seconds, also into --csv, until all has passed, time is over, or the disk is used up."""
    started, samples = time.monotonic(), list[Sample]()
    goal = arguments.learned or arguments.events
    with arguments.csv.open("w", buffering=1) if arguments.csv else contextlib.nullcontext() as file:
        writer = csv.DictWriter(file, [one.name for one in fields(Sample)]) if file else None
        if writer:
            writer.writeheader()
        while True:
            now = sample()
            samples.append(now)
            if writer:
                writer.writerow(asdict(now))
            if client.failed:
                raise RuntimeError(f"the client failed: {client.failed}")
            if client.posted >= arguments.events and now.learned >= goal:
                return samples
            if time.monotonic() - started > 60 * arguments.minutes or now.disk_gib > arguments.disk_gib:
                print(f"cut off after {now.seconds:.0f} s, {now.disk_gib:.1f} GiB on disk", flush=True)
                return samples
            time.sleep(arguments.every)


def _sample(client: Client, engine: sa.Engine, api_pid: int, supervisor_pid: int, folder: Path) -> Sample:
    # first what was learned: what is posted in between counts as lag
    n_learned, posted = learned(engine), client.posted
    api, supervisor = psutil.Process(api_pid), psutil.Process(supervisor_pid)
    of_api = api.memory_full_info()
    children = [child.memory_full_info() for child in supervisor.children(recursive=True)]
    return Sample(
        seconds=round(time.monotonic() - client._started, 1) if client.posted else 0.0,
        posted=posted,
        learned=n_learned,
        lag=max(posted - n_learned, 0),
        api_rss=of_api.rss / MIB,
        api_uss=of_api.uss / MIB,
        supervisor_uss=supervisor.memory_full_info().uss / MIB,
        updater_rss=sum(one.rss for one in children) / MIB,
        updater_uss=sum(one.uss for one in children) / MIB,
        disk_gib=_size(folder) / 2**30,
    )


def _size(folder: Path) -> int:
    n_bytes = 0
    for at, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                n_bytes += os.stat(os.path.join(at, name)).st_size
    return n_bytes


def _state(engine: sa.Engine) -> Any:
    with engine.connect() as connection:
        return connection.execute(sa.text("select * from training_state")).one()


def _wait_for(is_so: Callable[[], bool], timeout_s: float) -> None:
    until = time.monotonic() + timeout_s
    while not is_so():
        if time.monotonic() > until:
            raise TimeoutError("the updater does not run")
        time.sleep(0.2)


def _say(client: Client, state: Any) -> None:
    """The client's view, and what became of the updater."""
    if client.took_s:
        p50, p99 = np.percentile(client.took_s, [50, 99]) * 1000
        print(f"client: {client.posted:,} events posted, a batch in p50 {p50:.0f} ms, p99 {p99:.0f} ms;", end=" ")
        print(f"{client.refused} batches told to come again")
    print(f"updater: {state.restarts} restarts, {state.n_rollbacks} rollbacks by the guard", flush=True)


# --- what came of it


def report(samples: Sequence[Sample]) -> None:
    """Tables by deciles of what passed through each process, peaks, slopes, rates and lag."""
    last = samples[-1]
    print(f"passed through the API {last.posted:,} events, through the updater {last.learned:,}, {last.seconds:.0f} s")
    for name, passed, columns in (
        ("API worker", "posted", ("api_rss", "api_uss")),
        ("updater", "learned", ("updater_rss", "updater_uss", "supervisor_uss")),
    ):
        print(
            f"\n| {name}: {passed} | seconds | {' | '.join(columns)} | lag | disk GiB |\n{'|---' * (len(columns) + 4)}|"
        )
        for one in deciles(samples, passed):
            memory = " | ".join(f"{getattr(one, column):.0f}" for column in columns)
            count = getattr(one, passed)
            print(f"| {count:,} | {one.seconds:.0f} | {memory} | {one.lag:,} | {one.disk_gib:.1f} |")
        for column in columns:
            peak = max(getattr(one, column) for one in samples)
            print(
                f"{column}: peak {peak:.0f} MiB, slope over the second half {slope(samples, passed, column):+.2f}",
                end="",
            )
            print(" MiB a million events")
    while_posted = [one for one in samples if 0 < one.posted < last.posted] or list(samples)
    end = while_posted[-1]
    seconds = end.seconds or 1.0
    print(
        f"\nposted {end.posted / seconds:,.0f} events/s, learned {end.learned / seconds:,.0f}",
        end="",
    )
    print(f" meanwhile; {last.learned / max(last.seconds, 1):,.0f} events/s learned over all of it")
    print(f"lag: at most {max(one.lag for one in samples):,} events, {last.lag:,} at the end", flush=True)


def deciles(samples: Sequence[Sample], passed: str) -> list[Sample]:
    """The first sample, and the first at or after each tenth of all that passed."""
    total = getattr(samples[-1], passed)
    return [next(one for one in samples if getattr(one, passed) >= total * tenth / 10) for tenth in range(11)]


def slope(samples: Sequence[Sample], passed: str, column: str) -> float:
    """MiB a million events over the second half; samples of one count are one, so that idle time has no weight."""
    values = {getattr(one, passed): getattr(one, column) for one in samples}
    half = [(n / 1e6, value) for n, value in values.items() if n >= getattr(samples[-1], passed) / 2]
    return float(np.polyfit(*zip(*half, strict=True), 1)[0]) if len(half) > 2 else float("nan")


def plot(samples: Sequence[Sample], path: Path) -> None:
    """Memory against events, API and updater side by side."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    figure, all_axes = pyplot.subplots(1, 2, figsize=(10.4, 3.4))
    for axes, passed, process in zip(all_axes, ("posted", "learned"), ("api", "updater"), strict=True):
        for kind, colour in (("rss", "#8b949e"), ("uss", "#1f6feb")):
            x = [getattr(one, passed) / 1e6 for one in samples]
            axes.plot(x, [getattr(one, f"{process}_{kind}") for one in samples], label=kind.upper(), color=colour)
        axes.set_title({"api": "API worker", "updater": "updater"}[process], fontsize=10)
        axes.set_xlabel(f"million events {passed}")
        axes.set_ylabel("MiB")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
