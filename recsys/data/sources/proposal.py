"""A column map for a file that nobody has described: by the names of its columns, and by what they hold."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from recsys.data.sources.formats import looks_like_data
from recsys.data.sources.numbers import decimal_of, read_numbers, votes
from recsys.data.sources.survey import Times
from recsys.data.sources.times import MONTH_FIRST
from recsys.data.sources.words import NOTHING
from recsys.errors import InputError
from recsys.ids import MAX_DIGITS

MAX_TYPES: Final = 40  # different values of a column of event types
# Names without marks and in lower case; the first that fits counts.
_NAMES: Final = {
    "user": (
        "userid user visitorid customerid visitor customer clientid client memberid member accountid "
        "reviewerid reviewer buyerid buyer uid kundennummer kundennr kundenid kunde customernumber personid "
        "klient klienta uzytkownik uzytkownika usuario cliente utilisateur client utente usuaria klant gebruiker "
        "comprador acheteur kupujacy пользователь клиент покупатель who sessionid usersession session"
    ),
    "item": (
        "itemid item productid product sku articleid article artikelnummer artikelnr artikelid artikel "
        "stockcode parentasin asin isbn movieid movie bookid book trackid songid track song artistid artid "
        "artist productcode offerid contentid videoid iid produkt produktu towar towaru producto articulo produit "
        "prodotto articolo produto artigo товар продукт артикул what"
    ),
    "timestamp": (
        "timestamp eventtime eventtimestamp datetime createdat created time ts at date eventdate orderdate "
        "invoicedate purchasedate unixreviewtime zeitpunkt zeitstempel bestelldatum zeit datum fecha "
        "fechahora fechayhora horodatage data datahora dataora tijdstip дата day timestampms when starttime playedat"
    ),
    "event": (
        "event eventtype eventname feedbacktype behaviortype behaviourtype behavior behaviour actiontype "
        "action actionname interactiontype interaction activity type did vorgang aktion ereignis ereignistyp typ "
        "aktivitat evenement typeevenement evento tipoevento tipo accion azione acao gebeurtenis actie zdarzenie"
    ),
    "value": (
        "value price unitprice rating stars score bookrating overall amount paid preis betrag bewertung revenue "
        "precio importe prix montant prezzo importo preco valor prijs bedrag cena kwota цена сумма"
    ),
    "transaction": (
        "transactionid transaction orderid order invoiceno invoice basketid basket bestellnummer bestellung "
        "rechnungsnummer"
    ),
    "time": (
        "timeframe time hour uhrzeit zeit timeofday eventtime clock purchasetime ordertime hora heure ora tijd "
        "godzina czas время"
    ),
}
NAMES: Final = {role: tuple(names.split()) for role, names in _NAMES.items()}
# Beside a usual name they only say that its values are ids: `id_produktu`, `user [id]`.
_OF_IDS: Final = frozenset(
    ["id", "ids", "nr", "no", "num", "number", "code", "key", "uuid", "kod", "codigo", "numero", "ref", "pseudo"]
)
# Words for what people do to an item, without marks and in lower case.
_WEIGHTS: Final = {
    1.0: (
        "view viewed views pageview click clicked pv detail impression visit visited open opened read play played "
        "stream seen listen detailview productview browse browsed angesehen ansicht gesehen betrachtet aufruf "
        "aufgerufen klick geklickt angeklickt besuch besucht gelesen gehort detailansicht vue vu consultation "
        "consulte visite clic affichage vista visto visita visualizacion visualizzazione visualizzato bekeken "
        "weergave visualizacao visualizado wyswietlenie просмотр"
    ),
    3.0: (
        "addtocart cart addcart addtobasket basket bag fav favorite favourite wishlist addtowishlist save saved "
        "bookmark share shared checkout warenkorb einkaufswagen merkzettel merkliste wunschliste gemerkt favorit "
        "panier favori favoris carrito cesta favorito carrello preferiti winkelwagen winkelmand carrinho koszyk "
        "корзина"
    ),
    5.0: (
        "transaction purchase purchases purchased buy buys bought order ordered sale sold like liked subscribe paid "
        "gekauft kauf kaufen bestellt bestellung bezahlt verkauf achat achete acheter commande vente paye compra "
        "comprado comprar pedido pagado venta acquisto acquistato ordine ordinato pagato gekocht aankoop besteld "
        "pago zakup kupiono покупка заказ"
    ),
}
_AGAINST: Final = (
    "remove refund return cancel dislike delete unlike negative skip abandon entfern storn retour rucksend ruckgabe "
    "zuruckg gelosch abgebrochen retire annul supprim rembours elimin devol rimoss rimuov reembols verwijder nicht"
)
AGAINST_WEIGHT: Final = 0.5
BOUGHT_WEIGHT: Final = 5.0
WEIGHT_BY_TYPE: Final = {word: weight for weight, words in _WEIGHTS.items() for word in words.split()}


_RATINGS: Final = frozenset(["rating", "ratings", "stars", "score", "bookrating", "overall", "bewertung"])


@dataclass
class Column:
    """One column of a sample: its values as text, null where empty."""

    name: str
    values: pa.Array
    type: pa.DataType | None = None  # of Parquet
    n_distinct: int = 0
    times: Times | None = None  # where most values make sense as times
    is_number: bool = False

    def __post_init__(self) -> None:
        filled = self.values.drop_null()
        self.n_distinct = len(pc.unique(filled))
        values = pc.unique(filled)
        self.is_number = bool(len(values)) and read_numbers(values, decimal_of(votes(values))).null_count == 0

    @property
    def plain(self) -> str:
        """The name without marks and in lower case."""
        return "".join(words_of(self.name))

    @property
    def different(self) -> list[str]:
        """The different values, each once."""
        return pc.unique(self.values.drop_null()).to_pylist()


def words_of(text: str) -> list[str]:
    """The words of a text, in lower case and without accents."""
    bare = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return re.findall(r"[^\W_]+", bare.casefold())


def has_no_header(first: Sequence[str]) -> bool:
    """Whether a first line is one of data: some of its values are numbers or dates, and none is a usual name."""
    usual = {name for names in NAMES.values() for name in names}
    plain = {"".join(words_of(cell)) for cell in first}
    return looks_like_data(first) and not plain & usual


def columns_for(columns: Sequence[Column], is_named: bool, given: Mapping[str, str] | None = None) -> dict[str, str]:
    """Roles → names of columns, as `given` or found; those for which nothing is found are missing."""
    given = given or {}
    free = list(columns)
    roles: dict[str, Column] = {}

    def take(role: str, column: Column | None) -> None:
        if column is not None:
            roles[role] = column
            free.remove(column)

    for role, name in given.items():
        take(role, next((column for column in free if column.name == name), None))
    if "timestamp" in given:
        if "timestamp" in roles:
            _as_times(roles["timestamp"])
    else:
        take("timestamp", _time(free, is_named))
    if is_named:
        for role in ("user", "item", "event", "transaction", "value"):
            if role not in given:
                take(role, _named(role, free))
        at = roles.get("timestamp")
        if "timestamp" not in given and at is not None and _holds_days_alone(at):
            take("time", _named("time", free) or next((column for column in free if _holds_clock_times(column)), None))
    for role in ("user", "item"):
        if role not in roles and role not in given:
            fitting = [column for column in free if _may_be_id(column, is_named)]
            ids = [column for column in fitting if not _is_rating(column)]
            # Without names the first column is the user's; small numbers further on are ratings.
            take(role, next(iter(fitting if not is_named and role == "user" else ids or fitting), None))
    if "event" not in roles and "event" not in given:
        take("event", next((column for column in free if _says_events(column)), None))
    if not is_named and "value" not in given:
        take("value", next((column for column in free if _is_rating(column)), None))
    return {role: column.name for role, column in roles.items()} | dict(given)


def possible_events(columns: Sequence[Column], roles: Mapping[str, str]) -> list[Column]:
    """Columns without a role that might hold event types, as far as their few and repeated words tell, or a name."""
    free = [column for column in columns if column.name not in roles.values()]
    return [
        column
        for column in free
        if (_are_few(column) or (column.plain in NAMES["event"] and 2 <= column.n_distinct <= MAX_TYPES))
        and column.n_distinct <= _n_filled(column) / 2
    ]


def _time(columns: Sequence[Column], is_named: bool) -> Column | None:
    fitting = [column for column in columns if _as_times(column)]
    if is_named and (named := _named("timestamp", fitting)):
        return named
    dates = [column for column in fitting if not column.is_number]
    return next(iter(dates or ([] if is_named and _named("timestamp", columns) else fitting)), None)


def _as_times(column: Column) -> bool:
    if column.type is not None and (pa.types.is_timestamp(column.type) or pa.types.is_date(column.type)):
        return True
    if column.name and column.plain in (*NAMES["user"], *NAMES["item"]):
        return False
    times = Times(None)
    times.add(column.values.drop_null())
    if not times.n:
        return False
    try:
        written = times.format(column.name, otherwise=MONTH_FIRST)
    except InputError:
        return False
    if column.is_number and column.plain not in NAMES["timestamp"] and written.name not in ("s", "ms", "us", "ns"):
        return False  # any small number is a day of a spreadsheet to who wants to see one
    column.times = times
    return True


def _holds_days_alone(column: Column) -> bool:
    texts = column.values.drop_null()
    return bool(len(texts)) and not pc.any(pc.match_substring_regex(texts, r":|[0-9]{9}")).as_py()


def _holds_clock_times(column: Column) -> bool:
    if column.type is not None and pa.types.is_time(column.type):
        return True
    times = pc.match_substring_regex(
        column.values.drop_null(), r"^[0-9]{1,2}:[0-9]{2}(:[0-9]{2}([.,][0-9]+)?)?( ?[AaPp][Mm])?$"
    )
    return bool(len(times)) and bool(pc.all(times).as_py())


def _named(role: str, columns: Sequence[Column]) -> Column | None:
    fits = {"event": _types, "value": lambda column: column.is_number}.get(role, lambda _: True)
    by_name = {column.plain: column for column in reversed(columns)}
    for name in NAMES[role]:
        if name in by_name and (role == "value" or fits(by_name[name])):
            return by_name[name]
    if role in ("user", "item"):
        return next((column for column in columns if _is_id_of(role, column)), None)
    if role not in ("event", "value"):
        return None
    # One word of several, as in `Preis in €`.
    named = [column for column in columns if set(words_of(column.name)) & set(NAMES[role])]
    return next((column for column in named if fits(column) and not _looks_like_id(column)), None)


def _is_id_of(role: str, column: Column) -> bool:
    """Whether all words of a name are usual ones for the role, or say that it holds ids."""
    words = set(words_of(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", column.name)))
    return bool(words - _OF_IDS) and words - _OF_IDS <= set(NAMES[role])


def _may_be_id(column: Column, is_named: bool) -> bool:
    if not column.n_distinct or column.values.null_count > len(column.values) / 2:
        return False
    if column.type is not None and pa.types.is_nested(column.type):
        return False
    return _looks_like_id(column) if is_named else True


def _looks_like_id(column: Column) -> bool:
    return bool(re.search(r"(^|[\W_])(id|nr|no|code|key|number|nummer)$|Id$|ID$", column.name))


def _is_rating(column: Column) -> bool:
    if not column.is_number or column.n_distinct > 11:
        return False
    ends = pc.min_max(read_numbers(column.values.drop_null(), None)).as_py()
    return ends["min"] is not None and ends["min"] >= 0 and ends["max"] <= 10


def _types(column: Column) -> bool:
    """Whether a column may hold event types: words, few different ones."""
    if column.is_number or not 0 < column.n_distinct <= MAX_TYPES:
        return False
    if any(meaning_of(text) is not None for text in column.different):
        return True
    return column.n_distinct <= _n_filled(column) / 2 and not _are_codes(column)


def _says_events(column: Column) -> bool:
    """Whether most of a column's few values are words for what people do, whatever the column is called."""
    known = [text for text in column.different if meaning_of(text) is not None] if _are_few(column) else []
    return 2 * len(known) > column.n_distinct


