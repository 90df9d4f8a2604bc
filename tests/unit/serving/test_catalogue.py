import gc
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import InputError
from recsys.serving.catalogue import NO_CATEGORY, CategoryTree, ItemDictionary


@given(st.dictionaries(st.integers(0, 500), st.tuples(st.none() | st.integers(0, 9), st.booleans()), max_size=40))
def test_the_dictionary_answers_as_a_plain_dict_would(rows: dict[int, tuple[int | None, bool]]) -> None:
    items = ItemDictionary("string")
    for key, (category, available) in rows.items():
        items.add(key, f"item-{key}", category, available)
    assert len(items) == len(rows)
    assert items.n_available == sum(available for _, available in rows.values())
    assert list(items.newest_available()) == sorted((k for k, row in rows.items() if row[1]), reverse=True)
    for key in range(-2, 510):
        assert items.is_available(key) == (key in rows and rows[key][1])
        if key in rows:
            assert items.key(items.id(key)) == key
            assert items.category(key) == (NO_CATEGORY if rows[key][0] is None else rows[key][0])
        else:
            assert items.key(f"item-{key}") is None
            with pytest.raises(KeyError):
                items.id(key)


@given(st.lists(st.tuples(st.integers(0, 20), st.none() | st.tuples(st.none() | st.integers(0, 9), st.booleans()))))
def test_a_dictionary_that_changes_in_place_is_the_one_of_the_last_rows(
    changes: list[tuple[int, tuple[int | None, bool] | None]],
) -> None:
    changed, last = ItemDictionary("string"), dict(changes)
    for key, row in changes:
        if row is None:
            changed.remove(key)
        else:
            changed.add(key, f"item-{key}", *row)
    fresh = ItemDictionary("string")
    for key, row in last.items():
        if row is not None:
            fresh.add(key, f"item-{key}", *row)
    assert (len(changed), changed.n_available) == (len(fresh), fresh.n_available)
    assert list(changed.newest_available()) == list(fresh.newest_available())
    for key in range(22):
        assert changed.is_available(key) == fresh.is_available(key)
        assert changed.key(f"item-{key}") == fresh.key(f"item-{key}") == (key if last.get(key) else None)


def test_ids_are_given_in_the_type_of_the_catalogue() -> None:
    items = ItemDictionary("integer")
    items.add(1, "461686", None, True)
    assert items.id(1) == 461686
    assert items.key(461686) == 1
    with pytest.raises(InputError, match="not an integer"):
        items.add(2, "corn_field_3", None, True)


def test_a_category_holds_all_below_it_and_knows_all_above_it() -> None:
    tree = CategoryTree("string", {1: "a", 2: "b", 3: "c", 4: "d"}, {1: None, 2: 1, 3: 2, 4: 1})
    assert tree.subtree(1) == {1, 2, 3, 4}
    assert tree.subtree(2) == {2, 3}
    assert tree.lineage(3) == [3, 2, 1]
    assert tree.key("d") == 4
    assert tree.key("e") is None


def test_a_cycle_of_categories_is_walked_once() -> None:
    tree = CategoryTree("string", {1: "a", 2: "b"}, {1: 2, 2: 1})
    assert tree.lineage(1) == [1, 2]
    assert tree.subtree(1) == {1, 2}


def test_a_former_tree_is_freed_without_the_garbage_collector() -> None:
    tree = CategoryTree("string", {1: "a", 2: "b"}, {1: None, 2: 1})
    assert tree.below(("a",)) == ({1, 2}, ())
    former = weakref.ref(tree)
    gc.disable()
    try:
        del tree
        assert former() is None
    finally:
        gc.enable()
