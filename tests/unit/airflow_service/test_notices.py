"""Notices are really sent, to a server of this test; and whatever happens to them, nothing is raised."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs

import pytest

from airflow_service import notices

# Apprise imports imghdr, and takes the warning (an error in tests) for a notification that cannot be prepared.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")

CONTEXT = {
    "dag_run": SimpleNamespace(dag_id="nightly", run_id="manual__1"),
    "reason": "task_failure",
}
TELEGRAM_ANSWER = {
    "ok": True,
    "result": {"message_id": 1, "date": 1, "chat": {"id": 5, "type": "private"}, "text": "x"},
}


class Receiver:
    """An HTTP server that keeps what it is sent."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                receiver.requests.append((self.path, body))
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(json.dumps(TELEGRAM_ANSWER).encode())

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    thread = threading.Thread(target=receiver.server.serve_forever, daemon=True)
    thread.start()
    yield receiver
    receiver.server.shutdown()
    receiver.server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def nothing_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("APPRISE_URL", "TELEGRAM_BOT_TOKEN", "TELEGRAM_CHAT_ID", "TELEGRAM_API_URL"):
        monkeypatch.delenv(name, raising=False)


def test_failure_reaches_an_apprise_url(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APPRISE_URL", f"json://127.0.0.1:{receiver.port}/hook")
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "http://airflow.test:8080/")
    notices.run_failed(CONTEXT)
    ((path, body),) = receiver.requests
    sent = json.loads(body)
    assert path.rstrip("/") == "/hook"
    assert (sent["title"], sent["type"]) == ("nightly FAILED", "failure")
    for fact in (
        "manual__1",
        "task_failure",
        "http://airflow.test:8080/dags/nightly",
    ):
        assert fact in sent["message"]


def test_a_failed_step_is_named_with_what_it_said(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APPRISE_URL", f"json://127.0.0.1:{receiver.port}")
    ti = SimpleNamespace(dag_id="nightly", task_id="train_als")
    notices.step_failed(CONTEXT | {"ti": ti, "exception": ValueError("factors are not finite")})
    sent = json.loads(receiver.requests[0][1])
    assert (sent["title"], sent["type"]) == ("nightly: train_als FAILED", "failure")
    assert "ValueError: factors are not finite" in sent["message"]


def test_success_and_refusal_say_what_they_are(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APPRISE_URL", f"json://127.0.0.1:{receiver.port}")
    notices.run_succeeded(CONTEXT)
    notices.model_refused(
        {"dataset": "dataset/d", "ranker": "ranker/r", "accepted": False, "reason": "light users lose"}
    )
    success, refusal = (json.loads(body) for _, body in receiver.requests)
    assert (success["title"], success["type"]) == ("nightly succeeded", "success")
    assert refusal["type"] == "failure"
    assert "light users lose" in refusal["message"]


def test_telegram_gets_escaped_text(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TELEGRAM_BOT_TOKEN", "12345:secret")
    monkeypatch.setenv("TELEGRAM_CHAT_ID", "5")
    monkeypatch.setenv("TELEGRAM_API_URL", f"http://127.0.0.1:{receiver.port}")
    notices.send("a < b", "x & y", failed=True)
    ((path, body),) = receiver.requests
    sent = parse_qs(body)
    assert path == "/bot12345:secret/sendMessage"
    assert sent["chat_id"] == ["5"]
    assert "<b>a &lt; b</b>\nx &amp; y" in sent["text"][0]


def test_nothing_configured_nothing_sent(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TELEGRAM_BOT_TOKEN", "12345:secret")  # half of what Telegram needs
    monkeypatch.setenv("TELEGRAM_API_URL", f"http://127.0.0.1:{receiver.port}")
    notices.run_failed(CONTEXT)
    assert receiver.requests == []


@pytest.mark.parametrize("url", ["json://127.0.0.1:9", "nonsense", "nosuchservice://x"])
def test_a_broken_service_changes_nothing(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APPRISE_URL", url)
    notices.run_succeeded(CONTEXT)


def test_one_broken_service_does_not_silence_the_other(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_down(*_: Any) -> None:
        raise ConnectionError("no route")

    monkeypatch.setenv("TELEGRAM_BOT_TOKEN", "12345:secret")
    monkeypatch.setenv("TELEGRAM_CHAT_ID", "5")
    monkeypatch.setattr(notices, "_telegram", break_down)
    monkeypatch.setenv("APPRISE_URL", f"json://127.0.0.1:{receiver.port}")
    notices.run_succeeded(CONTEXT)
    assert len(receiver.requests) == 1
