"""Words for yes and no, as shops write whether an item can be had."""

from __future__ import annotations

import re
from typing import Final

YES: Final = (
    "1", "true", "t", "yes", "y", "on", "available", "in stock", "instock", "low stock", "limited availability",
    "limitedavailability", "active", "enabled", "buyable", "preorder", "pre order", "backorder", "back order",
    "ja", "verfügbar", "lieferbar", "auf lager", "oui", "si", "sí", "disponible", "en stock",
)  # fmt: skip
NO: Final = (
    "0", "false", "f", "no", "n", "off", "unavailable", "not available", "notavailable", "out of stock", "outofstock",
    "oos", "not in stock", "notinstock", "sold out", "soldout", "inactive", "disabled", "discontinued", "archived",
    "deleted", "nein", "nicht verfügbar", "nicht lieferbar", "nicht auf lager", "ausverkauft", "non", "épuisé",
    "indisponible", "rupture de stock", "agotado", "no disponible",
)  # fmt: skip
NUMBER: Final = r"^n?[+-]?[0-9]+([.,][0-9]*)?$"  # compared with 0; n13.000 is how RetailRocket writes 13
SCHEMA_ORG: Final = "^https?://schema[.]org/"  # before InStock, OutOfStock …
BETWEEN: Final = "[\\s_-]+"  # words: one blank
_NUMBER = re.compile(NUMBER)


def flag(text: str) -> bool | None:
    """What a word or a number says; numbers above 0 are yes. None where it says neither."""
    word = re.sub(SCHEMA_ORG, "", text.strip().lower())
    if _NUMBER.match(word):
        return float(word.removeprefix("n").replace(",", ".")) > 0
    word = re.sub(BETWEEN, " ", word)
    return True if word in YES else False if word in NO else None
