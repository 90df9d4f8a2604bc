"""Words for yes and no, as shops write whether an item can be had."""

from __future__ import annotations

import re
from typing import Final

YES: Final = (
    "1", "true", "t", "yes", "y", "on", "available", "in stock", "instock", "low stock", "limited availability",
    "limitedavailability", "active", "enabled", "buyable", "preorder", "pre order", "backorder", "back order",
    "buy now", "published", "live", "✓", "✔", "ja", "wahr", "verfügbar", "lieferbar", "sofort lieferbar", "auf lager",
    "oui", "vrai", "si", "sí", "sì", "verdadero", "disponible", "en stock", "disponibile", "vero", "sim", "verdadeiro",
    "disponível", "em estoque", "waar", "op voorraad", "beschikbaar", "tak", "prawda", "dostępny", "w magazynie",
    "да", "истина", "в наличии",
)  # fmt: skip
NO: Final = (
    "0", "false", "f", "no", "n", "off", "unavailable", "not available", "notavailable", "out of stock", "outofstock",
    "oos", "not in stock", "notinstock", "sold out", "soldout", "inactive", "disabled", "discontinued", "archived",
    "deleted", "nein", "nicht verfügbar", "nicht lieferbar", "nicht auf lager", "ausverkauft", "non", "épuisé",
    "temporarily unavailable", "unpublished", "draft", "hidden", "✗", "✘", "falsch", "momentan nicht verfügbar",
    "faux", "indisponible", "rupture de stock", "en rupture de stock", "falso", "agotado", "no disponible", "esaurito",
    "non disponibile", "não", "nao", "indisponível", "esgotado", "nee", "onwaar", "uitverkocht", "niet op voorraad",
    "nie", "fałsz", "niedostępny", "brak", "wyprzedany", "нет", "ложь", "нет в наличии",
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
