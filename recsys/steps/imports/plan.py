"""What of an import is new to the database, and what of it the database refuses. Nothing is written here."""

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
_FILES = ("items", "categories")  # options that name further files
_OF_ROWS = ("event", "value", "transaction")  # columns that rows without them lack
_MAY_CHANGE = ("weights", "labels", "bought")  # of the lasting options: they say what is learned from rows

How = Literal["rows", "new rows", "state"]


@dataclass(frozen=True)
class Task:
    """A part that is to be loaded: `rows` as they are; `new rows` beside those that the files `former` brought; or as
    the later `state` of a catalogue."""

    part: Part
    sha256: str
    how: How = "rows"
    former: tuple[FileProgress, ...] = ()
    begun: FileProgress | None = None  # goes on here


@dataclass
class Plan:
    """What to load, and how that stands to what is there.

    `current`: files that are loaded already; `before`: these and all that their names brought before; `aliases`:
    further names of loaded files, with their content's checksum; `take_back`: half-loaded files that nobody goes on
    with.
    """

    tasks: list[Task] = field(default_factory=list)
    current: list[FileProgress] = field(default_factory=list)
    before: list[FileProgress] = field(default_factory=list)
    aliases: list[tuple[Part, str]] = field(default_factory=list)
    take_back: list[FileProgress] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def inherited(former: sa.Row[Any] | None, source: type[Source], options: Mapping[str, str]) -> dict[str, str]:
    """The options with what they leave unsaid and the import before said: what rows and ids mean lasts."""
    if former is None or former.source != source.name:
        return dict(options)
    kept = {name: former.options[name] for name in source.lasting_options if former.options.get(name) is not None}
    types = {name: getattr(former, name) for name in _ID_TYPES if name in source.option_names}
    return {**kept, **types, **options}


def spelt_out(source: Source, options: Mapping[str, str]) -> dict[str, str]:
    """The options with the types of ids that the source found: they last, too."""
    types = {name: getattr(source.declaration, name) for name in _ID_TYPES if name in source.option_names}
    return {**options, **types}


def check_fits(former: sa.Row[Any], source: Source, options: Mapping[str, str]) -> None:
    """InputError where rows would come to mean something else than those of the import before."""
    if former.source != source.name:
        raise InputError(
            f"the database holds source {former.source} from {former.path}; a database has one source. "
            f"To load {source.name} instead, {START_OVER}"
        )
    for name in source.lasting_options:
        before, now = former.options.get(name), options.get(name)
        if name not in _MAY_CHANGE and before and now and before != now:
            raise InputError(
                f"option {name}={now}: it was {name}={before} when {former.path} was loaded, and rows that mean "
                f"different things cannot be told apart. Name the column {before!r} in the file, too, or {START_OVER}"
            )
    for name in _OF_ROWS:
        if name in source.lasting_options and options.get(name) and not former.options.get(name):
            what = {"event": "event types", "value": "values", "transaction": "transactions"}[name]
            raise InputError(
                f"option {name}={options[name]}: the events that are loaded have been read without {what}, and would "
                f"stay so. To read them anew, import all their files with this option, and {START_OVER}"
            )
    for name in _ID_TYPES:
        before, now = getattr(former, name), getattr(source.declaration, name)
        if before != now:
            raise InputError(
                f"{name} is {now} in this import, and {before} in the database; "
                f"{f'leave out the option {name}' if name in options else 'bring ids of that type'}, or {START_OVER}"
            )


def with_roles_kept(former: sa.Row[Any], source: Source, options: Mapping[str, str]) -> Declaration:
    """What the source declares, where types of the import before keep their part as labels and as bought, unless the
    options name these. A new type is a label when it weighs more than all types that are none, and bought when it
    weighs what a bought one does."""
    now = source.declaration
    if "labels" not in source.lasting_options or len(former.event_weights) < 2:
        return now  # one type alone is label and bought for want of others
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
    """What an import says otherwise than the one before of event types, as notes."""
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
    """`known`: all files, oldest first; `imports`: by id. A file is known by its content, whatever its name."""
    made = Plan()
    seen: dict[tuple[str, str], str] = {}

    def as_then(file: FileProgress) -> bool:
        """Whether it was read by the options and weights of now; which other files there were makes no difference."""
        row = imports[file.import_id]
        then, now = ({n: v for n, v in said.items() if n not in _FILES} for said in (row.options, options))
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
    """The file that holds the same: any for rows, the newest for what later files supersede."""
    if part.stream != EVENTS:
        newest = [file for file in complete if part.is_state or file.file == part.name][-1:]
        of_other_names = [] if part.is_state else [f for f in complete if not newest and f.sha256 == sha256]
        complete = [*newest, *of_other_names]
    same = [file for file in complete if file.sha256 == sha256]
    read = [file for file in same if file.position]  # others are further names of these
    return next(reversed(read or same), None)


def _states(name: str, complete: Sequence[FileProgress]) -> list[FileProgress]:
    """The files that brought what a name stood for so far: those of that name, and what they were other names of."""
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
                f"the load of {file.file} was interrupted before and is not gone on with: "
                f"the {file.n_loaded:,} rows that it had loaded are taken back; import it again"
            )
