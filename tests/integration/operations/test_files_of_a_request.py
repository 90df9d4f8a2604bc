"""How many files one request runs through: what somebody opens who follows it from the socket to the answer."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import sqlalchemy as sa
from starlette.types import Message

from fast_api_service.app import create_app
from fast_api_service.middleware.gate import Service
from tests.integration import serving_shop as shop

ROOT = Path(__file__).resolve().parents[3]
HEADERS = [(b"host", b"localhost"), (b"content-type", b"application/json")]


async def call(app: Service, path: str, body: bytes) -> None:
    scope = {
        "type": "http", "method": "POST", "path": path, "headers": HEADERS, "query_string": b"", "http_version": "1.1",
        "scheme": "http", "server": ("localhost", 8000), "client": None, "root_path": "",
    }  # fmt: skip
    answer: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        answer.append(message)

    await app(scope, receive, send)
    assert answer[0]["status"] == 200, answer


async def files_of(app: Service, path: str, body: bytes) -> set[str]:
    """The fewest of some requests: what goes on in the background falls into one or another."""
    found: list[set[str]] = []
    for _ in range(5):
        files: set[str] = set()

        def note(frame: FrameType, event: str, _: Any, files: set[str] = files) -> None:
            if event == "call":
                files.add(frame.f_code.co_filename)

        await call(app, path, body)
        sys.setprofile(note)
        try:
            await call(app, path, body)
        finally:
            sys.setprofile(None)
        ours = (Path(file) for file in files if file.startswith((f"{ROOT}/recsys/", f"{ROOT}/fast_api_service/")))
        found.append({str(file.relative_to(ROOT)) for file in ours})
    return min(found, key=len)


@pytest.mark.parametrize(
    ("path", "body", "bound"),
    [
        ("/recommend", b'{"user_id": 501, "top_k": 10}', 17),
        ("/online/data/add", b'{"user_id": 501, "item_id": 1001, "event_type": "view"}', 12),
    ],
)
def test_a_request_runs_through_few_files(
    clean_database_url: str, clean_database: sa.Engine, path: str, body: bytes, bound: int
) -> None:
    shop.stock(clean_database)
    shop.publish(clean_database, "v1", shop.FIRST)

    async def run() -> set[str]:
        app = create_app(clean_database_url)
        async with app.router.lifespan_context(app):
            while (snapshot := app.state.service.snapshot) is None or not snapshot.is_published:
                await asyncio.sleep(0.05)
            return await files_of(app, path, body)

    files = asyncio.run(run())
    assert len(files) <= bound, sorted(files)
