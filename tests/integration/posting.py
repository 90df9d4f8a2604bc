"""Clients that post events, and send again what was not acknowledged, while a test kills what stands behind them."""

from __future__ import annotations

import itertools
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import psutil
import sqlalchemy as sa

from recsys.storage import embedded
from recsys.storage.engine import engine_of, migrate
from tests.conftest import free_port, open_temporary_folder
from tests.integration import serving_shop as shop

_BATCH = 5


@contextmanager
def own_postgres() -> Iterator[tuple[Path, str, sa.Engine]]:
    """A server that a test may kill, migrated and empty: its folder, its URL, an engine."""
    folder = open_temporary_folder()
    url = embedded.ensure(folder, free_port()).url("recsys")
    engine = engine_of(url)
    try:
        migrate(engine)
        yield folder, url, engine
    except BaseException:
        for name in ("keeper.log", "server.log"):  # they go with the folder
            print(f"--- {name}\n{(folder / name).read_text(errors='replace')[-4000:]}", file=sys.stderr)
        raise
    finally:
        engine.dispose()
        embedded.stop(folder)
        shutil.rmtree(folder, ignore_errors=True)


def kill_postgres(folder: Path) -> None:
    """SIGKILL to the embedded server there; its keeper starts it again."""

    def kill() -> bool:
        try:
            pid = int((folder / "data" / "postmaster.pid").read_text().splitlines()[0])
            psutil.Process(pid).send_signal(signal.SIGKILL)
        except (OSError, IndexError, psutil.NoSuchProcess):  # it is not back yet from the last time
            return False
        return True

    shop.wait_until(kill, 60)


class Clients:
    """Four at once, each going round the services; within the block they work, and on leaving they are ended."""

    def __init__(self, urls: Sequence[str], samples: Sequence[dict[str, Any]], pause_s: float = 0.02) -> None:
        self.acknowledged: set[str] = set()
        self.refused: list[str] = []  # answers that are neither yes nor "later"
        self._urls, self._waiting, self._n = list(urls), list(samples), len(samples)
        self._pause_s = pause_s
        self._lock, self._over = threading.Lock(), threading.Event()
        self._threads = [threading.Thread(target=self._post, args=(n,)) for n in range(4)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(30)
        assert kind is not None or not self.refused, self.refused[:3]

    def go_on(self, n: int, timeout_s: float = 90) -> None:
        """Until `n` more are acknowledged, or nearly all are."""
        goal = min(self._n - 100, len(self.acknowledged) + n)
        shop.wait_until(lambda: len(self.acknowledged) >= goal, timeout_s)

    def finish(self, timeout_s: float = 120) -> None:
        """Until all are acknowledged."""
        shop.wait_until(lambda: len(self.acknowledged) == self._n, timeout_s)

    def _post(self, first: int) -> None:
        urls = itertools.cycle(self._urls[first % len(self._urls) :] + self._urls[: first % len(self._urls)])
        with httpx.Client(timeout=15) as client:
            while not self._over.is_set():
                with self._lock:
                    batch, self._waiting[:_BATCH] = self._waiting[:_BATCH], []
                if not batch:
                    time.sleep(0.05)
                elif self._taken(client, next(urls), batch):
                    self.acknowledged.update(sample["event_id"] for sample in batch)
                    time.sleep(self._pause_s)
                else:
                    time.sleep(0.2)
                    with self._lock:
                        self._waiting.extend(batch)

    def _taken(self, client: httpx.Client, url: str, batch: list[dict[str, Any]]) -> bool:
        try:
            response = client.post(f"{url}/online/data/add", json={"samples": batch})
        except httpx.TransportError:
            return False
        if response.status_code not in (200, 503):
            self.refused.append(response.text)
        return response.status_code == 200
