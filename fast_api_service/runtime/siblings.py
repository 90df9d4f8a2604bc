"""What the workers of one port share: a folder with the sockets of their metrics, and the rate limits of API keys.

A scrape of /metrics reaches one worker, which collects the metrics of the others and responds for all.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import mmap
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

PATIENCE_S: Final = 1.0  # timeout of another worker's metrics
_DOUBLE: Final = 8  # bytes


class Siblings:
    """One worker's view of the others: it is `number` of `n` workers, which share `folder`. A replacement takes the
    place of one that died while the others answer."""

    def __init__(self, folder: Path, number: int, n: int, *, is_replacement: bool = False) -> None:
        self.number, self.n, self.is_replacement = number, n, is_replacement
        self._folder = folder
        self._server: asyncio.Server | None = None

    async def open(self, metrics: Callable[[], bytes]) -> None:
        """Serve `metrics` to the other workers on a Unix socket. Raises OSError when the folder's path is too long."""

        async def send(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):  # the other worker has disconnected
                writer.write(metrics())
                await writer.drain()
            writer.close()

        own = self._socket(self.number)
        own.unlink(missing_ok=True)  # of a worker that was killed
        self._server = await asyncio.start_unix_server(send, own)

    async def close(self) -> None:
        """Stop serving the metrics."""
        if self._server is not None:
            self._server.close()
            self._socket(self.number).unlink(missing_ok=True)

    async def metrics(self) -> list[bytes]:
        """The metrics of every other worker that responds within PATIENCE_S, by number."""
        others = [number for number in range(self.n) if number != self.number]
        answers = await asyncio.gather(*(self._metrics_of(number) for number in others))
        return [answer for answer in answers if answer]

    def number_of_key(self, key_id: str) -> memoryview[float]:
        """A float in shared memory, initially 0, which all workers read and write for the API key with this id."""
        name = hashlib.sha256(key_id.encode()).hexdigest()[:32]  # an id may have characters that file names cannot
        handle = os.open(self._folder / f"{name}.rate", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.ftruncate(handle, _DOUBLE)
            return memoryview(mmap.mmap(handle, _DOUBLE)).cast("d")
        finally:
            os.close(handle)

    def _socket(self, number: int) -> Path:
        return self._folder / f"{number}.socket"

    async def _metrics_of(self, number: int) -> bytes:
        """Empty if it does not respond in time, or has exited."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                reader, writer = await asyncio.open_unix_connection(self._socket(number))
                try:
                    return await reader.read()
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return b""


def merged(texts: Sequence[bytes]) -> bytes:
    """Merge texts in the Prometheus format: the samples of a metric together, under its first HELP and TYPE.

    No sample may be in two of them, so each worker adds a label with its number.
    """
    parts: dict[bytes, list[bytes]] = {}
    for text in texts:
        for block in text.split(b"# HELP ")[1:]:
            about, type_, samples = block.split(b"\n", 2)
            name = about.partition(b" ")[0]
            parts.setdefault(name, [b"# HELP " + about + b"\n" + type_ + b"\n"]).append(samples)
    return b"".join(itertools.chain.from_iterable(parts.values()))
