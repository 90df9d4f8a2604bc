"""A way to Postgres that a test can cut or slow down while the service uses it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

from sqlalchemy.engine import make_url


class Proxy:
    """Passes on what comes to `url`; `delay_s` holds back every answer of Postgres, `cut()` ends all connections.

    `swallow()` loses all that is still said on the connections that are open, as a network may: nobody hears of it.
    """

    def __init__(self, url: str) -> None:
        target = make_url(url)
        self._target = (target.host or "127.0.0.1", target.port or 5432)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = target.set(host="127.0.0.1", port=self._listener.getsockname()[1]).render_as_string(False)
        self.delay_s = 0.0
        self.is_cut = False
        self._open: set[socket.socket] = set()
        self._swallowed: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """No connection gets through until `recover()`."""
        self.is_cut = True
        for one in list(self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def swallow(self) -> None:
        """Nothing more comes through on what is connected now; new connections are well."""
        self._swallowed |= self._open

    def recover(self) -> None:
        self.is_cut, self.delay_s = False, 0.0

    def close(self) -> None:
        self.cut()
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                if self.is_cut:
                    client.close()
                else:
                    threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with closing(client), suppress(OSError), closing(socket.create_connection(self._target)) as server:
            self._open |= {client, server}
            back = threading.Thread(target=self._pass_on, args=(server, client, True), daemon=True)
            back.start()
            self._pass_on(client, server, False)
            back.join()
            self._open -= {client, server}

    def _pass_on(self, source: socket.socket, sink: socket.socket, is_answer: bool) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if source in self._swallowed:
                    continue
                if is_answer and self.delay_s:
                    time.sleep(self.delay_s)
                sink.sendall(data)
        for one in (source, sink):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@contextmanager
def proxy_to(url: str) -> Iterator[Proxy]:
    proxy = Proxy(url)
    try:
        yield proxy
    finally:
        proxy.close()
