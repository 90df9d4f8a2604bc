"""uvicorn's HTTP protocol with one write per response, and with timeouts and size limits against slow clients.

uvicorn writes head and body of a response separately, each in a system call that wakes the client. That took a quarter
of the service's CPU time.

It also waits for clients without limit: for the rest of a request, for bytes of a header, for a response to be read.
All of this is limited here, below the application, for all routes and keys.
"""

from __future__ import annotations

import asyncio
import re
from functools import partial
from typing import Any, Final

import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

WHOLE_ANSWER: Final = "recsys.whole_answer"  # an extension of the ASGI scope: sends status, headers and body at once
MAX_HEAD_BYTES: Final = 64 << 10
MAX_MESSAGE_BYTES: Final = 8 << 20  # head and body on the wire, with trailers; a chunk of one byte takes six
# An offer to switch protocols, such as to HTTP/2, sent by many client libraries. Servers may ignore it, and ours has no
# other; but httptools would take the body of such a request for the other protocol, and then for a request.
_UPGRADE: Final = re.compile(rb"\nupgrade:", re.IGNORECASE)


class BufferedTransport:
    """A transport that collects the writes of one iteration of the event loop, and sends them at its end."""

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
        """Close after the buffer is sent, or after `patience_s` if the client does not read it."""
        self._flush()
        if self._transport.get_write_buffer_size():
            self._loop.call_later(self._patience_s, self._transport.abort)
        self._transport.close()

    def is_closing(self) -> bool:
        """Called per request; `__getattr__` takes ten times as long."""
        return self._transport.is_closing()

    def _flush(self) -> None:
        if self._parts:
            data = b"".join(self._parts)
            self._parts.clear()
            if not self._transport.is_closing():  # uvloop's raises if the connection ended in the same iteration
                self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


async def _answer_whole(cycle: RequestResponseCycle, status: int, headers: bytes, body: bytes) -> None:
    """As uvicorn's `send` with the two messages of a response, which spends most of its time on parsing headers.
    `headers`: as on the wire, each with its line end, including `content-length`."""
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
    """For `uvicorn.run(http=…)`; `functools.partial` may set `patience_s`.

    A request has to be complete `patience_s` after the connection or its first byte, else it gets 408 and the
    connection is closed. A head beyond MAX_HEAD_BYTES gets 431. A connection is aborted if the client reads nothing of
    a response for `patience_s`.
    """

    _waiting: asyncio.TimerHandle | None = None  # until the rest of a request arrives
    _draining: asyncio.TimerHandle | None = None  # until a response is read
    _in_head = True
    _has_begun = False  # receiving a request
    _n_bytes = 0  # of it, so far

    def __init__(self, *arguments: Any, patience_s: float = 10.0, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.patience_s = patience_s

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(BufferedTransport(transport, self.loop, self.patience_s))  # type: ignore[arg-type]
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
        """httptools copies an unfinished header with each piece of it, so it gets no more than the size limit."""
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
            # a pipelined head, which is not read while the previous response is built
            self._waiting = self.loop.call_later(self.patience_s, self._end_waiting)
        elif self._has_begun:
            self._refuse(408, "request_timeout", f"the whole request has to be here within {self.patience_s:g} s")
        else:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Refuse invalid HTTP, in the form of all errors."""
        self._refuse(400, "bad_request", f"this is not a valid HTTP/1.1 request, so nothing was done: {msg}")

    def _refuse_too_large(self) -> None:
        if self._in_head:
            self._refuse(431, "headers_too_large", f"headers are larger than {MAX_HEAD_BYTES} bytes; send less")
        else:
            self._refuse(413, "body_too_large", f"the request is larger than {MAX_MESSAGE_BYTES} bytes; send less")

    def _refuse(self, code: int, status: str, error: str) -> None:
        """Respond unless the application has, and close; the application is notified of the disconnect."""
        is_answered = not self._in_head and self.cycle is not None and self.cycle.response_started
        if not is_answered and not self.pipeline:
            body = orjson.dumps({"success": False, "status": status, "error": error})
            head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
            self.transport.write(STATUS_LINE[code] + head + body)
        self.transport.close()
