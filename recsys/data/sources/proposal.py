"""A column map for a file that nobody has described: by the names of its columns, and by what they hold."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from recsys.data.sources.formats import looks_like_data
from recsys.data.sources.numbers import read_numbers
from recsys.data.sources.survey import Times
from recsys.data.sources.times import MONTH_FIRST
from recsys.errors import InputError
from recsys.ids import MAX_DIGITS

MAX_TYPES: Final = 40  # different values of a column of event types
# Names without marks and in lower case; the first that fits counts.
_NAMES: Final = {
    "user": (
        "userid user visitorid customerid visitor customer clientid client memberid member accountid "
        "reviewerid reviewer buyerid buyer uid kundennummer kundennr kundenid kunde customernumber personid "
        "who sessionid usersession session"
    ),
    "item": (
        "itemid item productid product sku articleid article artikelnummer artikelnr artikelid artikel "
        "stockcode parentasin asin isbn movieid movie bookid book trackid songid track song artistid artid "
        "artist productcode offerid contentid videoid iid what"
    ),
    "timestamp": (
        "timestamp eventtime eventtimestamp datetime createdat created time ts at date eventdate orderdate "
        "invoicedate purchasedate unixreviewtime zeitpunkt zeit datum day timestampms when starttime playedat"
    ),
    "event": (
        "event eventtype eventname feedbacktype behaviortype behaviourtype behavior behaviour actiontype "
        "action interactiontype interaction activity type did aktion ereignis"
    ),
    "value": ("value price unitprice rating stars score bookrating overall amount paid preis betrag bewertung revenue"),
    "transaction": (
        "transactionid transaction orderid order invoiceno invoice basketid basket bestellnummer bestellung "
        "rechnungsnummer"
    ),
    "time": ("timeframe time hour uhrzeit zeit timeofday eventtime"),
}
NAMES: Final = {role: tuple(names.split()) for role, names in _NAMES.items()}
_WEIGHTS: Final = {
    1.0: "view pageview click pv detail impression visit open read play stream seen listen detailview productview",
    3.0: "addtocart cart addcart addtobasket basket fav favorite favourite wishlist addtowishlist save bookmark share",
    5.0: "transaction purchase buy order bought checkout sale purchased ordered like liked kauf subscribe paid",
}
_AGAINST: Final = "remove refund return cancel dislike delete unlike negative skip abandon"
WEIGHT_BY_TYPE: Final = {word: weight for weight, words in _WEIGHTS.items() for word in words.split()}


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
        numbers = read_numbers(filled, None) if len(filled) else filled
        self.is_number = bool(len(filled)) and numbers.null_count == 0

    @property
    def plain(self) -> str:
        """The name without marks and in lower case."""
        return re.sub(r"[\W_]+", "", self.name).casefold()


def has_no_header(first: Sequence[str]) -> bool:
    """Whether a first line is one of data: some of its values are numbers or dates, and none is a usual name."""
    usual = {name for names in NAMES.values() for name in names}
    plain = {re.sub(r"[\W_]+", "", cell).casefold() for cell in first}
    return looks_like_data(first) and not plain & usual


def columns_for(columns: Sequence[Column], is_named: bool) -> dict[str, str]:
    """Roles → names of columns; those for which nothing is found are missing."""
    free = list(columns)
    roles: dict[str, Column] = {}

    def take(role: str, column: Column | None) -> None:
        if column is not None:
            roles[role] = column
            free.remove(column)

    take("timestamp", _time(free, is_named))
    if is_named:
        for role in ("user", "item", "event", "transaction", "value"):
            take(role, _named(role, free))
        at = roles.get("timestamp")
        if at is not None and _holds_days_alone(at):
            take("time", _named("time", free))
    for role in ("user", "item"):
        if role not in roles:
            fitting = [column for column in free if _may_be_id(column, is_named)]
            ids = [column for column in fitting if not _is_rating(column)]
            # Without names the first column is the user's; small numbers further on are ratings.
            take(role, next(iter(fitting if not is_named and role == "user" else ids or fitting), None))
    if not is_named:
        take("event", next((column for column in free if _types(column) and not column.is_number), None))
        take("value", next((column for column in free if _is_rating(column)), None))
    return {role: column.name for role, column in roles.items()}


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


def _named(role: str, columns: Sequence[Column]) -> Column | None:
    by_name = {column.plain: column for column in reversed(columns)}
    for name in NAMES[role]:
        if name in by_name and (role != "event" or _types(by_name[name])):
            return by_name[name]
    return None


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
    n = len(column.values) - column.values.null_count
    return (
        0 < column.n_distinct <= MAX_TYPES and (column.n_distinct <= n / 2 or _knows(column)) and not column.is_number
    )


def _knows(column: Column) -> bool:
    return any(weight_of(text) is not None for text in pc.unique(column.values.drop_null()).to_pylist())


def weight_of(event_type: str) -> float | None:
    """The weight that an event type usually has, None where it is not known."""
    return WEIGHT_BY_TYPE.get(re.sub(r"[\W_]+", "", event_type).casefold())


def weights_for(counted: Mapping[str, int], warnings: list[str]) -> dict[str, float]:
    """Event types → proposed weights; those that speak against an item are left out, both told in `warnings`."""
    weights: dict[str, float] = {}
    guessed, against = [], []
    for name in counted:
        weight = weight_of(name)
        if weight is None and re.search(_AGAINST.replace(" ", "|"), name.casefold()):
            against.append(name)
        else:
            weights[name] = 1.0 if weight is None else weight
            guessed += [name] if weight is None else []
    if against:
        warnings.append(
            f"{', '.join(against)} speak against an item: given no weight, so that their rows go to quarantine"
        )
    if guessed and len(weights) > 1:
        warnings.append(f"the weights of {', '.join(guessed[:10])} are guessed: how much do they tell of interest?")
    return weights


def names_for(roles: Mapping[str, str], columns: Sequence[str]) -> tuple[str, ...]:
    """Names for the columns of a file without a header: their roles, or `c3` for the third."""
    role_of = {name: role for role, name in roles.items()}
    return tuple(role_of.get(name, f"c{n}") for n, name in enumerate(columns, 1))


def id_types_for(roles: Mapping[str, str], columns: Sequence[Column]) -> dict[str, str]:
    """Options for ids whose column says integer, but holds some of more digits than those have."""
    types = {}
    for role in ("user", "item"):
        column = next(column for column in columns if column.name == roles[role])
        is_integer = column.type is not None and pa.types.is_integer(column.type)
        if is_integer and pc.any(pc.greater(pc.utf8_length(column.values), MAX_DIGITS)).as_py():
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
