"""POST /recommend beyond its peak, and while publications change: goodput, latencies, errors.

    python -m research.benchmarks.serving_load [--users 200000] [--items 50000] [--seconds 10]

One uvicorn worker, one asyncio client on the same machine, the world of serving.py. In one run:

1. peak: a closed loop of 16 connections.
2. overload: requests come at five times that rate, over 320 connections, whether or not earlier ones were answered; a
   connection that still waits sends late. Counted: good answers a second, and how long they took from being sent.
3. recovery: the closed loop again, second by second.
4. switches: the pointer moves between two publications, whose lists have no item in common, every ten seconds under
   half of the peak. Every answer must hold items of the publication that it names and no others; the first second
   after a switch is compared with the others.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import psutil

from research.benchmarks.serving import filled, free_port, point_at, publish, wait

CONNECTIONS, OVERLOAD = 16, 5


@dataclass
class Seen:
    """What a client saw: (when it was sent, how long it took, status, body or nothing)."""

    answers: list[tuple[float, float, int, bytes]] = field(default_factory=list)
    n_degraded: int = 0

    def good(self) -> np.ndarray:
        """(n, 2) seconds: when a good answer was sent for, and how long it took."""
        return np.array([(at, took) for at, took, status, _ in self.answers if status == 200]).reshape(-1, 2)


async def ask(
    port: int,
    request: Callable[[], bytes],
    n_connections: int,
    seconds: float,
    rate: float | None,
    *,
    bodies: bool = False,
) -> Seen:
    """A closed loop over so many connections, or, with `rate`, requests that come at that rate."""
    seen = Seen()
    started = time.perf_counter()
    n_sent = 0

    async def connection() -> None:
        nonlocal n_sent
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while True:
            if rate is not None:
                due = started + n_sent / rate
                n_sent += 1
                if due > time.perf_counter():
                    await asyncio.sleep(due - time.perf_counter())
            at = time.perf_counter()
            if at - started >= seconds:
                break
            writer.write(request())
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            body = await reader.readexactly(length)
            seen.n_degraded += head.startswith(b"HTTP/1.1 200") and b'"degraded":[]' not in body
            seen.answers.append((at - started, time.perf_counter() - at, int(head[9:12]), body if bodies else b""))
        writer.close()

    await asyncio.gather(*(connection() for _ in range(n_connections)))
    return seen


def milliseconds(took: np.ndarray, share: float) -> float:
    return float(np.percentile(took, share) * 1000) if len(took) else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--switches", type=int, default=4)
    arguments = parser.parse_args()
    with filled(arguments.users, arguments.items) as (url, engine, _):
        even = publish(engine, "2", arguments.users, arguments.items, step=2, first=2)
        odd = publish(engine, "3", arguments.users, arguments.items, step=2, first=1)
        port = free_port()
        command = [sys.executable, "-m", "fast_api_service"]
        service = subprocess.Popen(command, env=os.environ | {"DATABASE_URL": url, "API_PORT": str(port)})
        try:
            wait(f"http://127.0.0.1:{port}/ready")
            pick = random.Random(2)

            def request() -> bytes:
                body = b'{"user_id": %d, "top_k": 10}' % (7 * pick.randint(1, arguments.users))
                head = (
                    "POST /recommend HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
                )
                return head.encode() + b"%d\r\n\r\n" % len(body) + body

            peak = overload(port, request, arguments.seconds)
            switches(port, request, peak / 2, arguments.switches, {even: 0, odd: 1}, lambda at: point_at(engine, at))
            print(f"service: {psutil.Process(service.pid).memory_info().rss / 2**20:.0f} MiB")
        finally:
            service.terminate()
            service.wait(20)


def overload(port: int, request: Callable[[], bytes], seconds: float) -> float:
    """Measure peak, overload and recovery, print them; the peak in requests per second."""
    asyncio.run(ask(port, request, CONNECTIONS, 2, None))  # warm up
    calm = asyncio.run(ask(port, request, CONNECTIONS, seconds, None)).good()
    peak = len(calm) / seconds
    p50, p99 = (milliseconds(calm[:, 1], share) for share in (50, 99))
    print(f"peak: {peak:.0f} requests/s, p50 {p50:.1f} ms, p99 {p99:.1f} ms")
    seen = asyncio.run(ask(port, request, CONNECTIONS * 20, seconds, OVERLOAD * peak))
    good = seen.good()
    statuses = {status: sum(answer[2] == status for answer in seen.answers) for status in {a[2] for a in seen.answers}}
    goodput = len(good) / seconds
    p50, p99 = (milliseconds(good[:, 1], share) for share in (50, 99))
    print(
        f"five times the peak: goodput {goodput:.0f} requests/s, {goodput / peak:.2f} of the peak, of these"
        f" {seen.n_degraded} degraded; p50 {p50:.1f} ms, p99 {p99:.1f} ms; answers by status {statuses}"
    )
    after = asyncio.run(ask(port, request, CONNECTIONS, 6, None)).good()
    by_second = [int(((after[:, 0] >= second) & (after[:, 0] < second + 1)).sum()) for second in range(6)]
    print(f"recovery: good answers in each second after it {by_second}, of the peak's {peak:.0f}")
    return peak


def switches(
    port: int, request: Callable[[], bytes], rate: float, n: int, parity: dict[int, int], point: Callable[[int], None]
) -> None:
    """Switch every ten seconds, check every answer, compare the seconds after switches with the others."""
    every_s = 10.0

    async def run() -> Seen:
        async def move() -> None:
            for number in range(n):
                await asyncio.sleep(every_s if number else every_s / 2)
                await asyncio.to_thread(point, list(parity)[number % 2])

        moving = asyncio.create_task(move())
        seen = await ask(port, request, CONNECTIONS, every_s * n, rate, bodies=True)
        await moving
        return seen

    seen = asyncio.run(run())
    errors = sum(status != 200 for _, _, status, _ in seen.answers)
    mixed, names = 0, []
    for _, _, status, body in seen.answers:
        if status != 200:
            continue
        answer = json.loads(body)
        publication_id = answer["provenance"]["publication_id"]
        names.append(publication_id)
        odd_keys = {(item["item_id"] - 1000) % 2 for item in answer["recommendations"]}
        mixed += odd_keys != {parity[publication_id]}
    good = seen.good()
    changes = [good[i, 0] for i in range(1, len(names)) if names[i] != names[i - 1]]
    first = np.zeros(len(good), dtype=bool)
    for at in changes:
        first |= (good[:, 0] >= at) & (good[:, 0] < at + 1)
    after, steady = (milliseconds(good[of, 1], 99) for of in (first, ~first))
    print(
        f"{len(changes)} changes under {rate:.0f} requests/s: {errors} errors, {mixed} mixed of {len(good)} answers;"
        f" p99 in the first second after {after:.1f} ms, otherwise {steady:.1f} ms, ratio {after / steady:.2f}"
    )


if __name__ == "__main__":
    main()
