"""Plans an import: what is new to the database, and what contradicts it. Reads and writes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import sqlalchemy as sa

from recsys.data.sources.base import EVENTS, Declaration, Part, Source
from recsys.errors import InputError
from recsys.storage.raw_imports import FileProgress

START_OVER = (
    "give --replace to empty the database and start over (raw tables, keys, lists, publications and posted events)"
)
_ID_TYPES = ("user_id_type", "item_id_type", "category_id_type")
_FILES = ("items", "categories")  # options with further files
_OF_ROWS = ("event", "value", "transaction")  # columns that rows loaded without them lack
_MAY_CHANGE = ("weights", "labels", "bought")  # of the lasting options: they define what is learned from rows

How = Literal["rows", "new rows", "state"]


@dataclass(frozen=True)
class Task:
    """A part to load: all `rows`; only the `new rows`, compared with those of the files `former`; or as a later `state`
    of a catalogue."""

    part: Part
    sha256: str
    how: How = "rows"
    former: tuple[FileProgress, ...] = ()
    begun: FileProgress | None = None  # resumes this one


@dataclass
class Plan:
    """What to load, and how it relates to what is loaded.

    `current`: files that are loaded already; `before`: these and the earlier files of their names; `aliases`:
    further names of loaded files, with the checksum of their content; `take_back`: partially loaded files that are not
    resumed.
    """

    tasks: list[Task] = field(default_factory=list)
    current: list[FileProgress] = field(default_factory=list)
    before: list[FileProgress] = field(default_factory=list)
    aliases: list[tuple[Part, str]] = field(default_factory=list)
    take_back: list[FileProgress] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def inherited(former: sa.Row[Any] | None, source: type[Source], options: Mapping[str, str]) -> dict[str, str]:
    """The options, with defaults from the previous import for those that define the meaning of rows and ids."""
    if former is None or former.source != source.name:
        return dict(options)
    kept = {name: former.options[name] for name in source.lasting_options if former.options.get(name) is not None}
    types = {name: getattr(former, name) for name in _ID_TYPES if name in source.option_names}
    return {**kept, **types, **options}


def spelt_out(source: Source, options: Mapping[str, str]) -> dict[str, str]:
    """The options with the id types that the source detected, which persist as well."""
    types = {name: getattr(source.declaration, name) for name in _ID_TYPES if name in source.option_names}
    return {**options, **types}


def check_fits(former: sa.Row[Any], source: Source, options: Mapping[str, str]) -> None:
    """InputError where rows would have another meaning than those of the previous import."""
    if former.source != source.name:
        raise InputError(
            f"the database has source {former.source} from {former.path}; a database has one source. "
            f"To load {source.name} instead, {START_OVER}"
        )
    for name in source.lasting_options:
        before, now = former.options.get(name), options.get(name)
        if name not in _MAY_CHANGE and before and now and before != now:
            raise InputError(
                f"option {name}={now}: it was {name}={before} when {former.path} was loaded, and rows of different "
                f"meaning cannot be distinguished. Name the column {before!r} in the file, too, or {START_OVER}"
            )
    for name in _OF_ROWS:
        if name in source.lasting_options and options.get(name) and not former.options.get(name):
            what = {"event": "event types", "value": "values", "transaction": "transactions"}[name]
            raise InputError(
                f"option {name}={options[name]}: the loaded events have been read without {what}, and would "
                f"stay so. To read them again, import all their files with this option, and {START_OVER}"
            )
    for name in _ID_TYPES:
        before, now = getattr(former, name), getattr(source.declaration, name)
        if before != now:
            raise InputError(
                f"{name} is {now} in this import, and {before} in the database; "
                f"{f'leave out the option {name}' if name in options else 'use ids of that type'}, or {START_OVER}"
            )


def with_roles_kept(former: sa.Row[Any], source: Source, options: Mapping[str, str]) -> Declaration:
    """The source's declaration, with the label and bought types of the previous import, unless the options set them. A
    new type is a label if its weight exceeds that of all types that are not, and bought if its weight is at least
    that of a bought type."""
    now = source.declaration
    if "labels" not in source.lasting_options or len(former.event_weights) < 2:
        return now  # a single type is label and bought by default
    weights = now.event_weights
    known = [name for name in former.event_weights if name in weights]
    labels = [name for name in former.label_event_types if name in weights]
    bought = [name for name in former.bought_event_types if name in weights]
    if labels and not options.get("labels"):
        no_label = max((weights[name] for name in known if name not in labels), default=0.0)
        labels += [name for name in weights if name not in known and weights[name] > max(no_label, 0.0)]
        now = replace(now, label_event_types=tuple(labels))
    if bought and not options.get("bought"):
        least = min(weights[name] for name in bought)
        bought += [name for name in weights if name not in known and weights[name] >= max(least, 0.0)]
        now = replace(now, bought_event_types=tuple(bought))
    return now


def changes(former: sa.Row[Any], now: Declaration) -> list[str]:
    """How an import's event types differ from those of the previous one, as notes."""
    notes = []
    for name, weight in now.event_weights.items():
        before = former.event_weights.get(name)
        if before is None:
            notes.append(f"event type {name} is new, with weight {weight:g}")
        elif before != weight:
            notes.append(f"event type {name} has weight {weight:g} from now on, not {before:g}")
    for what, column in (("labels", "label_event_types"), ("bought", "bought_event_types")):
        if set(getattr(former, column)) != set(getattr(now, column)):
            notes.append(f"{what} are {', '.join(getattr(now, column))} from now on")
    return notes