def _are_few(column: Column) -> bool:
    return not column.is_number and 2 <= column.n_distinct <= 20 and not _are_codes(column)


def _are_codes(column: Column) -> bool:
    """Whether values are ids of something, as a category's: any a number, or half of them with digits."""
    with_digits = [text for text in column.different if re.search("[0-9]", text)]
    return any(text.isdigit() for text in with_digits) or 2 * len(with_digits) >= max(column.n_distinct, 1)


def _n_filled(column: Column) -> int:
    return len(column.values) - column.values.null_count


def meaning_of(event_type: str) -> float | None:
    """The weight that the words of an event type usually have, below 1 where they speak against an item; None where
    they are not known."""
    words = words_of(event_type)
    if plain := WEIGHT_BY_TYPE.get("".join(words)):
        return plain
    if re.search(_AGAINST.replace(" ", "|"), "".join(words)):
        return AGAINST_WEIGHT
    return max((WEIGHT_BY_TYPE[word] for word in words if word in WEIGHT_BY_TYPE), default=None)


def tells_bought(roles: Mapping[str, str]) -> bool:
    """Whether events without types are of what people have bought or had: they are of orders, or rated."""
    return "transaction" in roles or bool(set(words_of(roles.get("value", ""))) & _RATINGS)


def types_for(counted: Mapping[str, int], warnings: list[str]) -> dict[str, str]:
    """The options weights, labels and bought for these event types; what is guessed is told in `warnings`.

    Labels are what tells more than a view, bought is what its word says was bought: perhaps nothing.
    """
    known = {name: meaning_of(name) for name in counted if name.casefold() not in NOTHING}
    if nothing := [name for name in counted if name not in known]:
        warnings.append(
            f"event type {', '.join(nothing)} is a word for nothing and has no weight: such rows are rejected"
        )
    weights = {name: 1.0 if weight is None else weight for name, weight in known.items()}
    against = [name for name, weight in weights.items() if weight < 1]
    guessed = [name for name, weight in known.items() if weight is None]
    if against:
        warnings.append(f"{', '.join(against)}: against an item: given the weight {AGAINST_WEIGHT:g}")
    if guessed and len(weights) > 1:
        warnings.append(f"the weights of {', '.join(guessed[:10])} are guessed: how much do they tell of interest?")
    labels = [name for name, weight in weights.items() if weight > 1]
    labels = labels or [name for name, weight in weights.items() if weight == max(weights.values())]
    return {
        "weights": ",".join(f"{name}:{weight:g}" for name, weight in weights.items()),
        "labels": ",".join(labels),
        "bought": ",".join(name for name, weight in weights.items() if weight >= BOUGHT_WEIGHT),
    }


def names_for(roles: Mapping[str, str], columns: Sequence[str], given: Mapping[str, str]) -> tuple[str, ...]:
    """Names for the columns of a file without a header: their roles unless `given`, or `c3` for the third."""
    role_of = {name: role for role, name in roles.items() if role not in given}
    return tuple(role_of.get(name, f"c{n}") for n, name in enumerate(columns, 1))


def id_types_for(roles: Mapping[str, str], columns: Sequence[Column]) -> dict[str, str]:
    """Options for ids whose column says integer, but holds some of more digits than those have."""
    types = {}
    for role in ("user", "item"):
        column = next((column for column in columns if column.name == roles[role]), None)
        is_integer = column is not None and column.type is not None and pa.types.is_integer(column.type)
        if column is not None and is_integer and pc.any(pc.greater(pc.utf8_length(column.values), MAX_DIGITS)).as_py():
            types[f"{role}_id_type"] = "string"
    return types


def ambiguous_order(times: Times | None, column: str) -> str | None:
    """The option's value where dates may be read with the day or the month first, None where it can be told."""
    if times is None:
        return None
    try:
        times.format(column)
    except InputError:
        return "month-first" if "/" in times.example else "day-first"
    return None
