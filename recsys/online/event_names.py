"""What an event type is called here: the usual words for one action, and the one that this shop's data declare."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from recsys.action import AGAINST

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
    """

    def __init__(
        self, declared: Iterable[str], bought: Iterable[str], synonyms: Mapping[str, Iterable[str]] = SYNONYMS
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

    def stored(self, name: str) -> str:
        """The name under which an event of this type is stored."""
        return self._exact.get(name) or self._stored.get(name.casefold(), name)

    def has_meaning(self, name: str) -> bool:
        """Whether a stored name has a weight here, or speaks against the item anyway."""
        return name in self._exact


AS_POSTED: Final = EventNames((), (), {})
