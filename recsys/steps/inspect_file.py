"""Inspect an unknown file or folder: its format and columns, and the command that imports it."""

from __future__ import annotations

import datetime as dt
import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from recsys.data.sources import SOURCES, open_source
from recsys.data.sources.base import (
    DATA_SUFFIXES,
    EVENTS,
    SHOWN_SUFFIXES,
    Chunk,
    LineCount,
    Source,
    find_files,
    name_in,
)
from recsys.data.sources.checking import Checked
from recsys.data.sources.formats import csv_format, forms_of
from recsys.data.sources.proposal import (
    Column,
    ambiguous_order,
    columns_for,
    has_no_header,
    id_types_for,
    names_for,
    possible_events,
    tells_bought,
    types_for,
)
from recsys.data.sources.reading import (
    CsvFormat,
    columns_of,
    has_rows,
    is_parquet,
    parquet_types,
    read_blocks,
    values_of,
)
from recsys.data.sources.table import COLUMN_OPTIONS
from recsys.errors import InputError
from recsys.ids import MAX_DIGITS
from recsys.steps.inspect_demo import demo_line

MAX_REASONS: Final = 10
MAX_FILES: Final = 5  # read of a folder
MAX_BLOCKS: Final = 4  # read of each file, some hundred thousand rows
KNOWN: Final = ("retailrocket", "movielens", "online-retail")  # sources of a fixed format
_DEFAULT_TYPES: Final = {"view", "addtocart", "transaction"}
_CATEGORY_COLUMNS: Final = {"categoryid", "parentid"}


@dataclass
class Report:
    """The result. `command` is None where the file cannot be imported as it is; `problem` is then the reason."""

    path: str
    files: list[str] = field(default_factory=list)
    format: str = ""
    columns: list[dict[str, Any]] = field(default_factory=list)  # name, type, share of blanks, examples
    map: dict[str, str] = field(default_factory=dict)  # role → column
    span: list[str] = field(default_factory=list)  # first and last day
    event_types: dict[str, int] = field(default_factory=dict)
    labels: list[str] = field(default_factory=list)  # event types to optimise for
    bought: list[str] = field(default_factory=list)  # event types after which an item is not recommended again
    n_rows: int = 0  # inspected
    is_sample: bool = False
    n_users: int = 0
    n_items: int = 0
    n_duplicates: int = 0
    lines: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    command: str | None = None
    demo: str | None = None  # the same for `make demo`
    problem: str | None = None


