"""A small published shop in Postgres, and the service as a process: what the tests of the service use.

Items 1 to 60 (ids 1001 to 1060, or item-1 to item-60); 1 to 50 are of category 2, the others of 3, both below 1,
and 4 is empty. Items 3, 13 and 33 are not available although lists hold them. Users: 501 has a ranked and a
personal list, 502 a personal list, 503 no list.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import sqlalchemy as sa
from pydantic import BaseModel

from fast_api_service.openapi_examples import ENTITY_BY_FIELD
from fast_api_service.schemas import RecommendAnswer
from recsys.storage import lists, tables
from recsys.types import Lists

UNAVAILABLE = {3, 13, 33}
RANKED, PERSONAL, LIGHT = 1, 2, 3  # user keys
EVENT_TYPES = ("view", "addtocart", "transaction")

# One publication uses none of the items that the other one uses.
FIRST = {
    "default": {0: range(11, 31), 2: range(21, 31)},
    "personal": {RANKED: range(6, 11), PERSONAL: range(6, 11)},
    "ranked": {RANKED: range(1, 6)},
    "i2i": {1: [2, 3, 4], 2: [1]},
    "similar": {1: [4, 5, 6]},
}
SECOND = {
    "default": {0: range(41, 61), 2: range(41, 51)},
    "personal": {RANKED: range(36, 41), PERSONAL: range(36, 41)},
    "ranked": {RANKED: range(31, 36)},
    "i2i": {1: [32]},
    "similar": {1: [34]},
}


def stock(engine: sa.Engine, json_type: str = "integer") -> None:
    """Write the keys of the shop."""
    categories = [
        {"category_key": key, "category_id": str(900 + key), "parent_category_key": 1 if key > 1 else None}
        for key in range(1, 5)
    ]
    items = [
        {
            "item_key": key,
            "item_id": item_id(key, json_type),
            "category_key": 2 if key <= 50 else 3,
            "available": key not in UNAVAILABLE,
        }
        for key in range(1, 61)
    ]
    prefix = "" if json_type == "integer" else "user-"
    users = [{"user_key": key, "user_id": f"{prefix}{500 + key}"} for key in (RANKED, PERSONAL, LIGHT)]
    types = [{"entity": entity, "json_type": json_type} for entity in ("user", "item")]
    with engine.begin() as connection:
        connection.execute(sa.insert(tables.categories), categories)
        connection.execute(sa.insert(tables.items), items)
        connection.execute(sa.insert(tables.users), users)
        connection.execute(sa.insert(tables.id_types), [*types, {"entity": "category", "json_type": "integer"}])


def item_id(key: int, json_type: str = "integer") -> str:
    return str(1000 + key) if json_type == "integer" else f"item-{key}"


def publish(
    engine: sa.Engine,
    version: str,
    contents: Mapping[str, Mapping[int, Sequence[int]]],
    models: Mapping[str, str] | None = None,
    history: Mapping[int, Sequence[tuple[int, str, float]]] | None = None,
) -> int:
    """Write lists (kind → owner → item keys), and what users did (user → item, type of event, days ago, the latest
    first), and move the pointer to them; the publication's id. `models`: artifacts beside `als/<version>`."""
    manifest = {}
    if history is not None:
        manifest["history"] = lists.write(
            engine,
            "history",
            version,
            lambda: [_history(history)],
            dataset=f"dataset/{version}",
            made_by="tests",
            sources=EVENT_TYPES,
        ).list_version_id
    for kind, keys_by_owner in contents.items():
        written = lists.write(
            engine,
            kind,
            version,
            lambda keys_by_owner=keys_by_owner: [_block(keys_by_owner)],
            dataset=f"dataset/{version}",
            made_by="tests",
            sources=[f"{kind} model"],
        )
        manifest[kind] = written.list_version_id
    with engine.begin() as connection:
        fence = connection.execute(sa.text("select fence + 1 from publication_pointer for update")).scalar_one()
        publication_id = connection.execute(
            sa.insert(tables.publications)
            .values(
                status="published",
                dataset=f"dataset/{version}",
                manifest=manifest,
                models={"als": f"als/{version}", **(models or {})},
                fence=fence,
            )
            .returning(tables.publications.c.publication_id)
        ).scalar_one()
        point_at(connection, publication_id, fence)
    return int(publication_id)


def point_at(connection: sa.Connection, publication_id: int, fence: int) -> None:
    connection.execute(
        sa.update(tables.publication_pointer).values(
            publication_id=publication_id, fence=fence, moved_at=sa.func.clock_timestamp()
        )
    )


