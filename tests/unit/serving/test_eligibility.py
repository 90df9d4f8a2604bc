from hypothesis import example, given
from hypothesis import strategies as st

from recsys.serving import eligibility
from recsys.serving.catalogue import ItemDictionary
from recsys.serving.eligibility import NumberRange, Restriction


def items_of(*categories: int | None) -> ItemDictionary:
    """Items 1, 2, 3 … of these categories, with their key as the price."""
    items = ItemDictionary("integer")
    for key, category in enumerate(categories, 1):
        items.add(key, str(key), category, True, {"price": float(key)})
    return items


def shown(items: ItemDictionary, unwanted: set[int], restriction: Restriction, quota: int | None, n: int) -> list[int]:
    """What fills up an answer that shows items 3 and 4 already."""
    may = eligibility.allowed(items, unwanted, restriction)
    may = may if quota is None else eligibility.within_quota(may, items, quota)
    taken = [key for key in (4, 3)[:n] if may(key)]
    return [key for key in eligibility.newest(items, unwanted, restriction, quota) if key not in taken and may(key)]


def test_what_is_shown_or_unwanted_already_does_not_use_up_what_fills_an_answer() -> None:
    items = items_of(7, 7, 7, 7, 7, 8)
    assert shown(items, set(), Restriction(), 3, 2) == [6, 5]  # 4, 3, and one more of category 7
    assert shown(items, set(), Restriction(), 4, 2) == [6, 5, 2]
    assert shown(items, {5, 4, 3}, Restriction(), 2, 0) == [6, 2, 1]
    assert shown(items, {6}, Restriction(ranges=(NumberRange("price", 2, 4),)), None, 0) == [4, 3, 2]


categories = st.lists(st.none() | st.integers(1, 3), min_size=1, max_size=25)


@given(categories, st.integers(1, 4), st.randoms(use_true_random=False))
@example([7, 7], 1, None)
def test_a_quota_lets_exactly_so_many_of_each_category_through(
    of: list[int | None], quota: int, chance: object
) -> None:
    """Whoever comes first, and not one more; those without a category all."""
    items, keys = items_of(*of), list(range(1, len(of) + 1))
    if chance is not None:
        chance.shuffle(keys)  # type: ignore[attr-defined]
    may = eligibility.within_quota(eligibility.allowed(items, set()), items, quota)
    shown_keys = [key for key in keys if may(key)]
    for category in set(of):
        mine = [key for key in keys if of[key - 1] == category]
        assert [key for key in shown_keys if of[key - 1] == category] == (mine if category is None else mine[:quota])
    n = sum(min(of.count(one), quota) if one is not None else of.count(None) for one in set(of))
    assert eligibility.n_possible(keys, eligibility.allowed(items, set()), items, quota) == len(shown_keys) == n
    assert len(eligibility.newest(items, set(), Restriction(), quota)) == n


def test_items_without_a_category_have_no_quota() -> None:
    items = items_of(None, None, 7, None, 7)
    assert shown(items, set(), Restriction(), 1, 0) == [5, 4, 2, 1]


def test_a_category_that_is_left_out_is_left_out_of_those_asked_for() -> None:
    items, restriction = items_of(1, 2, 3), Restriction({1, 2}) & Restriction(without=frozenset({2}))
    may = eligibility.allowed(items, set(), restriction)
    assert [key for key in range(-1, 6) if may(key)] == eligibility.newest(items, set(), restriction) == [1]
    only_left_out = eligibility.allowed(items, set(), Restriction(without=frozenset({2})))
    assert [key for key in range(6) if only_left_out(key)] == [1, 3]


def test_two_restrictions_hold_together() -> None:
    both = Restriction({1, 2}, ranges=(NumberRange("a", 0, 1),)) & Restriction({2, 3}, ranges=(NumberRange("b", 0, 1),))
    assert both == Restriction({2}, ranges=(NumberRange("a", 0, 1), NumberRange("b", 0, 1)))
    assert Restriction() & both == both & Restriction() == both


def test_a_property_that_is_not_held_matches_nothing() -> None:
    items, restriction = items_of(1, 2), Restriction(ranges=(NumberRange("weight", 0, 9),))
    assert not eligibility.allowed(items, set(), restriction)(1)
    assert eligibility.newest(items, set(), restriction) == []