def plan(
    parts: Sequence[Part],
    checksums: Mapping[tuple[str, str], str],
    known: Sequence[FileProgress],
    imports: Mapping[int, sa.Row[Any]],
    options: Mapping[str, str],
    declaration: Declaration,
) -> Plan:
    """`known`: all files, oldest first; `imports`: by id. Files are identified by content, not by name."""
    made = Plan()
    seen: dict[tuple[str, str], str] = {}

    def as_then(file: FileProgress) -> bool:
        """Whether it was read with the current options (other than further files) and weights."""
        row = imports[file.import_id]
        then, now = ({n: v for n, v in given.items() if n not in _FILES} for given in (row.options, options))
        return then == now and row.event_weights == declaration.event_weights

    there = {(file.stream, file.file, file.sha256) for file in known}
    by_name_first = sorted(parts, key=lambda p: (p.stream, p.name, checksums[p.stream, p.name]) not in there)
    for part in by_name_first:
        sha256 = checksums[part.stream, part.name]
        if other := seen.get((part.stream, sha256)):
            if (part.stream, part.name, sha256) not in there:
                made.notes.append(f"{part.name} holds what {other} holds; not loaded again")
                made.aliases.append((part, sha256))
            continue
        seen[part.stream, sha256] = part.name
        of_stream = [file for file in known if file.stream == part.stream]
        complete = [file for file in of_stream if file.complete]
        begun = [f for f in of_stream if not f.complete and f.sha256 == sha256 and as_then(f)]
        same = _same(part, sha256, complete)
        if same is not None and (not same.n_rejected or as_then(same)):
            made.current.append(same)
            made.before += [same] if part.is_state else _states(same.file, complete)
            if (part.stream, part.name, sha256) not in there:
                made.notes.append(f"{part.name} holds what {same.file} held; not loaded again")
                made.aliases.append((part, sha256))
            continue
        if same is not None:
            made.notes.append(f"{part.name} is read again: rows of it were rejected, and options or weights changed")
        former = tuple(complete if part.is_state else _states(same.file if same else part.name, complete))
        if not former or part.stream == "category_tree":
            how: How = "rows"
        else:
            how = "state" if part.is_state else "new rows"
        made.tasks.append(Task(part, sha256, how, former, begun[0] if begun else None))
    made.tasks.sort(key=lambda task: parts.index(task.part))
    going_on = {task.begun.file_id for task in made.tasks if task.begun}
    made.take_back = [file for file in known if not file.complete and file.file_id not in going_on]
    made.notes += _left_half(made, parts)
    return made


def _same(part: Part, sha256: str, complete: Sequence[FileProgress]) -> FileProgress | None:
    """The loaded file of equal content: any for events, only the newest for streams that later files supersede."""
    if part.stream != EVENTS:
        newest = [file for file in complete if part.is_state or file.file == part.name][-1:]
        of_other_names = [] if part.is_state else [f for f in complete if not newest and f.sha256 == sha256]
        complete = [*newest, *of_other_names]
    same = [file for file in complete if file.sha256 == sha256]
    read = [file for file in same if file.position]  # the others are aliases
    return next(reversed(read or same), None)


def _states(name: str, complete: Sequence[FileProgress]) -> list[FileProgress]:
    """The files of a name so far: those loaded under it, and those that they were aliases of."""
    found: dict[int, FileProgress] = {}

    def add(name: str, until: int) -> None:
        for file in complete:
            if file.file == name and file.file_id <= until and file.file_id not in found:
                found[file.file_id] = file
                for earlier in complete:
                    if earlier.sha256 == file.sha256 and earlier.file_id < file.file_id:
                        add(earlier.file, earlier.file_id)

    add(name, max((file.file_id for file in complete), default=0))
    return list(found.values())


def _left_half(made: Plan, parts: Sequence[Part]) -> Iterator[str]:
    ours = {(part.stream, part.name) for part in parts}
    for file in made.take_back:
        if (file.stream, file.file) not in ours:
            yield (
                f"the load of {file.file} was interrupted and is not resumed: "
                f"its {file.n_loaded:,} loaded rows are removed; import it again"
            )
