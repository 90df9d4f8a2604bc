"""What is written in one turn of the loop leaves as one write, in order, and before the connection is closed."""

from __future__ import annotations

import asyncio

from fast_api_service.middleware.protocol import BufferedTransport


class Transport:
    def __init__(self) -> None:
        self.did: list[bytes | str] = []
        self.n_unread = 0

    def write(self, data: bytes) -> None:
        self.did.append(data)

    def close(self) -> None:
        self.did.append("closed")

    def abort(self) -> None:
        self.did.append("aborted")

    def get_write_buffer_size(self) -> int:
        return self.n_unread

    def is_closing(self) -> bool:
        return "closed" in self.did

    def get_extra_info(self, name: str) -> str:
        return f"extra {name}"


def test_writes_of_one_turn_leave_together() -> None:
    transport = Transport()

    async def run() -> None:
        buffered = BufferedTransport(transport, asyncio.get_running_loop(), 0.05)  # type: ignore[arg-type]
        buffered.write(b"head ")
        buffered.write(b"body")
        assert transport.did == []
        await asyncio.sleep(0)
        assert transport.did == [b"head body"]
        buffered.write(b"last")
        buffered.close()
        await asyncio.sleep(0)
        assert buffered.get_extra_info("peername") == "extra peername"

    asyncio.run(run())
    assert transport.did == [b"head body", b"last", "closed"]


def test_a_connection_whose_client_does_not_read_the_last_answer_ends_all_the_same() -> None:
    transport = Transport()
    transport.n_unread = 1

    async def run() -> None:
        BufferedTransport(transport, asyncio.get_running_loop(), 0.05).close()  # type: ignore[arg-type]
        assert transport.did == ["closed"]
        await asyncio.sleep(0.2)

    asyncio.run(run())
    assert transport.did == ["closed", "aborted"]


def test_what_was_written_when_the_connection_ended_is_let_go() -> None:
    transport = Transport()

    async def run() -> None:
        buffered = BufferedTransport(transport, asyncio.get_running_loop(), 0.05)  # type: ignore[arg-type]
        buffered.write(b"answer")
        transport.close()  # as where the client has not read for long
        await asyncio.sleep(0)

    asyncio.run(run())
    assert transport.did == ["closed"]