def run(path: str | Path, *, options: Mapping[str, str] | None = None) -> Report:
    """Inspect `path`; `options` of the source `table` take precedence over guesses.

    Raises InputError where there is no file, or none that can be read.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    files = find_files(path, "*", DATA_SUFFIXES) if path.is_dir() else [path]
    if not files:
        raise InputError(f"{path}: no file whose name ends in {SHOWN_SUFFIXES} in this folder or below it")
    report = Report(str(path), [name_in(path, file) for file in files])
    given = dict(options or {})
    try:
        if not given and (known := _known(path)):
            source, command = known, ["recsys", "import", known.name, str(path)]
        else:
            command = _propose(report, path, files, given)
            source = open_source("table", command[3], _options(command))
        _read(report, source)
        report.command = shlex.join(command)
        report.demo = demo_line(command)
    except InputError as error:
        report.problem = str(error)
    report.warnings = list(dict.fromkeys(report.warnings))
    return report


def _known(path: Path) -> Source | None:
    """The source whose fixed format these files have, if any."""
    for name in KNOWN:
        try:
            source = SOURCES[name](path, {})
            if any(part.stream == EVENTS for part in source.parts()):
                return source
        except InputError:
            continue
    return None


def _propose(report: Report, path: Path, files: list[Path], given: dict[str, str]) -> list[str]:
    """The command for the source `table`, as arguments."""
    csv = csv_format(given)
    events: list[tuple[Path, dict[str, str]]] = []
    counted: dict[Path, Counter[str]] = {}  # event types of the files that have such a column
    items: list[Path] = []
    categories: list[Path] = []
    unknown: list[Path] = []
    problem = ""
    for file in files:
        options: dict[str, str] = {}
        what = None
        try:
            if has_rows(file, csv):
                options, what = _look(report, file, csv, given, counted)
        except InputError as error:
            if len(files) == 1:
                raise
            problem = str(error)
        if what == "events":
            events.append((file, options))
        elif what is not None:
            {"items": items, "categories": categories, "other": unknown}[what].append(file)
    if not events:
        raise InputError(problem or _nothing(report, path))
    first, options = events[0]
    fitting = [file for file, other in events if other == options]
    if len(fitting) < len(events) or unknown or len(items) > 1 or len(categories) > 1:
        others = [name_in(path, file) for file in (*unknown, *items[1:], *categories[1:])]
        if others:
            report.warnings.append(
                f"further files of other columns, which this import does not read: {', '.join(others)}"
            )
        kinds: defaultdict[str, list[Path]] = defaultdict(list)
        for file, other in events:
            if file not in fitting:
                kinds[other.get("names") or ", ".join(columns_of(file, csv))].append(file)
        for columns, alike in kinds.items():
            report.warnings.append(
                f"events of other columns ({columns}), which this import does not read: "
                f"{', '.join(name_in(path, file) for file in alike)}; "
                f"`recsys inspect {shlex.quote(str(alike[0]))}` says how to import them"
            )
        path = first
        if len(fitting) > 1:
            report.warnings.append(f"it reads only {first.name}: put files of the same columns into a folder")
            fitting = [first]
    if "weights" not in given:
        options |= _meaning(report, options, sum((counted[file] for file in fitting if file in counted), Counter()))
    root = path if path.is_dir() else path.parent
    for option, found in (("items", items[:1]), ("categories", categories[:1])):
        for file in found:
            options[option] = file.relative_to(root).as_posix() if file.is_relative_to(root) else str(file)
    options = {**options, **given}
    return ["recsys", "import", "table", str(path), *(x for pair in options.items() for x in ("-o", "=".join(pair)))]


def _meaning(report: Report, options: Mapping[str, str], counted: Counter[str]) -> dict[str, str]:
    """The options weights, labels and bought, where their defaults do not fit these events."""
    if counted:
        return {} if set(counted) <= _DEFAULT_TYPES else types_for(dict(counted.most_common()), report.warnings)
    if "event" in options or tells_bought(options):
        return {}
    report.warnings.append(
        "bought and viewed items cannot be distinguished: bought= has no event type, so that nothing is hidden; "
        "bought=interaction never recommends an item again that a user has interacted with"
    )
    return {"bought": ""}


def _options(command: list[str]) -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in command[5::2])


def _look(
    report: Report, file: Path, csv: CsvFormat, given: Mapping[str, str], counted: dict[Path, Counter[str]]
) -> tuple[dict[str, str], str]:
    """Options for a file, and its kind: events (`counted` then has their types), items, categories or other."""
    names = values_of(file, csv)
    options: dict[str, str] = {}
    is_named = csv.names is not None or is_parquet(file) or not has_no_header(names)
    if not is_named:
        csv = CsvFormat(
            csv.delimiter, tuple(f"c{n}" for n in range(1, len(names) + 1)), False, csv.quoting, csv.encoding
        )
        names = list(csv.names or ())
    columns = _columns(file, names, csv)
    chosen = {role: given[role].strip() for role in COLUMN_OPTIONS if given.get(role)}
    roles = columns_for(columns, is_named, chosen)
    described = [_described(column) for column in columns]
    if not report.columns or ("user" in roles and "user" not in report.map):
        report.columns = described
        report.format = _format(file, csv, is_named)
    if {"user", "item", "timestamp"} - roles.keys():
        report.map = report.map or roles
        if set(names) >= _CATEGORY_COLUMNS and "user" not in roles:
            return {}, "categories"
        return {}, "items" if "item" in roles and "user" not in roles else "other"
    id_types = id_types_for(roles, columns)
    if id_types:
        report.warnings.append(f"some ids have more than {MAX_DIGITS} digits: taken as text")
    by_name = {column.name: column for column in columns}
    at = by_name.get(roles["timestamp"])
    if "event" in roles:
        if roles["event"] in by_name:
            counted[file] = Counter(by_name[roles["event"]].values.drop_null().to_pylist())
    else:
        report.warnings += [
            f"{column.name} may hold event types ({', '.join(column.different[:5])}): "
            f"if so, give -o {shlex.quote(f'event={column.name}')}"
            for column in possible_events(columns, roles)
        ]
    if not is_named:
        named = names_for(roles, names, chosen)
        options["names"] = ",".join(named)
        for shown, name in zip(described, named, strict=True):
            shown["name"] = name
        roles = {role: named[names.index(name)] if name in names else name for role, name in roles.items()}
    report.map = report.map if "user" in report.map else dict(roles)
    of_day = roles.pop("time", None)
    ordered = [role for role in (*COLUMN_OPTIONS, "names") if role in roles or role in options]
    options = {role: roles.get(role) or options[role] for role in ordered}
    options |= id_types
    if of_day is not None:
        options["timestamp"] += f"+{of_day}"
    if "timestamp_format" not in given and at is not None and (order := ambiguous_order(at.times, at.name)):
        options["timestamp_format"] = order
        report.warnings.append(
            f"{at.name}: it is ambiguous whether the day or the month comes first; {order} is a guess: check it"
        )
    return options, "events"


def _columns(file: Path, names: list[str], csv: CsvFormat) -> list[Column]:
    unique = [name for name, n in Counter(names).items() if n == 1 and name]
    types = parquet_types(file) if is_parquet(file) else {}
    block = next(read_blocks(file, (), unique, csv))
    checked = Checked(block)
    return [
        Column(name, pc.utf8_trim_whitespace(checked.text(name, required=False)), types.get(name)) for name in unique
    ]


def _described(column: Column) -> dict[str, Any]:
    values = column.values.drop_null()
    if column.type is not None:
        kind = str(column.type)
    elif column.times is not None:
        kind = "times"
    elif not len(values):
        kind = "nothing"
    elif column.is_number:
        kind = "whole numbers" if pc.all(pc.match_substring_regex(values, r"^-?[0-9]+$")).as_py() else "numbers"
    else:
        kind = "text"
    blank = (len(column.values) - len(values)) / max(len(column.values), 1)
    examples = [text if len(text) <= 40 else text[:39] + "…" for text in pc.unique(values)[:3].to_pylist()]
    return {
        "name": column.name,
        "type": kind,
        "blank": round(blank, 3),
        "distinct": column.n_distinct,
        "examples": examples,
    }


def _format(file: Path, csv: CsvFormat, is_named: bool) -> str:
    if is_parquet(file):
        return "Parquet"
    described = forms_of(file, csv)[0].described()
    return described if is_named else described.replace("a header", "no header")


def _nothing(report: Report, path: Path) -> str:
    missing = [role for role in ("user", "item", "timestamp") if role not in report.map]
    what = {"user": "users", "item": "items", "timestamp": "times (events need one)"}
    if not report.columns:
        return f"{path}: the files hold no rows"
    names = ", ".join(repr(column["name"]) for column in report.columns)
    return (
        f"{path}: no column was found for {', '.join(what[role] for role in missing)}; the file has {names}. "
        f"Say which, as -o {missing[0] if missing else 'user'}=COLUMN"
    )


def _read(report: Report, source: Source) -> None:
    """Read the rows as an import would, or a sample of them."""
    parts = source.parts()
    events = [part for part in parts if part.stream == EVENTS]
    count = LineCount()
    chunks: list[Chunk] = []
    reasons: Counter[str] = Counter()
    emptied: Counter[str] = Counter()
    report.is_sample = len(events) > MAX_FILES
    for part in [*events[:MAX_FILES], *(part for part in parts if part.stream != EVENTS)]:
        read = list(islice(part.read(), MAX_BLOCKS + 1))
        report.is_sample |= len(read) > MAX_BLOCKS
        for chunk in read[:MAX_BLOCKS]:
            reasons.update(row.reason for row in chunk.rejected)
            emptied.update(chunk.emptied)
            if part.stream == EVENTS:
                count.add(part, chunk)
                chunks.append(chunk)
    if not chunks or not sum(chunk.rows.num_rows for chunk in chunks):
        reason = f": {reasons.most_common(1)[0][0]}" if reasons else ""
        raise InputError(f"{report.path}: not one row can be read as an event{reason}")
    rows = pa.Table.from_batches([chunk.rows for chunk in chunks])
    report.labels = list(source.declaration.label_event_types)
    report.bought = list(source.declaration.bought_event_types)
    ends = pc.min_max(rows["timestamp"]).as_py()
    report.n_rows = rows.num_rows
    report.span = [_day(ends["min"]), _day(ends["max"])]
    report.event_types = dict(Counter(rows["event"].to_pylist()).most_common())
    report.n_users, report.n_items = (len(pc.unique(rows[name])) for name in ("visitorid", "itemid"))
    report.n_duplicates = int(rows.to_pandas().duplicated().sum())
    report.lines = {"read": count.lines.total, **count.by_fate()}
    report.map = report.map or {"source": source.name}
    report.warnings += dict.fromkeys(source.notes)
    for what, counted in (("rejected", reasons), ("left empty", emptied)):
        report.warnings += [f"{n:,} {what}: {reason}" for reason, n in counted.most_common(MAX_REASONS)]
        if len(counted) > MAX_REASONS:
            report.warnings.append(f"{len(counted) - MAX_REASONS:,} further reasons for {what}")
    if report.n_duplicates:
        report.warnings.append(f"{report.n_duplicates:,} events equal another one in every column")
    blank = [column["name"] for column in report.columns if column["blank"] > 0.5]
    if blank:
        report.warnings.append(f"more than half of the values are blank: {', '.join(blank)}")


def _day(milliseconds: int) -> str:
    return dt.datetime.fromtimestamp(milliseconds / 1000, dt.UTC).strftime("%Y-%m-%d %H:%M")


def text(report: Report) -> str:
    """The report as text."""
    files = report.files if len(report.files) <= 6 else [*report.files[:5], f"… {len(report.files) - 5} more"]
    lines = [report.path, f"  files    {', '.join(files)}"]
    if report.format:
        lines.append(f"  format   {report.format}")
    if report.columns:
        width = min(max(len(column["name"]) for column in report.columns), 30)
        lines.append("  columns")
        for column in report.columns:
            role = next((role for role, name in report.map.items() if name == column["name"]), "")
            blank = f", {column['blank']:.0%} blank" if column["blank"] else ""
            examples = " | ".join(column["examples"])
            seen = f"{column['type']}{blank}, {column['distinct']:,} different: {examples}"
            lines.append(f"    {column['name']:{width}}  {role:11}  {seen}")
    if report.span:
        lines += [
            f"  events   {report.n_rows:,}" + (" (a sample: the file has more)" if report.is_sample else ""),
            f"  span     {' … '.join(dict.fromkeys(report.span))}",
            f"  types    {', '.join(f'{name} {n:,}' for name, n in report.event_types.items())}",
            f"  labels   {', '.join(report.labels)} (what lists optimise for)",
            f"  bought   {', '.join(report.bought) or 'none'} "
            f"({'hidden from the user afterwards' if report.bought else 'nothing is hidden'})",
            f"  users    {report.n_users:,}",
            f"  items    {report.n_items:,}",
            f"  lines    {', '.join(f'{n:,} {fate}' for fate, n in report.lines.items() if n)}",
        ]
    lines += [f"  note     {_one_line(warning)}" for warning in report.warnings]
    if report.command:
        lines += ["", report.command, *([report.demo] if report.demo else [])]
    if report.problem:
        lines += ["", f"It cannot be imported as it is: {report.problem}"]
    return "\n".join(lines)


def _one_line(warning: str) -> str:
    return re.sub(r"\s+", " ", warning)
