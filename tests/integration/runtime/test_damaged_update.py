"""A damaged or missing update of the model: workers stay at the last good one, quietly, until there is a better one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import sqlalchemy as sa

from recsys.artifacts import ArtifactStore
from recsys.serving.update import KIND, WEIGHTS, Update, chained, checksum_of
from recsys.storage import tables
from tests.integration import serving_shop as shop
from tests.integration import tiny_model

MODEL = "deepfm/v1"
LAST = 70  # more after the base than are read at a time
PAIR = {"user_id": 501, "item_id": 1001}


class Chain:
    """Updates as the updater commits them; each raises the bias of item 1."""

    def __init__(self, engine: sa.Engine, root: Path) -> None:
        self._engine, self._store, self.root = engine, ArtifactStore(str(root)), root
        self._chain: str | None = None
        self._number = 0

    def forget(self, after: int) -> None:
        """Take back what was committed after an update, so that others can be in its place."""
        table = tables.model_updates
        with self._engine.begin() as connection:
            connection.execute(sa.delete(table).where(table.c.number > after))
            self._chain = connection.execute(sa.select(table.c.chain).where(table.c.number == after)).scalar_one()
        for number in range(after + 1, self._number + 1):
            self._store.delete(f"{KIND}/{number}-1")
        self._number = after

    def add(self, update: Update | None = None, *, is_base: bool = False, bias: float | None = None) -> None:
        """Commit the next one."""
        self._number += 1
        if update is None:
            row = np.array([[-1, self._number / 50 if bias is None else bias]], dtype=np.float32)
            update = Update(rows={"item_fields/table": np.array([1])}, values={"item_fields/table": row})
        with self._store.writing(KIND, f"{self._number}-1", made_by="tests") as (folder, _):
            update.write(folder / WEIGHTS)
        parent = None if is_base else self._chain
        manifest = self._store.manifest(f"{KIND}/{self._number}-1")
        self._chain = chained(parent, MODEL, checksum_of(manifest))
        values: dict[str, Any] = {"number": self._number, "base": MODEL, "is_base": is_base, "parent": parent}
        values |= {"artifact": manifest.ref, "chain": self._chain, "log": "postgres", "after": "", "n_events": 1}
        with self._engine.begin() as connection:
            connection.execute(sa.insert(tables.model_updates).values(**values, fence=1))


@pytest.fixture
def chain(clean_database: sa.Engine, tmp_path: Path) -> Chain:
    root = tmp_path / "artifacts"
    tiny_model.write(root, "v1")
    shop.stock(clean_database)
    shop.publish(clean_database, "v1", shop.FIRST, {"deepfm": MODEL})
    made = Chain(clean_database, root)
    made.add(is_base=True)
    for _ in range(LAST - 1):
        made.add()
    return made


@pytest.fixture
def start(clean_database_url: str, chain: Chain, tmp_path: Path) -> Any:
    def service() -> Any:
        return shop.running_service(
            clean_database_url, log_file=tmp_path / "service.log", ARTIFACT_ROOT=str(chain.root)
        )

    return service


def online(client: httpx.Client) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/model/info").json()["scorer"]["online"]
    return found


def probability(client: httpx.Client) -> float:
    found: float = client.post("/predict", json=PAIR).json()["predictions"][0]["probability"]
    return found


def metric(client: httpx.Client, name: str) -> float:
    [line] = [line for line in client.get("/metrics").text.splitlines() if line.startswith(f"{name} ")]
    return float(line.split()[-1])


def samples(client: httpx.Client, n: int) -> Iterator[float]:
    for _ in range(n):
        yield probability(client)


def test_a_damaged_update_changes_nothing_and_is_taken_when_it_is_whole(
    chain: Chain, start: Any, tmp_path: Path
) -> None:
    damaged = chain.root / KIND / f"{LAST}-1" / WEIGHTS
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with start() as client:
        shop.wait_until(lambda: shop.is_ready(client), 10)
        shop.wait_until(lambda: tiny_model.in_service(client) == MODEL, 20)
        shop.wait_until(lambda: online(client)["update"] == LAST - 1 and online(client)["problem"], 20)
        before = probability(client)
        seen, problems, n = set(), set(), 0

        def looked() -> bool:
            nonlocal n
            seen.update(samples(client, 5))
            problems.add(online(client)["problem"])
            n += 1
            return n >= 150  # some seven seconds: it is tried again meanwhile

        shop.wait_until(looked, 60)
        assert seen == {before}
        assert len(problems) == 1
        assert "damaged" in problems.pop()
        assert metric(client, "recsys_model_update_failures_total") == 1
        assert metric(client, "recsys_model_update_reloads_total") == 0
        warnings = [line for line in (tmp_path / "service.log").read_text().splitlines() if "cannot be applied" in line]
        assert len(warnings) == 1
        with start() as other:  # it stays there as well
            shop.wait_until(lambda: shop.is_ready(other), 10)
            shop.wait_until(lambda: tiny_model.in_service(other) == MODEL, 20)
            shop.wait_until(lambda: online(other)["update"] == LAST - 1 and online(other)["problem"], 20)
            assert probability(other) == before
        damaged.write_bytes(content)
        shop.wait_until(lambda: online(client)["update"] == LAST, 20)
        assert online(client)["problem"] is None
        assert probability(client) > before


def test_a_missing_one_is_passed_by_a_later_base(chain: Chain, start: Any) -> None:
    (chain.root / KIND / f"{LAST}-1" / WEIGHTS).unlink()
    with start() as client:
        shop.wait_until(lambda: shop.is_ready(client), 10)
        shop.wait_until(lambda: tiny_model.in_service(client) == MODEL, 20)
        shop.wait_until(lambda: online(client)["update"] == LAST - 1 and online(client)["problem"], 20)
        before = probability(client)
        chain.add()  # one after it is not taken
        chain.add(is_base=True, bias=5.0)
        shop.wait_until(lambda: online(client)["update"] == LAST + 2, 10)
        assert online(client)["problem"] is None
        assert probability(client) > before


def test_one_that_does_not_fit_is_not_half_taken(chain: Chain, start: Any) -> None:
    with start() as client:
        shop.wait_until(lambda: shop.is_ready(client), 10)
        shop.wait_until(lambda: online(client)["update"] == LAST, 20)
        before = probability(client)
        table = np.zeros((tiny_model.N_KNOWN + 1, 2), dtype=np.float32)
        chain.add(Update(dense={"item_fields/table": table, "no/such": np.zeros(3, dtype=np.float32)}))
        shop.wait_until(lambda: "does not fit" in str(online(client)["problem"]), 20)
        assert online(client)["update"] == LAST
        assert probability(client) == before


def test_a_gap_is_told_and_waited_for(chain: Chain, start: Any, clean_database: sa.Engine) -> None:
    with clean_database.begin() as connection:
        connection.execute(sa.text("create table kept as select * from model_updates where number = 4"))
        connection.execute(sa.text("delete from model_updates where number = 4"))
    with start() as client:
        shop.wait_until(lambda: shop.is_ready(client), 10)
        shop.wait_until(lambda: "those between are missing" in str(online(client)["problem"]), 20)
        assert online(client)["update"] == 3
        assert metric(client, "recsys_model_update_reloads_total") == 1
        with clean_database.begin() as connection:
            connection.execute(sa.text("insert into model_updates select * from kept"))
        shop.wait_until(lambda: online(client)["update"] == LAST, 20)
        assert online(client)["problem"] is None


def test_who_went_another_way_takes_the_right_one_over_at_once(chain: Chain, start: Any) -> None:
    with start() as client:
        shop.wait_until(lambda: shop.is_ready(client), 10)
        shop.wait_until(lambda: online(client)["update"] == LAST, 20)
        before = probability(client)
        chain.forget(LAST - 5)
        for _ in range(8):
            chain.add(bias=4.0)
        seen = set()

        def is_there() -> bool:
            seen.update(samples(client, 5))
            return online(client)["update"] == LAST + 3

        shop.wait_until(is_there, 20)
        assert online(client)["problem"] is None
        after = probability(client)
        assert after > before
        assert seen <= {before, after}, "the updates before it were seen being taken over again"
        assert metric(client, "recsys_model_update_reloads_total") == 1
        with start() as other:
            shop.wait_until(lambda: shop.is_ready(other), 10)
            shop.wait_until(lambda: online(other)["chain"] == online(client)["chain"], 20)
            assert probability(other) == after
