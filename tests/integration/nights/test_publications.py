"""Publications on real Postgres: invariants, fence, rollback, pruning."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from recsys.errors import (
    EmptyResultError,
    FencedError,
    NewerDataError,
    NotFoundError,
    PublicationError,
    ShopReplacedError,
)
from recsys.storage import lists as list_store
from recsys.storage import publications
from recsys.storage.pruning import erase
from tests.integration.nights import lists_world as world
from tests.integration.nights.lists_world import execute, partitions


@pytest.fixture
def shop(clean_database: sa.Engine) -> sa.Engine:
    world.add_items(clean_database)
    return clean_database


def test_lists_are_written_once_and_found_again(shop: sa.Engine) -> None:
    written = world.write(shop, "personal", 1)
    assert (written.n_rows, written.n_items, written.sources) == (200, world.N_ITEMS, ("als",))
    assert list_store.find(shop, "personal", "edition-1") == written

    def not_again() -> list[object]:
        raise AssertionError

    again = list_store.write(
        shop, "personal", "edition-1", not_again, dataset="dataset/1", made_by="test", sources=["als"]
    )
    assert again == written
    expected = [
        (int(block.owner_key[i]), block.item_key[i].tolist(), block.score[i].tolist(), block.source[i].tolist())
        for block in world.make(1)
        for i in range(len(block))
    ]
    assert world.contents(shop, written) == expected


def test_a_writer_that_fails_leaves_nothing_and_can_come_again(shop: sa.Engine) -> None:
    def breaks() -> object:
        yield from list(world.make(1))[:2]
        raise ZeroDivisionError

    for error, make in ((ZeroDivisionError, breaks), (EmptyResultError, lambda: [])):
        with pytest.raises(error):
            list_store.write(shop, "personal", "edition-1", make, dataset="d", made_by="t", sources=["als"])
        assert list_store.find(shop, "personal", "edition-1") is None
        assert partitions(shop) == set()
    assert world.write(shop, "personal", 1).n_rows == 200


def test_no_transaction_is_open_while_lists_are_computed(shop: sa.Engine) -> None:
    """A long one keeps dead rows of all tables, and many servers end it."""
    name = shop.url.database
    execute(shop, f'alter database "{name}" set idle_in_transaction_session_timeout = 300')
    shop.dispose()
    states: list[str] = []

    def slowly() -> object:
        for block in world.make(1):
            yield block
            time.sleep(0.5)
            with shop.connect() as connection:
                others = "where datname = current_database() and pid <> pg_backend_pid() and xact_start is not null"
                states.extend(connection.scalars(sa.text(f"select state from pg_stat_activity {others}")))
            assert list_store.find(shop, "personal", "edition-1") is None

    about = {"dataset": "d", "made_by": "t", "sources": ["als"]}
    assert list_store.write(shop, "personal", "edition-1", slowly, **about).n_rows == 200
    assert [state for state in states if state != "active"] == []  # autovacuum may be at work


def test_lists_of_a_shop_that_is_replaced_meanwhile_do_not_come_into_the_next(shop: sa.Engine) -> None:
    def replaced() -> object:
        yield from world.make(1)
        with shop.begin() as connection:
            erase(connection)

    with pytest.raises(ShopReplacedError, match="emptied"):
        list_store.write(shop, "personal", "edition-1", replaced, dataset="d", made_by="t", sources=["als"])
    assert list_store.find(shop, "personal", "edition-1") is None
    assert partitions(shop) == set()


def test_nothing_is_published_at_first(shop: sa.Engine) -> None:
    assert publications.current(shop) is None
    with pytest.raises(NotFoundError, match="nothing has been published"):
        publications.rollback(shop)
    with pytest.raises(NotFoundError, match="nothing has been published"):
        publications.verify(shop)


def test_kinds_and_models_that_are_not_named_stay(shop: sa.Engine) -> None:
    first = world.publish(shop, 1)
    newer = world.write(shop, "default", 2)
    second = publications.publish(
        shop, {"default": newer.list_version_id}, publications.read_fence(shop), dataset="d2", models={"ranker": "r/2"}
    )
    assert second.manifest == {**first.manifest, "default": newer.list_version_id}
    assert second.models == {"edition": "1", "ranker": "r/2"}
    assert publications.current(shop) == second
    assert set(publications.verify(shop)) == set(world.KINDS)


def test_publishing_again_what_is_published_changes_nothing(shop: sa.Engine) -> None:
    assert world.publish(shop, 1).publication_id == world.publish(shop, 1).publication_id
    assert len(publications.newest(shop)) == 1


def unavailable(shop: sa.Engine) -> dict[str, int]:
    manifest = {"personal": world.write(shop, "personal", 2).list_version_id}
    execute(shop, "update items set available = false where item_key in (7, 9)")  # after they were written
    return manifest


def unknown(shop: sa.Engine) -> dict[str, int]:
    return {"personal": world.write(shop, "personal", 2, n_items=world.N_ITEMS + 5).list_version_id}


def half_the_owners(shop: sa.Engine) -> dict[str, int]:
    return {"personal": world.write(shop, "personal", 2, n_owners=99).list_version_id}


def half_the_catalogue(shop: sa.Engine) -> dict[str, int]:
    return {"personal": world.write(shop, "personal", 2, n_items=29).list_version_id}


def lost_rows(shop: sa.Engine) -> dict[str, int]:
    version = world.write(shop, "personal", 2)
    execute(shop, "delete from lists where list_version_id = :id and owner_key < 3", id=version.list_version_id)
    return {"personal": version.list_version_id}


def another_kind(shop: sa.Engine) -> dict[str, int]:
    return {"personal": world.write(shop, "similar", 2).list_version_id}


def still_writing(shop: sa.Engine) -> dict[str, int]:
    version = world.write(shop, "personal", 2)
    execute(shop, "update list_versions set status = 'writing' where list_version_id = :id", id=version.list_version_id)
    return {"personal": version.list_version_id}


def no_list_of_all_items(shop: sa.Engine) -> dict[str, int]:
    version = world.write(shop, "default", 2)
    execute(
        shop,
        "update lists set owner_key = 1000 where owner_key = 0 and list_version_id = :id",
        id=version.list_version_id,
    )
    return {"default": version.list_version_id}


def short_list_of_all_items(shop: sa.Engine) -> dict[str, int]:
    blocks = [block.take(slice(None)) for block in world.make(2)]
    short = [type(b)(b.owner_key, b.item_key[:, :9], b.score[:, :9], b.source[:, :9]) for b in blocks]
    version = list_store.write(shop, "default", "short", lambda: short, dataset="d", made_by="t", sources=["als"])
    return {"default": version.list_version_id}


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (unavailable, r"personal: 2 items are not available, e\.g\. item 7, item 9 \(item keys \[7, 9\]\)"),
        (unknown, r"personal: 5 items are not in the catalogue, e\.g\. item keys \[61, 62, 63\]"),
        (half_the_owners, r"personal: 99 lists, only 50% of the 200 that are published now"),
        (half_the_catalogue, r"personal: 29 distinct items, only 48% of the 60"),
        (lost_rows, r"personal: 197 lists are stored of the 200 that were written"),
        (another_kind, "holds similar lists"),
        (still_writing, "no complete list version"),
        (lambda _: {"personal": 12345}, "no complete list version 12345"),
        (no_list_of_all_items, "no list over all items"),
        (short_list_of_all_items, "the list over all items holds 9 of at least 10"),
    ],
)
def test_each_broken_invariant_is_refused_and_the_old_keeps_serving(
    shop: sa.Engine, bad: Callable[[sa.Engine], dict[str, int]], reason: str
) -> None:
    before = world.publish(shop, 1)
    manifest = bad(shop)
    with pytest.raises(PublicationError, match=reason):
        publications.publish(shop, manifest, publications.read_fence(shop), dataset="d", min_share=0.5)
    assert publications.current(shop) == before
    assert len(publications.newest(shop)) == 1


def test_a_first_publication_needs_lists_and_default_lists(shop: sa.Engine) -> None:
    fence = publications.read_fence(shop)
    with pytest.raises(PublicationError, match="at least one kind"):
        publications.publish(shop, {}, fence, dataset="d")
    personal = world.write(shop, "personal", 1).list_version_id
    with pytest.raises(PublicationError, match="no default lists"):
        publications.publish(shop, {"personal": personal}, fence, dataset="d")
    assert publications.current(shop) is None


def test_a_small_shop_needs_no_ten_items(shop: sa.Engine) -> None:
    execute(shop, "update items set available = false where item_key > 4")
    version = world.write(shop, "default", 1, n_items=4)
    manifest = {"default": version.list_version_id}
    assert publications.publish(shop, manifest, publications.read_fence(shop), dataset="d").manifest == manifest


def test_whoever_saw_an_older_state_of_the_pointer_is_refused(shop: sa.Engine) -> None:
    early, late = publications.read_fence(shop), publications.read_fence(shop)
    published = world.publish(shop, 2, fence=late)
    with pytest.raises(FencedError, match=f"fence {early} .* moved to {published.fence}"):
        world.publish(shop, 1, fence=early)
    assert publications.current(shop) == published


def test_who_publishes_nothing_shuts_nobody_out(shop: sa.Engine) -> None:
    fence = publications.read_fence(shop)
    publications.read_fence(shop)  # looks, and finds no lists
    personal = {"personal": world.write(shop, "personal", 3).list_version_id}
    with pytest.raises(PublicationError, match="no default lists"):
        publications.publish(shop, personal, fence, dataset="d")
    assert world.publish(shop, 1, fence=fence).status == "published"
    fence = publications.read_fence(shop)
    world.publish(shop, 1)  # is published already
    assert world.publish(shop, 2, fence=fence).status == "published"


OLD, NEW = "dataset/20260301T020000-aaaaaaaaaa", "dataset/20260311T020000-bbbbbbbbbb"


def publish_of(engine: sa.Engine, edition: int, dataset: str, kinds: tuple[str, ...] = world.KINDS, **more: Any) -> Any:
    """Publish lists whose versions say, as those of the steps do, when their data end."""
    version = f"{dataset.partition('/')[2].partition('-')[0]}-{edition:010}"
    manifest = {kind: world.write(engine, kind, edition, version).list_version_id for kind in kinds}
    return publications.publish(engine, manifest, publications.read_fence(engine), dataset=dataset, **more)


def test_newer_data_stay_unless_forced(shop: sa.Engine) -> None:
    newer = publish_of(shop, 1, NEW)
    with pytest.raises(NewerDataError, match=f"{NEW}.*stays; force publishes {OLD}"):
        publish_of(shop, 2, OLD)
    assert publications.current(shop) == newer
    assert publish_of(shop, 2, OLD, force=True).dataset == OLD


def test_newer_data_are_seen_under_the_lock(shop: sa.Engine) -> None:
    """Of two publishers at one moment the newer data win in the end, whoever comes first: the other one tries again."""
    for attempt in range(4):
        gate = threading.Barrier(2)

        def run(edition: int, dataset: str, gate: threading.Barrier = gate) -> None:
            gate.wait()
            while True:
                try:
                    publish_of(shop, edition, dataset)
                    return
                except NewerDataError:
                    return
                except FencedError:
                    continue

        month = attempt + 1
        days = [f"dataset/2026{month:02}{day:02}T020000-aaaaaaaaaa" for day in (1, 2)]
        threads = [threading.Thread(target=run, args=(10 * month + n, day)) for n, day in enumerate(days)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        current = publications.current(shop)
        assert current is not None
        assert current.dataset == days[1]


def test_personal_and_ranked_lists_that_are_too_old_leave_visibly(shop: sa.Engine) -> None:
    publish_of(shop, 1, OLD)
    others = tuple(kind for kind in world.KINDS if kind not in ("personal", "ranked"))
    kept = publish_of(shop, 2, NEW, others, max_age_days=10.0)
    assert set(kept.manifest) == set(world.KINDS)
    assert kept.checks["dropped"] == {}
    assert set(kept.checks["kept"]) == set(world.KINDS) - set(others)
    assert f"data end 10.0 days earlier: none were written for {NEW}" in kept.checks["kept"]["personal"]
    assert {kind: kept.checks["lists"][kind]["age_days"] for kind in ("default", "personal")} == {
        "default": 0.0,
        "personal": 10.0,
    }
    later = "dataset/20260312T020000-cccccccccc"
    dropped = publish_of(shop, 3, later, others, max_age_days=10.0)
    assert set(dropped.manifest) == set(others)
    assert set(dropped.checks["dropped"]) == set(world.KINDS) - set(others)
    assert "end 11.0 days before" in dropped.checks["dropped"]["personal"]
    publications.verify(shop)
    back = publish_of(shop, 4, "dataset/20260313T020000-dddddddddd", max_age_days=10.0)
    assert set(back.manifest) == set(world.KINDS)
