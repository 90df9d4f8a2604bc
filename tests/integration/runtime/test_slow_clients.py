"""Clients that send or read slowly, or without end, over real sockets: they cost nobody anything, and are ended."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from tests.integration import serving_shop as shop

TIMEOUT_S = 3.0  # for a whole request
LIMIT = 16


@pytest.fixture(scope="module")
def service(database_url: str, database: sa.Engine) -> Iterator[httpx.Client]:
    shop.stock(database)
    shop.publish(database, "v1", shop.FIRST)
    settings = {"API_REQUEST_TIMEOUT_S": str(TIMEOUT_S), "API_MAX_IN_FLIGHT": str(LIMIT)}
    with shop.running_service(database_url, **settings) as client:
        shop.wait_until(lambda: shop.is_ready(client), 20)
        yield client


def connected(client: httpx.Client) -> socket.socket:
    return socket.create_connection((client.base_url.host, client.base_url.port or 80), timeout=30)


def rest_of(connection: socket.socket) -> bytes:
    """What comes until the service closes the connection."""
    came = b""
    try:
        while more := connection.recv(1 << 16):
            came += more
    except ConnectionResetError:
        pass
    return came


def refused(answer: bytes) -> tuple[int, dict[str, Any]]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"connection: close" in head.lower()
    return int(head.split()[1]), json.loads(body)


def recommend(client: httpx.Client, n: int = 1) -> None:
    for _ in range(n):
        answer = client.post("/recommend", json={"user_id": 501, "top_k": 5})
        assert answer.status_code == 200, answer.text
        assert answer.json()["provenance"]["degraded"] == []


def head(path: str, *lines: str) -> bytes:
    return "\r\n".join(
        [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", *lines, "", ""]
    ).encode()


@pytest.mark.parametrize("how", ["declared", "chunked"])
def test_bodies_that_never_end_take_nobodys_place_and_are_answered_408(service: httpx.Client, how: str) -> None:
    begun = head("/recommend", "Content-Length: 20") + b"{"
    if how == "chunked":
        begun = head("/online/data/add", "Transfer-Encoding: chunked") + b"1\r\n{\r\n"
    unfinished = [connected(service) for _ in range(4 * LIMIT)]
    try:
        for one in unfinished:
            one.sendall(begun)
        time.sleep(0.3)
        recommend(service, 20)
        assert service.post("/online/data/add", json={"user_id": 501, "item_id": 1001}).status_code == 200
        assert {refused(rest_of(one))[0] for one in unfinished} == {408}
    finally:
        for one in unfinished:
            one.close()


def test_a_body_that_trickles_is_ended_too(service: httpx.Client) -> None:
    """Bytes keep coming; the deadline is for the whole of it."""
    with closing(connected(service)) as slow:
        slow.sendall(head("/recommend", "Content-Length: 1000") + b"{")
        slow.settimeout(0.2)
        answer, n_sent = b"", 1
        while not answer and n_sent < 200:
            slow.sendall(b" ")
            n_sent += 1
            try:
                answer = slow.recv(1 << 16)
            except TimeoutError:
                continue
        code, body = refused(answer)
        assert (code, body["status"]) == (408, "request_timeout")


def test_a_head_without_end_is_ended_and_holds_up_nobody(service: httpx.Client) -> None:
    with closing(connected(service)) as endless, closing(connected(service)) as idle:
        endless.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Long: ")
        recommend(service)
        code, body = refused(rest_of(endless))
        assert (code, body["success"]) == (408, False)
        assert rest_of(idle) == b""  # nothing was asked, nothing is answered


@pytest.mark.parametrize("piece", [b"a" * 4096, b"a: b\r\n" * 700])
def test_a_large_head_is_refused_before_it_is_read(service: httpx.Client, piece: bytes) -> None:
    n_sent, answer = 0, b""
    with closing(connected(service)) as large:
        large.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + (b"X-Long: " if b":" not in piece else b""))
        large.settimeout(0.0)
        while n_sent < 64 << 20 and not answer:
            try:
                n_sent += large.send(piece)
            except BlockingIOError:
                time.sleep(0.001)
            except OSError:
                break
            try:
                answer = large.recv(1 << 16)
            except BlockingIOError:
                continue
            except OSError:
                break
    assert n_sent < 32 << 20  # what fits into the buffers of two sockets, at most
    if answer:
        code, body = refused(answer)
        assert (code, body["status"]) == (431, "headers_too_large")
    assert service.get("/health").status_code == 200


@pytest.mark.parametrize(
    "begin", [b"GARBAGE\r\n\r\n", b"\x16\x03\x01\x02", b"POST /health HTTP/1.1\r\nContent-Length: -1\r\n\r\n"]
)
def test_what_is_no_http_is_refused_in_the_form_of_all_errors(service: httpx.Client, begin: bytes) -> None:
    with closing(connected(service)) as strange:
        strange.sendall(begin)
        code, body = refused(rest_of(strange))
    assert (code, body["success"], body["status"]) == (400, False, "bad_request")


@pytest.mark.parametrize("pause_s", [0.0, 0.1])
def test_who_offers_http_2_is_answered_all_the_same(service: httpx.Client, pause_s: float) -> None:
    """As curl --http2 and Java's client do."""
    body = b'{"user_id": 501, "top_k": 5}'
    offer = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQ")
    with closing(connected(service)) as modern:
        modern.sendall(head("/recommend", *offer, f"Content-Length: {len(body)}"))
        time.sleep(pause_s)
        modern.sendall(body + b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answers = rest_of(modern)
    assert answers.count(b"HTTP/1.1 200 OK") == 2
    assert b'"user_id":501' in answers


def test_another_method_for_tunnels_harms_nobody(service: httpx.Client) -> None:
    with closing(connected(service)) as strange:
        strange.sendall(b"CONNECT localhost:22 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        code, body = refused(rest_of(strange))
    assert (code, body["status"]) == (400, "bad_request")


def test_a_usual_large_head_is_taken(service: httpx.Client) -> None:
    with closing(connected(service)) as usual:
        usual.sendall(
            b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-Long: " + b"a" * 32_000 + b"\r\n\r\n"
        )
        assert rest_of(usual).startswith(b"HTTP/1.1 200 ")


def test_requests_in_pieces_and_many_in_one_are_answered(service: httpx.Client) -> None:
    """The bounds are of each request, not of the connection."""
    body = b'{"user_id": 501}'
    one = head("/recommend", f"Content-Length: {len(body)}") + body
    with closing(connected(service)) as connection:
        for at in range(0, len(one), 7):
            connection.sendall(one[at : at + 7])
            time.sleep(0.002)
        time.sleep(0.2)
        connection.sendall(one * 500)  # more bytes than a head may have
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert rest_of(connection).count(b"HTTP/1.1 200 OK") == 502


def test_who_does_not_read_answers_takes_nobodys_place(service: httpx.Client) -> None:
    body = json.dumps({"user_ids": [501, 502] * 450, "top_k": 100, "explain": True}).encode()
    requests = (head("/recommend/batch", f"Content-Length: {len(body)}") + body) * 3
    deaf = []
    try:
        for _ in range(6):
            one = socket.socket()
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            one.connect((service.base_url.host, service.base_url.port or 80))
            one.sendall(requests)
            deaf.append(one)
        recommend(service, 50)
        shop.wait_until(lambda: small_batch(service) == 200, 60)
        # their connections are ended: what was not read is not kept for ever
        n_open = n_connections(service)
        shop.wait_until(lambda: n_connections(service) <= max(2, n_open - len(deaf)), 20 * TIMEOUT_S)
    finally:
        for one in deaf:
            one.close()


def small_batch(client: httpx.Client) -> int:
    return client.post("/recommend/batch", json={"user_ids": [501]}).status_code


def n_connections(client: httpx.Client) -> int:
    import psutil

    process = psutil.Process(client.process.pid)  # type: ignore[attr-defined]
    port = client.base_url.port
    return sum(one.laddr.port == port and one.status == "ESTABLISHED" for one in process.net_connections("tcp"))


@pytest.mark.parametrize("path", ["/recommend/", "/dashboard/", "/config/"])
def test_no_answer_names_the_host_that_a_client_names(service: httpx.Client, path: str) -> None:
    answer = service.get(path, headers={"Host": "elsewhere.example"}, follow_redirects=False)
    assert "elsewhere" not in str(answer.headers)
    assert (answer.status_code, answer.json()["status"]) == (403, "forbidden")
    answer = service.get(path, follow_redirects=False)
    assert answer.status_code == 404, "no redirect, whose address would be made of the Host"
