"""uvicorn's HTTP protocol with one write an answer, and with bounds on what a client may make the worker wait for.

uvicorn hands head and body of an answer to the socket one after the other, and each is a system call that wakes the
client. That was a quarter of the service's processor time.

It also waits for clients without end: for the rest of a request, for bytes of a header, for an answer to be read. All
of that is bounded here, below the application, whatever route and key it may be.
"""

from __future__ import annotations

import asyncio
import re
from functools import partial
from typing import Any, Final

import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

WHOLE_ANSWER: Final = "recsys.whole_answer"  # of the ASGI scope's extensions: takes status, headers and body at once
MAX_HEAD_BYTES: Final = 64 << 10
MAX_MESSAGE_BYTES: Final = 8 << 20  # head and body as they are on the wire: chunks of one byte take six, and trailers
# The offer of another protocol, as of HTTP/2 by many clients' libraries. It may be ignored, and there is no other; but
# httptools would take the body of such a request for the other protocol, and then for a request.
_UPGRADE: Final = re.compile(rb"\nupgrade:", re.IGNORECASE)


class Joined:
    """A transport that writes, at the end of the loop's turn, what was given to it in that turn."""

    __slots__ = ("_loop", "_parts", "_patience_s", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, patience_s: float) -> None:
        self._transport = transport
        self._loop = loop
        self._patience_s = patience_s
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> None:
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)

    def close(self) -> None:
        """Once what was written has left, or the client has not read it for so long."""
        self._flush()
        if self._transport.get_write_buffer_size():
            self._loop.call_later(self._patience_s, self._transport.abort)
        self._transport.close()

    def is_closing(self) -> bool:
        """Asked for each request; `__getattr__` takes ten times as long."""
        return self._transport.is_closing()

    def _flush(self) -> None:
        if self._parts:
            data = b"".join(self._parts)
            self._parts.clear()
            if not self._transport.is_closing():  # uvloop's raises where the connection ended in the same turn
                self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


async def _answer_whole(cycle: RequestResponseCycle, status: int, headers: bytes, body: bytes) -> None:
    """What uvicorn's `send` does with the two messages of an answer; looking at each header takes it longer than the
    rest. `headers`: as on the wire, each with its line end, `content-length` among them."""
    if cycle.flow.write_paused and not cycle.disconnected:
        await cycle.flow.drain()
    if cycle.disconnected:
        return
    cycle.response_started = cycle.response_complete = True
    cycle.waiting_for_100_continue = False
    more = b"".join(b"%b: %b\r\n" % header for header in cycle.default_headers)
    end = b"\r\n" if cycle.keep_alive else b"connection: close\r\n\r\n"
    cycle.transport.write(b"".join((STATUS_LINE[status], more, headers, end, body)))
    cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()


class OneWriteProtocol(HttpToolsProtocol):
    """For `uvicorn.run(http=…)`, where a `functools.partial` of it may give `patience_s`.

    A request is there, head and body, `patience_s` after the connection or its first byte, or is answered 408 and the
    connection closed. A head beyond MAX_HEAD_BYTES is answered 431. Of an answer, something is read in every
    `patience_s`, or the connection ends.
    """

    _waiting: asyncio.TimerHandle | None = None  # for the rest of a request
    _draining: asyncio.TimerHandle | None = None  # for an answer to be read
    _in_head = True
    _has_begun = False  # a request, which is not whole yet
    _n_bytes = 0  # of it so far

    def __init__(self, *arguments: Any, patience_s: float = 10.0, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.patience_s = patience_s

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(Joined(transport, self.loop, self.patience_s))  # type: ignore[arg-type]
        self._waiting = self.loop.call_later(self.patience_s, self._end_waiting)

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._waiting, self._draining):
            if timer is not None:
                timer.cancel()
        self._waiting = self._draining = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_head and b"pgrade" in data:
            head, end, rest = data.partition(b"\r\n\r\n")
            data = _UPGRADE.sub(b"\nignored:", head) + end + rest
        if len(data) <= self._room():
            self._n_bytes += len(data)
            super().data_received(data)
        else:
            self._receive_in_pieces(data)
        if self._has_begun:
            if self._waiting is None:
                self._waiting = self.loop.call_later(self.patience_s, self._end_waiting)
        elif self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _room(self) -> int:
        return (MAX_HEAD_BYTES if self._in_head else MAX_MESSAGE_BYTES) - self._n_bytes

    def _receive_in_pieces(self, data: bytes) -> None:
        """httptools copies an unfinished header again with each piece of it, so it gets no more than is taken."""
        while data and self.parser is not None and not self.transport.is_closing():
            room = self._room()
            if room <= 0:
                self._refuse_too_large()
                return
            self._n_bytes += min(room, len(data))
            super().data_received(data[:room])
            data = data[room:]

    def on_message_begin(self) -> None:
        self._has_begun = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()
        self.scope["extensions"] = {WHOLE_ANSWER: partial(_answer_whole, self.cycle)}  # type: ignore[dict-item]

    def on_message_complete(self) -> None:
        self._has_begun, self._in_head, self._n_bytes = False, True, 0
        super().on_message_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_reader()

    def resume_writing(self) -> None:
        if self._draining is not None:
            self._draining.cancel()
            self._draining = None
        super().resume_writing()

    def _await_reader(self) -> None:
        n_left = self.transport.get_write_buffer_size()
        self._draining = self.loop.call_later(self.patience_s, self._end_draining, n_left)

    def _end_draining(self, n_left: int) -> None:
        if self.transport.get_write_buffer_size() < n_left:
            self._await_reader()
        else:
            self.transport.abort()

    def _end_waiting(self) -> None:
        self._waiting = None
        if self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete and self._in_head:
            # a pipelined head, which is not read while the answer before it is made
            self._waiting = self.loop.call_later(self.patience_s, self._end_waiting)
        elif self._has_begun:
            self._refuse(408, "request_timeout", f"the whole request has to be here within {self.patience_s:g} s")
        else:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP is refused in the form of all errors."""
        self._refuse(400, "bad_request", f"this is no request of HTTP/1.1, so nothing was done: {msg}")

    def _refuse_too_large(self) -> None:
        if self._in_head:
            self._refuse(431, "headers_too_large", f"headers are larger than {MAX_HEAD_BYTES} bytes; send less")
        else:
            self._refuse(413, "body_too_large", f"the request is larger than {MAX_MESSAGE_BYTES} bytes; send less")

    def _refuse(self, code: int, status: str, error: str) -> None:
        """Answer unless the application has, and close; the application hears that the client has left."""
        is_answered = not self._in_head and self.cycle is not None and self.cycle.response_started
        if not is_answered and not self.pipeline:
            body = orjson.dumps({"success": False, "status": status, "error": error})
            head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
            self.transport.write(STATUS_LINE[code] + head + body)
        self.transport.close()
