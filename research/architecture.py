"""Draws the picture of the whole in README.md: `python -m research.architecture`.

Narrow and tall, so that it is legible on a phone, in the reader's light or dark colours.
"""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

FILE = Path(__file__).parent / "images" / "architecture.svg"
WIDTH, HEIGHT, LINE = 600, 880, 18
DESCRIPTION = (
    "Raw sources go through the nightly DAG (prepare, candidates, ranker, publish) into lists in Postgres, which also "
    "holds events, exposures, catalogue and configuration; service workers answer clients from it. The updater learns "
    "from the event log and gives model updates to the workers."
)
STYLE = """
text{font-family:Helvetica,Arial,sans-serif;font-size:14px;fill:#1f2a36;text-anchor:middle}
.title{font-weight:bold;font-size:15px}.group{text-anchor:start;fill:#40607f;font-weight:bold;font-size:15px}
.label{fill:#40607f;font-size:13.5px}.left{text-anchor:start}.right{text-anchor:end}
.page{fill:#fff}.outer{fill:#f1f6fb;stroke:#8ea9c4}.box{fill:#fff;stroke:#3b4a5a}
.store{fill:#ecf6ec;stroke:#3b4a5a}.people{fill:#fff4e0;stroke:#3b4a5a}.process{fill:#fbeaed;stroke:#3b4a5a}
path{fill:none;stroke:#3b4a5a;stroke-width:1.8}.head{fill:#3b4a5a;stroke:none}
@media (prefers-color-scheme:dark){
text{fill:#e6edf3}.group,.label{fill:#9fc1e3}.page{fill:#0d1117}.outer{fill:#151d28;stroke:#4a6380}
.box{fill:#1f2937;stroke:#8b98a7}.store{fill:#17301f;stroke:#8b98a7}.people{fill:#3a2c12;stroke:#8b98a7}
.process{fill:#3a1c24;stroke:#8b98a7}path{stroke:#aab8c6}.head{fill:#aab8c6}}
"""


def box(x: int, y: int, width: int, height: int, kind: str, title: str, *lines: str) -> str:
    """A box with a bold title and lines below it, centred."""
    kind_of = ("title", "line")
    middle, first = x + width / 2, y + height / 2 - len(lines) * LINE / 2 + 5
    texts = "".join(
        f'<text x="{middle}" y="{first + place * LINE}" class="{kind_of[place > 0]}">{escape(line)}</text>'
        for place, line in enumerate((title, *lines))
    )
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="7" class="{kind}" stroke-width="1.3"/>{texts}'


def group(x: int, y: int, width: int, height: int, title: str) -> str:
    """A frame around boxes, with its title at the top left."""
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="10" class="outer" stroke-width="1.3"/>'
        f'<text x="{x + 12}" y="{y + 20}" class="group">{escape(title)}</text>'
    )


def arrow(way: str, *, both: bool = False) -> str:
    """A line along an SVG path, with a head at its end, or at both."""
    start = ' marker-start="url(#head)"' if both else ""
    return f'<path d="{way}" marker-end="url(#head)"{start}/>'


def label(x: int, y: int, side: str, *lines: str) -> str:
    """Words beside an arrow."""
    return "".join(
        f'<text x="{x}" y="{y + place * 17}" class="label {side}">{escape(line)}</text>'
        for place, line in enumerate(lines)
    )


def drawing() -> list[str]:
    """The parts of the picture, from the raw sources at the top to the clients at the bottom."""
    return [
        box(16, 16, 408, 62, "people", "Raw sources", "RetailRocket, MovieLens, invoices, CSV, Parquet, JSON"),
        arrow("M220 78V112"),
        label(230, 100, "left", "recsys import, into raw tables"),
        group(16, 112, 408, 196, "Airflow: the DAG of the night"),
        box(30, 142, 180, 68, "box", "prepare", "keys, items, users,", "events as of an instant"),
        box(230, 142, 180, 68, "box", "candidates", "popular, i2i, EASE,", "ALS, DeepFM"),
        box(230, 228, 180, 68, "box", "ranker", "CatBoost; the gate", "keeps the better one"),
        box(30, 228, 180, 68, "box", "publish", "checks, then moves", "one pointer"),
        arrow("M210 176H230"),
        arrow("M320 210V228"),
        arrow("M230 262H210"),
        box(448, 112, 136, 90, "store", "Artifacts", "data sets,", "models, list files;", "folder or S3"),
        arrow("M424 157H448", both=True),
        box(448, 218, 136, 90, "store", "MLflow", "runs, plots,", "model versions"),
        arrow("M424 263H448"),
        arrow("M120 308V348"),
        label(130, 333, "left", "lists of all kinds at once"),
        group(16, 348, 408, 174, "Postgres"),
        box(28, 378, 122, 62, "store", "lists", "one pointer"),
        box(159, 378, 122, 62, "store", "catalogue", "items, users"),
        box(290, 378, 122, 62, "store", "configuration", "versions, keys"),
        box(28, 450, 122, 62, "store", "exposures", "shown to whom"),
        box(159, 450, 122, 62, "store", "runs", "champions"),
        box(290, 450, 122, 62, "store", "events", "the log; recent"),
        box(448, 348, 136, 72, "store", "Kafka", "optional:", "relay and sink"),
        arrow("M424 384H448", both=True),
        box(448, 450, 136, 72, "process", "Updater", "DeepFM learns", "between nights"),
        arrow("M424 486H448"),
        arrow("M516 522V640H424"),
        label(508, 574, "right", "model updates"),
        arrow("M80 522V600"),
        label(90, 546, "left", "lists, catalogue, configuration,"),
        label(90, 563, "left", "what a user did just now"),
        arrow("M350 600V522"),
        label(340, 590, "right", "events, exposures, catalogue"),
        group(16, 600, 408, 104, "Service workers (FastAPI)"),
        box(28, 630, 108, 62, "process", "recommend"),
        box(142, 630, 82, 62, "process", "predict"),
        box(230, 630, 74, 62, "process", "events"),
        box(310, 630, 102, 62, "process", "catalogue"),
        box(448, 662, 136, 72, "store", "Prometheus", "alerts, Grafana"),
        arrow("M424 686H448"),
        arrow("M120 704V760", both=True),
        label(130, 738, "left", "answers that explain themselves"),
        box(16, 760, 320, 66, "people", "Clients", "shop, site or app; JSON over HTTP"),
        box(360, 760, 224, 66, "people", "Pages for people", "/dashboard, /docs; Airflow UI"),
        arrow("M400 704V760"),
        label(300, 854, "middle", "Exposures and events are what the dashboard shows and evaluation measures."),
    ]


def main() -> None:
    head = (
        '<marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
        'orient="auto-start-reverse"><path d="M0 0L10 5L0 10z" class="head"/></marker>'
    )
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'role="img" aria-label="{escape(DESCRIPTION)}">'
    )
    page = f'<rect width="{WIDTH}" height="{HEIGHT}" class="page"/>'
    parts = [opening, f"<style>{STYLE}</style>", f"<defs>{head}</defs>", page, *drawing(), "</svg>"]
    FILE.write_text("\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
