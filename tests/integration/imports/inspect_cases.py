"""Files that people have, what is proposed for each, and the first event that is loaded."""

from __future__ import annotations

import gzip
import io
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet


@dataclass(frozen=True)
class Case:
    """Files, what is proposed for them (without the path) and the first event that is loaded."""

    files: dict[str, bytes | str]
    command: str
    n_events: int
    first: tuple[int, str, str, str, float | None]  # milliseconds, user, type, item, value
    path: str = ""  # of what is inspected, in the folder
    texts: list[str] = field(default_factory=list)  # in the report

    def write(self, folder: Path) -> Path:
        for name, content in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return folder / self.path


def parquet(**columns: object) -> bytes:
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def zipped(text: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("events.csv", text)
    return buffer.getvalue()


NONE = pa.array([], pa.string())
MAY = 1714521600000  # 2024-05-01
PLAIN = "user_id,item_id,ts\nu1,a,2024-05-01\nu2,b,2024-05-02\n"
FIRST = (MAY, "u1", "interaction", "a", None)
MAP = "-o user=user_id -o item=item_id -o timestamp=ts"
RETAILROCKET = {
    "events.csv": "timestamp,visitorid,event,itemid,transactionid\n1433221332117,257597,view,355908,\n",
    "category_tree.csv": "categoryid,parentid\n1338,1278\n",
}
INVOICES = (
    "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"
    "536365,85123A,WHITE HEART,6,12/1/2010 8:26,2.55,17850,United Kingdom\n"
    '536366,10000,"HEART OF WICKER,6,12/13/2010 8:26,2.55,17850,United Kingdom\n'
    "536367,85123A,WHITE HEART,6,12/14/2010 8:26,2.55,17850,United Kingdom\n"
)
VORGANG = "Kundennummer;Artikelnummer;Zeitpunkt;Vorgang;Preis in €\n" + "".join(
    f"K{n};A{n};01.05.2024 00:00;{what};{price}\n"
    for n, (what, price) in enumerate(
        [*[("Angesehen", "816,04")] * 3, *[("Warenkorb", "12,50")] * 2, *[("Gekauft", "3,00")] * 2], 1
    )
)
REES46 = (
    "event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session\n"
    "2019-10-01 00:00:00 UTC,view,44600062,2103807459595387724,,shiseido,35.79,541312140,72d76fde\n"
    "2019-10-01 00:00:01 UTC,cart,3900821,2053013552326770905,appliances.water_heater,aqua,33.20,554748717,9333dfbd\n"
    "2019-10-01 00:00:04 UTC,purchase,1307067,2053013558920217191,computers.notebook,lenovo,251.74,550050854,7c90fc70\n"
    "2019-10-01 00:00:05 UTC,remove_from_cart,1307067,2053013558920217191,,lenovo,251.74,550050854,7c90fc70\n"
)
CASES = {
    "plain": Case({"log.csv": PLAIN}, f"table PATH {MAP} -o bought=", 2, FIRST, "log.csv"),
    "stray quote": Case(
        {"one.csv": 'ts,user_id,item_id,event,note\n2024-05-01,u1,a,view,ok\n2024-05-02,u2,b,view,"5 inch\n'},
        f"table PATH {MAP} -o event=event",
        1,
        (MAY, "u1", "view", "a", None),
        "one.csv",
        ["1 rejected: a quote opens and is not closed in column 5", "3 read, 1 loaded, 1 rejected, 1 header"],
    ),
    "german shop": Case(
        {"Export.csv": VORGANG},
        "table PATH -o user=Kundennummer -o item=Artikelnummer -o timestamp=Zeitpunkt -o event=Vorgang "
        "-o 'value=Preis in €' -o weights=Angesehen:1,Warenkorb:3,Gekauft:5 -o labels=Warenkorb,Gekauft "
        "-o bought=Gekauft",
        7,
        (MAY, "K1", "Angesehen", "A1", 816.04),
        "Export.csv",
        ["bought   Gekauft (hidden from the user afterwards)", "labels   Warenkorb, Gekauft", "816,04 | 12,50"],
    ),
    "types by their words alone": Case(
        {"x.csv": VORGANG.replace("Vorgang", "Was").replace("Angesehen", "Produkt angesehen")},
        "table PATH -o user=Kundennummer -o item=Artikelnummer -o timestamp=Zeitpunkt -o event=Was "
        "-o 'value=Preis in €' -o 'weights=Produkt angesehen:1,Warenkorb:3,Gekauft:5' -o labels=Warenkorb,Gekauft "
        "-o bought=Gekauft",
        7,
        (MAY, "K1", "Produkt angesehen", "A1", 816.04),
        "x.csv",
    ),
    "few unknown words": Case(
        {"x.csv": "user_id,item_id,ts,colour\n" + "u1,a,2024-05-01,red\nu2,b,2024-05-02,blue\n" * 3},
        f"table PATH {MAP} -o bought=",
        6,
        FIRST,
        "x.csv",
        ["colour may hold event types (red, blue): if so, give -o event=colour", "bought   none (nothing is hidden)"],
    ),
    "types of unknown meaning": Case(
        {"x.csv": "user_id,item_id,ts,event\n" + "u1,a,2024-05-01,x1\nu2,b,2024-05-02,yy\nu2,b,2024-05-02,zz\n" * 3},
        f"table PATH {MAP} -o event=event -o weights=x1:1,yy:1,zz:1 -o labels=x1,yy,zz -o bought=",
        9,
        (MAY, "u1", "x1", "a", None),
        "x.csv",
        ["the weights of x1, yy, zz are guessed"],
    ),
    "orders": Case(
        {"x.csv": PLAIN.replace("ts\n", "ts,order_id\n").replace("-01\n", "-01,7\n").replace("-02\n", "-02,8\n")},
        f"table PATH {MAP} -o transaction=order_id",
        2,
        FIRST,
        "x.csv",
        ["bought   interaction"],
    ),
    "tsv with quotes": Case(
        {"plays.tsv": 'user\tartid\tartname\tat\nu1\ta1\t"heroes\t2024-05-01T00:00:00Z\n'},
        "table PATH -o user=user -o item=artid -o timestamp=at -o bought=",
        1,
        (MAY, "u1", "interaction", "a1", None),
        "plays.tsv",
    ),
    "online retail": Case(
        {"OnlineRetail.csv": INVOICES},
        "online-retail PATH",
        2,
        (1291191960000, "17850", "transaction", "85123A", 2.55),
        "OnlineRetail.csv",
    ),
    "seconds": Case(
        {"log.csv": PLAIN.replace("2024-05-01", "1714521600").replace("2024-05-02", "1714521601")},
        f"table PATH {MAP} -o bought=",
        2,
        FIRST,
        "log.csv",
    ),
    "microseconds": Case(
        {"log.csv": f"user_id,item_id,ts\nu1,a,{MAY * 1000}\n"}, f"table PATH {MAP} -o bought=", 1, FIRST, "log.csv"
    ),
    "days of excel": Case(
        {"x.csv": "user,item,at\nu1,a,45413\nu2,b,45414.5\n"},
        "table PATH -o user=user -o item=item -o timestamp=at -o bought=",
        2,
        FIRST,
        "x.csv",
    ),
    "yyyymmdd": Case(
        {"x.csv": "customer,sku,day\nu1,a,20240501\n"},
        "table PATH -o user=customer -o item=sku -o timestamp=day -o bought=",
        1,
        FIRST,
        "x.csv",
    ),
    "cr only": Case({"x.csv": PLAIN.replace("\n", "\r")}, f"table PATH {MAP} -o bought=", 2, FIRST, "x.csv"),
    "large numbers": Case(
        {
            "x.parquet": parquet(
                user_id=pa.array([2**63 + 5, 7], pa.uint64()),
                item_id=pa.array([b"a", b"\xff"], pa.large_binary()),
                ts=pa.array([MAY, MAY + 1], pa.timestamp("ms")),
            )
        },
        f"table PATH {MAP} -o user_id_type=string -o bought=",
        1,
        (MAY, str(2**63 + 5), "interaction", "a", None),
        "x.parquet",
    ),
    "items with lists": Case(
        {
            "e.parquet": parquet(user_id=["u1"], item_id=["a"], ts=pa.array([MAY], pa.timestamp("ms"))),
            "items.parquet": parquet(item_id=["a"], title=["Lamp"], tags=[["x", "y"]]),
        },
        f"table PATH {MAP} -o bought= -o items=items.parquet",
        1,
        FIRST,
    ),
    "rees46": Case(
        {"2019-Oct.csv": REES46},
        "table PATH -o user=user_id -o item=product_id -o timestamp=event_time -o event=event_type -o value=price "
        "-o weights=view:1,cart:3,purchase:5,remove_from_cart:0.5 -o labels=cart,purchase -o bought=purchase",
        4,
        (1569888000000, "541312140", "view", "44600062", 35.79),
        "2019-Oct.csv",
        ["remove_from_cart: against an item"],
    ),
    "day first": Case(
        {"x.csv": "user_id,item_id,ts\nu1,a,01-05-2024 00:00\nu2,b,29-05-2024 00:00\n"},
        f"table PATH {MAP} -o bought=",
        2,
        FIRST,
        "x.csv",
    ),
    "day or month": Case(
        {"x.csv": "user_id,item_id,ts\nu1,a,05/01/2024 00:00\n"},
        f"table PATH {MAP} -o timestamp_format=month-first -o bought=",
        1,
        FIRST,
        "x.csv",
        ["it is ambiguous whether the day or the month comes first"],
    ),
    "gorse": Case(
        {
            "g.csv": "feedback_type,user_id,item_id,time_stamp\nread,u1,a,2024-05-01 00:00:00 +0000 UTC\n"
            "like,u2,b,2024-05-02 10:00:00 +0000 UTC\n"
        },
        "table PATH -o user=user_id -o item=item_id -o timestamp=time_stamp -o event=feedback_type "
        "-o weights=read:1,like:5 -o labels=like -o bought=like",
        2,
        (MAY, "u1", "read", "a", None),
        "g.csv",
    ),
    "diginetica": Case(
        {"d.csv": "user_id,item_id,eventdate,timeframe\nu1,a,2024-05-01,60000\nu1,b,2024-05-01,1031018\n"},
        "table PATH -o user=user_id -o item=item_id -o timestamp=eventdate+timeframe -o bought=",
        2,
        (MAY + 60_000, "u1", "interaction", "a", None),
        "d.csv",
    ),
    "german excel": Case(
        {
            "Export 2024.csv": "Kunde;Artikel;Datum;Preis\nK-1;Stühle-7;31.05.2024 18:05;12,50\n"
            "K-2;Tisch-1;01.06.2024 09:10;1.299,00\n".encode("cp1252")
        },
        "table PATH -o user=Kunde -o item=Artikel -o timestamp=Datum -o value=Preis -o bought=",
        2,
        (1717178700000, "K-1", "interaction", "Stühle-7", 12.5),
        "Export 2024.csv",
        ["semicolons", "cp1252"],
    ),
    "yoochoose": Case(
        {
            "clicks.dat": "11,2014-04-07T10:51:09.277Z,214536502,0\n11,2014-04-07T10:54:09.868Z,214536500,0\n"
            "12,2014-04-02T13:42:17.614Z,214662742,S\n"
        },
        "table PATH -o user=user -o item=item -o timestamp=timestamp -o names=user,timestamp,item,c4 -o bought=",
        3,
        (1396867869277, "11", "interaction", "214536502", None),
        "clicks.dat",
        ["no header"],
    ),
    "ratings without header": Case(
        {"ratings_Books.csv": "AH2L9,0000000116,4.0,1019865600\nA2III,0000000116,1.0,1395619200\n"},
        "table PATH -o user=user -o item=item -o timestamp=timestamp -o value=value "
        "-o names=user,item,value,timestamp -o bought=",
        2,
        (1019865600000, "AH2L9", "interaction", "0000000116", 4.0),
        "ratings_Books.csv",
    ),
    "movielens file": Case(
        {"ratings.dat": "1::1193::5::978300760\n1::661::3::978302109\n2::1193::4::978298413\n"},
        "table PATH -o user=user -o item=item -o timestamp=timestamp -o value=value "
        "-o names=user,item,value,timestamp -o bought=",
        3,
        (978300760000, "1", "interaction", "1193", 5.0),
        "ratings.dat",
    ),
    "movielens folder": Case(
        {
            "ratings.dat": "1::1193::5::978300760\n1::661::3::978302109\n",
            "movies.dat": "1193::One Flew (1975)::Drama\n661::James (1996)::Animation|Musical\n",
        },
        "movielens PATH",
        2,
        (978300760000, "1", "liked", "1193", 5.0),
    ),
    "retailrocket": Case(RETAILROCKET, "retailrocket PATH", 1, (1433221332117, "257597", "view", "355908", None)),
    "retailrocket file": Case(
        RETAILROCKET,
        "table PATH -o user=visitorid -o item=itemid -o timestamp=timestamp -o event=event "
        "-o transaction=transactionid",
        1,
        (1433221332117, "257597", "view", "355908", None),
        "events.csv",
    ),
    "blank first line": Case({"x.csv": "\n" + PLAIN}, f"table PATH {MAP} -o bought=", 2, FIRST, "x.csv"),
    "zip": Case({"x.csv.zip": zipped(PLAIN)}, f"table PATH {MAP} -o bought=", 2, FIRST, "x.csv.zip"),
    "gzip by content": Case(
        {"x.csv": gzip.compress(PLAIN.encode())}, f"table PATH {MAP} -o bought=", 2, FIRST, "x.csv"
    ),
    "sep line": Case({"x.csv": "sep=;\n" + PLAIN.replace(",", ";")}, f"table PATH {MAP} -o bought=", 2, FIRST, "x.csv"),
    "utf-16": Case({"x.csv": PLAIN.encode("utf-16")}, f"table PATH {MAP} -o bought=", 2, FIRST, "x.csv", ["utf-16"]),
    "json lines": Case(
        {"x.jsonl": '{"user":"u1","item":"a","timestamp":1714521600,"event":"view"}\n'},
        "table PATH -o user=user -o item=item -o timestamp=timestamp -o event=event",
        1,
        (MAY, "u1", "view", "a", None),
        "x.jsonl",
    ),
    "folder with items": Case(
        {"e.csv": PLAIN, "items.csv": "item_id,title,available\na,Café,0\n".encode("cp1252")},
        f"table PATH {MAP} -o bought= -o items=items.csv",
        2,
        FIRST,
    ),
    "folder of days": Case(
        {
            "day=1/part-0.parquet": parquet(user_id=["u1"], item_id=["a"], ts=pa.array([MAY], pa.timestamp("ms"))),
            "day=2/part-0.parquet": parquet(
                user_id=pa.array([], pa.string()),
                item_id=pa.array([], pa.string()),
                ts=pa.array([], pa.timestamp("ms")),
            ),
            "_SUCCESS": "",
        },
        f"table PATH {MAP} -o bought=",
        1,
        FIRST,
        "",
        ["1 of 2 files hold no rows"],
    ),
    "folder with strangers": Case(
        {"a.csv": PLAIN, "about us.csv": "name,text\nx,y\n"},
        f"table PATH/a.csv {MAP} -o bought=",
        2,
        FIRST,
        "",
        ["about us.csv"],
    ),
}