def _block(keys_by_owner: Mapping[int, Sequence[int]]) -> Lists:
    width = max(len(keys) for keys in keys_by_owner.values())
    item_key = np.full((len(keys_by_owner), width), -1, dtype=np.int32)
    for row, keys in enumerate(keys_by_owner.values()):
        item_key[row, : len(keys)] = list(keys)
    score = np.tile(np.linspace(1, 0.1, width, dtype=np.float32), (len(keys_by_owner), 1))
    return Lists(np.array(list(keys_by_owner), dtype=np.int32), item_key, score, np.zeros(item_key.shape, np.int16))


def _history(done_by_user: Mapping[int, Sequence[tuple[int, str, float]]]) -> Lists:
    block = _block({user: [item for item, _, _ in done] for user, done in done_by_user.items()})
    for row, done in enumerate(done_by_user.values()):
        for place, (_, kind, days_ago) in enumerate(done):
            block.score[row, place] = time.time() / 86_400 - days_ago
            block.source[row, place] = EVENT_TYPES.index(kind)
    return block


@contextmanager
def served(database_url: str, engine: sa.Engine) -> Iterator[httpx.Client]:
    """A client of a service that is ready, with the shop and its first publication."""
    stock(engine)
    publish(engine, "v1", FIRST)
    with running_service(database_url) as client:
        wait_until(lambda: is_ready(client), 10)
        yield client


def answered(client: httpx.Client, route: str, model: type[BaseModel], **request: Any) -> dict[str, Any]:
    """The answer to a request that is to succeed, in the form that the documentation promises."""
    response = client.post(route, json=request)
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    model.model_validate(body)
    return body


def recommended(client: httpx.Client, **request: Any) -> dict[str, Any]:
    """Of /recommend."""
    return answered(client, "/recommend", RecommendAnswer, **request)


@contextmanager
def running_service(
    database_url: str,
    *,
    may_die: bool = False,
    log_file: Path | None = None,
    module: Sequence[str] = ("fast_api_service",),
    **environment: str,
) -> Iterator[httpx.Client]:
    """The service as its users start it, on a free port of this machine; a client of it, with its `process`.

    It logs to `log_file`, or to where the tests do.
    """
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # patient, because the machine may be busy; the promise of 5 s is kept all the same
    settings = {"API_PORT": str(port), "API_DEADLINE_MS": "5000", "DATABASE_URL": database_url} | environment
    call = [sys.executable, "-m", *module]
    with log_file.open("ab") if log_file else nullcontext() as output:
        process = subprocess.Popen(call, env=os.environ | settings, stderr=output)
    try:
        # POSTs without a body need a header that forms cannot send
        headers = {"x-requested-with": "tests"}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, headers=headers) as client:
            wait_until(lambda: _answers(client) or process.poll() is not None, 60)
            assert process.poll() is None, "the service ended by itself"
            client.process = process  # type: ignore[attr-defined]
            yield client
    finally:
        process.terminate()
        assert process.wait(20) in ((0, -15, -9) if may_die else (0, -15))


def wait_until(condition: Any, timeout_s: float) -> float:
    """Seconds until `condition()` is true; fails after `timeout_s`."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < timeout_s, f"it did not come true within {timeout_s} s"
        time.sleep(0.05)
    return time.monotonic() - started


def is_ready(client: httpx.Client) -> bool:
    return client.get("/ready").status_code == 200


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/health").status_code == 200
    except httpx.TransportError:
        return False


def with_ids(value: Any, field: str = "") -> Any:
    """A value of an example of the document, whose ids stand for any, with ids of this shop in their place."""
    first = {"user": 500, "item": 1000, "category": 901}.get(ENTITY_BY_FIELD.get(field, ""), 0)
    if isinstance(value, dict):
        return {name: with_ids(one, name) for name, one in value.items()}
    if isinstance(value, list):
        return [with_ids(one, field) for one in value]
    return first + value if first and isinstance(value, int) and value < 100 else value


def put(client: httpx.Client, path: str, expected: int = 200, /, **body: Any) -> dict[str, Any]:
    response = client.put(path, json=body)
    assert response.status_code == expected, response.text
    answer: dict[str, Any] = response.json()
    assert answer["success"] == (expected < 400)
    return answer


def row_of(engine: sa.Engine, table: sa.Table, id_: str) -> Any:
    with engine.connect() as connection:
        return connection.execute(sa.select(table).where(list(table.c)[1] == id_)).mappings().one()


def count(engine: sa.Engine, what: str) -> int:
    with engine.connect() as connection:
        return int(connection.execute(sa.text(f"select count(*) from {what}")).scalar_one())
