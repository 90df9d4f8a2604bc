"""What an event type is called here: the usual words for one action, and the one that this shop's data declare."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from recsys.action import AGAINST, interest_of

DEFAULT_TYPE: Final = "view"  # of an event that names none, where the shop has such a type
BOUGHT: Final = "bought"  # of the synonyms, the row that stands for what the data declare as bought
SYNONYMS: Final[Mapping[str, tuple[str, ...]]] = {
    BOUGHT: ("transaction", "purchase", "order", "buy", "checkout", "sale"),
    "addtocart": ("cart", "add_to_cart", "add-to-cart", "add_cart", "basket", "add_to_basket"),
    "view": ("click", "pageview", "page_view", "page-view", "view_item", "product_view", "detail"),
}


class EventNames:
    """Which name an event type is stored under.

    A type that is declared stays what it is, whatever the case of its letters. Of the others, those of one row of
    `synonyms` mean the same: its declared name, the first one where there are several; in the row BOUGHT, one that is
    declared as bought, and where the row names none, the only type that is. What is found nowhere stays as it was
    posted.

    `seen` is the type that a look stands for where none is named: the shop's view, or its lightest type with a positive
    weight in `weights`. `default`, that of posted events without a type, is never one that is bought: nobody has
    bought what they may only have looked at.
    """

    def __init__(
        self,
        declared: Iterable[str],
        bought: Iterable[str],
        synonyms: Mapping[str, Iterable[str]] = SYNONYMS,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        self.bought = tuple(bought)
        self.declared = tuple(dict.fromkeys((*declared, *self.bought)))
        self._stored: dict[str, str] = {}
        for row, others in synonyms.items():
            names = [name.casefold() for name in (row, *others)]
            candidates = self.bought if row == BOUGHT else self.declared
            by_fold = {name.casefold(): name for name in reversed(candidates)}
            here = [by_fold[name] for name in names if name in by_fold]
            here += self.bought if row == BOUGHT and len(self.bought) == 1 else []
            if here:
                self._stored |= dict.fromkeys(names, here[0])
        for name in (*AGAINST, *reversed(self.declared)):
            self._stored[name.casefold()] = name
        self._exact = {name: name for name in (*AGAINST, *self.declared)}
        self._meant = {*AGAINST, *self.bought, *(self.declared if weights is None else weights)}
        self.seen = self.default = self.stored(DEFAULT_TYPE)
        if weights is not None and self.seen not in weights:
            positive = sorted((name for name in weights if interest_of(name, weights) > 0), key=weights.__getitem__)
            self.seen = next(iter(positive), self.seen)
            self.default = next((name for name in positive if name not in self.bought), self.default)

    def stored(self, name: str) -> str:
        """The name under which an event of this type is stored."""
        return self._exact.get(name) or self._stored.get(name.casefold(), name)

    def has_meaning(self, name: str) -> bool:
        """Whether a stored name has a weight in force, is bought, or speaks against the item anyway."""
        return name in self._meant


AS_POSTED: Final = EventNames((), (), {})
