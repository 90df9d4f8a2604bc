"""What an evaluation prints: tables and a summary; and the plots of its means."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from recsys.evaluation import plots
from recsys.evaluation.report import ALL, BEYOND, HEADLINE, MEAN, POOL, TWO_STAGE, Row

_ACCURACY = ("ndcg@5", "precision@10", "recall@10", "map@10", "user_coverage", "seconds")
_INTERVAL = "95 % interval"


def tables(rows: Sequence[Row]) -> list[Table]:
    """For each task: the headline metric by cut, then on average, by segment: accuracy, what is beyond, the pool."""
    found: list[Table] = []
    for task in dict.fromkeys(row["task"] for row in rows):
        own = [row for row in rows if row["task"] == task]
        means = [row for row in own if row["cut"] == MEAN]
        found += [
            _by_cut(task, own),
            _accuracy(task, means),
            _by_segment(f"{task}: beyond accuracy, mean of the cuts", means, BEYOND),
            _by_segment(
                f"{task}: what the candidates miss, mean of the cuts",
                [row for row in means if row["system"] == TWO_STAGE],
                POOL,
            ),
        ]
    return found


def _by_cut(task: str, rows: Sequence[Row]) -> Table:
    cuts = list(dict.fromkeys(row["cut"] for row in rows))
    table = Table(title=f"{task}: NDCG@10 by cut", title_justify="left")
    table.add_column("system")
    for cut in cuts:
        users = next(row["users"] for row in rows if row["cut"] == cut and row["segment"] == ALL)
        table.add_column(f"{cut}\n{users} users", justify="right")
    table.add_column("95 % interval\nof the mean", justify="right")
    for system in dict.fromkeys(row["system"] for row in rows):
        by_cut = {row["cut"]: row for row in rows if row["system"] == system and row["segment"] == ALL}
        mean = by_cut[MEAN]
        cells = [f"{by_cut[cut][HEADLINE]:.4f}" if cut in by_cut else "-" for cut in cuts]
        table.add_row(system, *cells, f"{mean[f'{HEADLINE}_low']:.4f} - {mean[f'{HEADLINE}_high']:.4f}")
    return table


def _accuracy(task: str, means: Sequence[Row]) -> Table:
    table = Table(title=f"{task}: mean of the cuts, by segment", title_justify="left")
    table.add_column("segment")
    table.add_column("system")
    for name in (HEADLINE, _INTERVAL, "to the best\nsingle stage", _INTERVAL, *_ACCURACY):
        table.add_column(name.replace("_", "\n"), justify="right")
    for row in _ordered(table, means):
        difference = (
            [f"{row['difference']:+.4f}", _span(row, "difference", "+.4f")] if row.get("best_stage") else ["-", "-"]
        )
        headline = [f"{row[HEADLINE]:.4f}", _span(row, HEADLINE, ".4f"), *difference]
        table.add_row(row["segment"], row["system"], *headline, *(_cell(name, row.get(name)) for name in _ACCURACY))
    return table


def _by_segment(title: str, means: Sequence[Row], names: Sequence[str]) -> Table:
    """Columns of `names` that any row has."""
    table = Table(title=title, title_justify="left")
    shown = [name for name in names if any(row.get(name) is not None for row in means)]
    table.add_column("segment")
    table.add_column("system")
    for name in shown:
        table.add_column(name.replace("_", "\n"), justify="right")
    for row in _ordered(table, means):
        table.add_row(row["segment"], row["system"], *(_cell(name, row.get(name)) for name in shown))
    return table


def _ordered(table: Table, means: Sequence[Row]) -> Iterator[Row]:
    """The rows by segment, a line of `table` between two segments."""
    for segment in dict.fromkeys(row["segment"] for row in means):
        yield from (row for row in means if row["segment"] == segment)
        table.add_section()


def _span(row: Row, name: str, form: str) -> str:
    return f"{row[f'{name}_low']:{form}} to {row[f'{name}_high']:{form}}"


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if name in ("seconds", "novelty@5") else f"{value:.4f}"


def show(
    rows: Sequence[Row],
    calibration: Sequence[Row] = (),
    sentences: Sequence[str] = (),
    console: Console | None = None,
) -> None:
    """Print the tables, that of probabilities where there are any, and the summary; as wide as they need when the
    output is no terminal."""
    console = console or Console()
    if not console.is_terminal:
        console = Console(file=console.file, width=180)
    for table in [*tables(rows), *([_probabilities(calibration)] if calibration else [])]:
        console.print(table)
    for line in sentences:
        console.print(line, highlight=False, markup=False)


def _probabilities(rows: Sequence[Row]) -> Table:
    table = Table(title="whether probabilities come true, all cuts together", title_justify="left")
    for name in ("task", "segment", "system", "users", "pairs", "predicted", "observed", "expected\ncalibration error"):
        table.add_column(name, justify="left" if name in ("task", "segment", "system") else "right")
    for row in rows:
        shares = [f"{row[name]:.3%}" for name in ("predicted", "observed", "ece")]
        table.add_row(row["task"], row["segment"], row["system"], f"{row['users']:,}", f"{row['pairs']:,}", *shares)
    return table


def figures(means: Sequence[Row]) -> dict[str, Figure]:
    """Plots of the means of one task and segment: `comparison`, and `difference` to the best single stage."""
    values = {row["system"]: row[HEADLINE] for row in means}
    intervals = {row["system"]: (row[f"{HEADLINE}_low"], row[f"{HEADLINE}_high"]) for row in means}
    found = {"comparison": plots.comparison(values, metric=HEADLINE, intervals=intervals)}
    paired = [row for row in means if row.get("best_stage") and row["system"] != row["best_stage"]]
    if paired:
        found["difference"] = plots.differences(
            {row["system"]: (row["difference"], row["difference_low"], row["difference_high"]) for row in paired},
            metric=HEADLINE,
            reference=paired[0]["best_stage"],
        )
    return found
