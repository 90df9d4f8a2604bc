"""Rolling back, pruning, erasing and verifying what was published."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from recsys.errors import (
    FencedError,
    NotFoundError,
    PublicationError,
)
from recsys.storage import publications
from recsys.storage.pruning import erase, prune
from recsys.storage.tables import items, list_versions
from tests.integration.nights import lists_world as world
from tests.integration.nights.lists_world import execute, partitions


@pytest.fixture
def shop(clean_database: sa.Engine) -> sa.Engine:
    world.add_items(clean_database)
    return clean_database


def test_rollback_withdraws_goes_back_and_shuts_out_whoever_is_publishing(shop: sa.Engine) -> None:
    one, two, three = (world.publish(shop, edition) for edition in (1, 2, 3))
    fence = publications.read_fence(shop)
    assert publications.rollback(shop).publication_id == two.publication_id
    with pytest.raises(FencedError):
        world.publish(shop, 4, fence=fence)
    assert publications.rollback(shop).publication_id == one.publication_id
    with pytest.raises(NotFoundError, match="go back to"):
        publications.rollback(shop)
    assert [p.status for p in publications.newest(shop)] == ["withdrawn", "withdrawn", "published"]
    assert publications.rollback(shop, to=three.publication_id).manifest == three.manifest
    assert publications.rollback(shop).publication_id < three.publication_id
    with pytest.raises(PublicationError, match="the current one already"):
        publications.rollback(shop, to=one.publication_id)
    with pytest.raises(NotFoundError, match="no publication 99"):
        publications.rollback(shop, to=99)


def test_pruning_keeps_what_can_still_serve(shop: sa.Engine) -> None:
    published = [world.publish(shop, edition) for edition in range(1, 6)]
    waiting = world.write(shop, "personal", 9)
    execute(
        shop,
        "insert into list_versions (kind, version, dataset, made_by, status, sources)"
        " values ('personal', 'killed', 'd', 't', 'writing', '{}')",
    )
    dropped = prune(shop, keep=2)
    assert set(dropped) == {i for p in published[:2] for i in p.manifest.values()}
    kept = {i for p in published[2:] for i in p.manifest.values()}
    assert partitions(shop) == kept | {waiting.list_version_id}
    with shop.connect() as connection:
        assert (
            connection.scalars(sa.select(list_versions.c.version).where(list_versions.c.status == "writing")).all()
            == []
        )
    assert [p.status for p in publications.newest(shop)] == ["published"] * 3 + ["pruned"] * 2
    with pytest.raises(PublicationError, match="pruned"):
        publications.rollback(shop, to=published[0].publication_id)
    assert publications.rollback(shop, to=published[2].publication_id).manifest == published[2].manifest
    assert prune(shop, keep=2) == []
    assert publications.verify(shop).keys() == set(world.KINDS)


def test_pruning_gives_way_to_a_reader_that_does_not_end(shop: sa.Engine) -> None:
    for edition in range(1, 4):
        world.publish(shop, edition)
    before = partitions(shop)
    with shop.connect() as reader:
        reader.execute(sa.text("select count(*) from lists")).scalar_one()
        assert prune(shop, keep=1) == []
        assert partitions(shop) == before
    assert len(prune(shop, keep=1)) == 3


def test_erasing_starts_over_and_shuts_out_publishers(shop: sa.Engine) -> None:
    world.publish(shop, 1)
    fence = publications.read_fence(shop)
    with shop.begin() as connection:
        erase(connection)
    assert (publications.current(shop), publications.newest(shop), partitions(shop)) == (None, [], set())
    with pytest.raises(FencedError):
        world.publish(shop, 1, fence=fence)
    assert world.publish(shop, 1).status == "published"


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("scores[2] = 'nan'", "not finite"),
        ("scores[2] = 7", "do not descend"),
        ("item_keys[2] = item_keys[1]", "hold an item twice"),
        ("item_keys[1] = 61", "differ from what was written"),
        ("sources[1] = 4", "source outside"),
        ("item_keys = '{}', scores = '{}', sources = '{}'", "are empty"),
        ("scores = scores[1:3]", "unequal length"),
        ("item_keys[2] = null", "nulls"),
    ],
)
def test_verify_finds_damage_in_stored_rows(shop: sa.Engine, damage: str, reason: str) -> None:
    published = world.publish(shop, 1)
    publications.verify(shop)
    execute(
        shop,
        f"update lists set {damage} where owner_key = 5 and list_version_id = :id",
        id=published.manifest["similar"],
    )
    with pytest.raises(PublicationError, match=reason):
        publications.verify(shop, published.publication_id)


def test_verify_finds_items_that_went_away(shop: sa.Engine) -> None:
    world.publish(shop, 1)
    with shop.begin() as connection:
        connection.execute(sa.update(items).where(items.c.item_key == 3).values(available=False))
    with pytest.raises(PublicationError, match=r"1 items are not available, e\.g\. item 3"):
        publications.verify(shop)


def test_what_the_shop_took_away_by_api_meanwhile_hinders_no_publication(shop: sa.Engine) -> None:
    execute(shop, "update items set available = false, told_at = now() where item_key in (7, 9)")
    execute(shop, "update items set available = false, told_at = now(), deleted_at = now() where item_key = 11")
    published = world.publish(shop, 1)
    assert set(publications.verify(shop)) == set(published.manifest)
