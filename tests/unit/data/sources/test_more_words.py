"""Words as people write them: names of columns, event types, yes and no, money."""

from __future__ import annotations

import shlex
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from recsys.data.flags import NO, YES, flag
from recsys.data.sources import Table
from recsys.data.sources.base import EVENTS, ITEM_PROPERTIES
from recsys.data.sources.numbers import number
from recsys.steps import inspect_file

MAP = {"user": "user", "item": "item", "timestamp": "at"}


def written(folder: Path, header: str, n: int = 12, *, event: str = "view|cart|purchase", clock: str = "10:00") -> Path:
    types = event.split("|")
    rows = (f"u{i % 5};i{i % 3};2025-03-{i + 1:02} {clock};{types[i % len(types)]};{i}.5" for i in range(n))
    (folder / "log.csv").write_text("\n".join((header, *rows, "")))
    return folder / "log.csv"


def rows_of(source: Table, stream: str = EVENTS) -> list[dict[str, object]]:
    parts = (part for part in source.parts() if part.stream == stream)
    return [row for part in parts for chunk in part.read() for row in chunk.rows.to_pylist()]


@pytest.mark.parametrize(
    "header",
    [
        "Kunde;Artikel;Datum;Vorgang;Preis", "KUNDEN-ID;Artikel-Nr.;Zeitstempel;Aktion;Preis in €",
        "Cliente;Producto;Fecha;Evento;Precio", "id_usuario;id_producto;fecha_hora;tipo_evento;precio",
        "Klient;Produkt;Data;Zdarzenie;Cena", "id_użytkownika;id_produktu;data_zdarzenia;typ_zdarzenia;cena [PLN]",
        "utilisateur;article;horodatage;evenement;prix", "utente;prodotto;data;evento;prezzo",
        "usuário;produto;data;evento;preço", "klant;artikel;datum;gebeurtenis;prijs",
        "пользователь;товар;дата;событие;цена", "user [id];item [sku];time (UTC);event;price / EUR",
        "userId;itemCode;createdAt;eventName;unitPrice", " User Id ; Item No ;Event Time;Event Type;Price (EUR)",
    ],
)  # fmt: skip
def test_columns_are_found_by_their_names_in_many_languages(tmp_path, header):
    names = [name.strip() for name in header.split(";")]
    report = inspect_file.run(written(tmp_path, header))
    assert report.map == dict(zip(("user", "item", "timestamp", "event", "value"), names, strict=True))
    assert report.command is not None


@pytest.mark.parametrize(
    ("header", "clock"), [("day;at o'clock", "10:00"), ("day;x", "10:00 PM"), ("day;godzina", "1030")]
)
def test_the_time_of_the_day_is_found_beside_the_day(tmp_path, header, clock):
    (tmp_path / "log.csv").write_text(f"user;item;{header}\n" + f"ann;pear;2025-03-01;{clock}\n" * 3)
    report = inspect_file.run(tmp_path / "log.csv")
    assert f"timestamp={header.replace(';', '+')}" in shlex.split(report.command or "")
    assert report.span[0] > "2025-03-01 10"


def test_event_types_that_are_numbers_are_pointed_at(tmp_path):
    report = inspect_file.run(written(tmp_path, "user;item;at;behavior_type;price", event="1|2|3|4"))
    assert any("behavior_type may hold event types (1, 2, 3, 4)" in warning for warning in report.warnings)


def test_a_word_for_nothing_gets_no_weight(tmp_path):
    report = inspect_file.run(written(tmp_path, "user;item;at;event;price", event="look|NULL|buy"))
    assert "weights=look:1,buy:5" in shlex.split(report.command or "")
    assert report.lines["rejected"] == 4


def test_event_types_may_differ_in_blanks_and_case(tmp_path):
    path = written(tmp_path, "user;item;at;event;price", event=" view|VIEW|View\u00a0|Transaction")
    source = Table(path, {**MAP, "event": "event"})
    assert {row["event"] for row in rows_of(source)} == {"view", "transaction"}
    both = Table(path, {**MAP, "event": "event", "weights": "view:1,VIEW:2,Transaction:5"})
    assert {row["event"] for row in rows_of(both)} == {"view", "VIEW", "Transaction"}  # View may be either: a bad row


def test_no_word_is_both_yes_and_no():
    assert not set(YES) & set(NO)
    assert [flag(word) for word in (*YES, *NO)] == [True] * len(YES) + [False] * len(NO)
    assert [flag(word) for word in ("Tak", "NIE", "Não", "vrai", "Falsch", "нет", "5", "-1")] == [
        *(True, False, False, True, False, False, True, False)
    ]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("(4.20)", -4.2), ("($1,000.50)", -1000.5), ("4.20-", -4.2), ("4.20- €", -4.2), ("\u22124.20", -4.2),
        ("\u20114.20 zł", -4.2), ("7.-", 7.0), ("(4.20", None), ("4-20", None), ("--4", None), ("(-4)", None),
    ],
)  # fmt: skip
def test_numbers_below_zero(text, value):
    assert number(text, ".") == value


def test_prices_like_7_comma_dash():
    assert number("7,-", ",") == 7.0


def test_a_dot_that_may_divide_thousands_is_said(tmp_path):
    (tmp_path / "items.csv").write_text("item;price\npear;1.299\nfig;2.500\n")
    path = written(tmp_path, "user;item;at;event;price")
    options = {**MAP, "items": "items.csv"}
    source = Table(path, options)
    assert any("nothing tells whether the dot in '1.299' divides thousands" in note for note in source.notes)
    prices = {row["itemid"]: row["value"] for row in rows_of(Table(path, {**options, "decimal": ","}), ITEM_PROPERTIES)}
    assert prices == {"pear": "1299", "fig": "2500"}
    (tmp_path / "items.csv").write_text("item;price\npear;1.299\nfig;2.5\n")
    assert not any("divides thousands" in note for note in Table(path, options).notes)


def test_floats_of_parquet_have_no_thousands(tmp_path):
    rows = {"user": ["ann"], "item": ["pear"], "at": ["2025-03-01"], "price": [1.299]}
    pa.parquet.write_table(pa.table(rows), tmp_path / "log.parquet")
    assert not any("divides" in note for note in Table(tmp_path, {**MAP, "value": "price"}).notes)
