"""A client that sends requests at given times, whether or not earlier ones were answered."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Iterator, Sequence

DRAIN_S = 5.0  # after the last request, for what is still to be answered


class Client:
    """Keep-alive connections to one port; requests wait for a free one in the order of their times."""

    def __init__(self, port: int, requests: Iterator[bytes]) -> None:
        self._port, self._requests = port, requests
        self._all: set[_Connection] = set()
        self._free: deque[_Connection] = deque()
        self._due: deque[float] = deque()  # times of requests that wait for a connection
        self.answers: list[tuple[float, float, float, int]] = []  # due, sent, answered, status; 0: lost
        self.n_under_way = 0
        self._is_over = False
        self._opening: set[asyncio.Task[None]] = set()

    async def open(self, n: int) -> None:
        for _ in range(n):  # one after the other, so that no worker accepts all of them
            await self.connect()

    async def connect(self) -> None:
        """One more connection, again and again until somebody accepts it."""
        while not self._is_over:
            with contextlib.suppress(OSError):
                loop = asyncio.get_running_loop()
                _, connection = await loop.create_connection(lambda: _Connection(self), "127.0.0.1", self._port)
                self._all.add(connection)
                self.is_free(connection)
                return
            await asyncio.sleep(0.01)

    async def offer(self, times: Sequence[float]) -> None:
        """Requests at these times of time.perf_counter(), and DRAIN_S for what is left of them."""
        for due in times:
            if (pause := due - time.perf_counter()) > 0:
                await asyncio.sleep(pause)
            self._due.append(due)
            self._send()
        until = time.perf_counter() + DRAIN_S
        while (self._due or self.n_under_way) and time.perf_counter() < until:
            await asyncio.sleep(0.01)

    def close(self) -> None:
        self._is_over = True
        for connection in self._all:
            connection.close()

    def is_free(self, connection: _Connection) -> None:
        self._free.append(connection)
        self._send()

    def is_lost(self, connection: _Connection) -> None:
        self._all.discard(connection)
        with contextlib.suppress(ValueError):
            self._free.remove(connection)
        if not self._is_over:
            opening = asyncio.get_running_loop().create_task(self.connect())
            self._opening.add(opening)
            opening.add_done_callback(self._opening.discard)

    def _send(self) -> None:
        while self._due and self._free:
            self.n_under_way += 1
            self._free.popleft().send(self._due.popleft(), next(self._requests))


class _Connection(asyncio.Protocol):
    """One connection, with at most one request under way."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._received = bytearray()
        self._due: float | None = None
        self._sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def send(self, due: float, request: bytes) -> None:
        self._due, self._sent = due, time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if end and len(body) >= int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]):
            status = int(head[9:12])
            self._received.clear()
            self._answered(status)
            self._client.is_free(self)

    def connection_lost(self, _: Exception | None) -> None:
        if self._due is not None:
            self._answered(0)
        self._client.is_lost(self)

    def _answered(self, status: int) -> None:
        assert self._due is not None
        self._client.answers.append((self._due, self._sent, time.perf_counter(), status))
        self._client.n_under_way -= 1
        self._due = None

    def close(self) -> None:
        self._transport.close()
