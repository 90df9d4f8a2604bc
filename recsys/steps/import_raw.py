"""Load a source's files into schema `raw`: resumable, with bad rows in quarantine instead of in the way."""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from recsys import log
from recsys import settings as settings_module
from recsys.data.sources import open_source, source_of
from recsys.data.sources.base import EVENTS, Chunk, LineCount, Part, Source, as_text
from recsys.data.sources.checksums import checksums_of
from recsys.errors import EmptyResultError, InputError, RecsysError
from recsys.steps import import_summary
from recsys.steps.import_erased import of_the_living
from recsys.steps.import_known import continued, shown
from recsys.steps.import_plan import (
    START_OVER,
    Plan,
    Task,
    changes,
    check_fits,
    inherited,
    plan,
    spelt_out,
    with_roles_kept,
)
from recsys.steps.import_progress import Bar, Quarantine, file_name, progress_bar
from recsys.storage import keys, raw_imports
from recsys.storage.engine import engine as open_engine
from recsys.storage.engine import require_current, with_patience
from recsys.storage.raw_differences import Staged, n_duplicates
from recsys.storage.raw_imports import FileProgress

logger = logging.getLogger(__name__)

LOCK_PATIENCE_S = 15.0  # a killed import's last transaction may still be ending
MAX_BAD = 0.5  # of a file's rows
MAX_BAD_REPLACING = 0.1  # what is there is lost, so what takes its place must be right
LOADED_BEFORE = "loaded before"
DUPLICATE = "exact duplicates"
AS_BEFORE = "said before"  # of a catalogue


def run(
    source: str,
    path: str | Path,
    *,
    options: Mapping[str, str] | None = None,
    replace: bool = False,
    drop_duplicates: bool = False,
    keep_duplicates: bool = False,
    allow_bad_rows: bool = False,
    complete_until: dt.datetime | None = None,
    quarantine_dir: str | Path | None = None,
    engine: sa.Engine | None = None,
) -> dict[str, Any]:
    """Load the files of `source` at `path`; says what was loaded, refused and left out.

    A killed run goes on where it stopped when it is called again. A file is known by its content: what is loaded
    already is not loaded again, whatever its name; of a changed file the new rows are loaded. Options that say what
    rows mean last from one import to the next; they may add, not contradict. Bad rows go to CSV files
    (file, line, reason, row) in `quarantine_dir`, by default `quarantine` in the settings' local folder.
    `replace`: in place of all that the database holds, in one transaction.
    `drop_duplicates`: leave out events that equal, in every column, one that is there.
    `keep_duplicates`: load a new file whole, however many of its events are there; else a file that holds a loaded one
    is that one grown, under any name, and one that shares many events with loaded ones is refused.
    `allow_bad_rows`: load a file's good rows however many of its rows are bad; else a file with more than half of them
    bad is refused, with `replace` one with more than a tenth.
    `complete_until` (aware): before it, what is imported holds all events of the types that occur in it, so that data
    sets leave out posted events of that time and those types; it can be said of files that are loaded already.

    Raises InputError for a file that cannot be used, for another source than the one that the database holds, and for
    a file of events that lost rows since it was loaded; EmptyResultError where no event is left. Then the database
    is as it was before.
    """
    log.setup()
    if complete_until is not None and complete_until > dt.datetime.now(dt.UTC):
        raise InputError(
            f"--complete-until {complete_until.isoformat()} lies in the future; no export is complete then"
        )
    if drop_duplicates and keep_duplicates:
        raise InputError("--drop-duplicates and --keep-duplicates contradict each other; give one of them")
    source_of(source, Path(path))  # before a database is started
    settings = settings_module.load()
    engine = engine or open_engine(settings)
    loading = _Loading(
        source=source,
        path=Path(path),
        options=dict(options or {}),
        weights=settings.event_weights or {},
        quarantine=Path(quarantine_dir or settings.local_dir / "quarantine"),
        replace=replace,
        drop_duplicates=drop_duplicates,
        keep_duplicates=keep_duplicates,
        allow_bad_rows=allow_bad_rows,
        complete_until=complete_until,
    )
    with_patience(lambda: require_current(engine), settings.database_patience_s)
    return with_patience(lambda: loading.run(engine), settings.database_patience_s)


class _Loading:
    """One call of `run`; started again from the database's own record when the connection is lost."""

    source: Source
    notes: list[str]

    def __init__(
        self,
        source: str,
        path: Path,
        options: dict[str, str],
        weights: Mapping[str, float],
        quarantine: Path,
        replace: bool,
        drop_duplicates: bool,
        keep_duplicates: bool,
        allow_bad_rows: bool,
        complete_until: dt.datetime | None,
    ) -> None:
        self.source_name = source
        self.path = path
        self.options = options
        self.weights = weights
        self.quarantine = quarantine
        self.replace = replace
        self.drop_duplicates = drop_duplicates
        self.keep_duplicates = keep_duplicates
        self.allow_bad_rows = allow_bad_rows
        self.complete_until = complete_until
        self.emptied: dict[tuple[str, str], Counter[str]] = {}  # (stream, file) → reason → cells left empty
        self.lines: dict[tuple[str, str], LineCount] = {}  # (stream, file) → what became of its lines

    def run(self, engine: sa.Engine) -> dict[str, Any]:
        with engine.connect() as connection:
            connection.detach()  # the lock lasts as long as the connection: it must not go back to a pool
            _lock(connection)
            started = time.monotonic()
            if not self.replace:
                result = self._load(connection)
            else:
                with connection.begin():
                    raw_imports.empty_raw(connection)
                    result = self._load(connection)
                    raw_imports.start_over(connection)  # last: readers of lists wait from here to the commit
                self.replace = False  # after a lost connection a load goes on, it does not start over
            return {"seconds": round(time.monotonic() - started, 1), **result}

    def _transaction(self, connection: sa.Connection) -> AbstractContextManager[Any]:
        """Each step is one, unless all is to take the place of what is there."""
        return nullcontext() if self.replace else connection.begin()

    def _load(self, connection: sa.Connection) -> dict[str, Any]:
        with self._transaction(connection):
            former = raw_imports.imports(connection)
        newest = former[-1] if former else None
        options = inherited(newest, source_of(self.source_name, self.path), self.options)
        weights = {**(newest.event_weights if newest is not None else {}), **self.weights}
        self.source = open_source(self.source_name, self.path, options, weights)
        parts = self.source.parts()
        self.notes = []
        self._note(self.source.notes)
        if newest is not None:
            check_fits(newest, self.source, options)
            self.source.declaration = with_roles_kept(newest, self.source, options)
        options = spelt_out(self.source, options)
        checksums = checksums_of(parts)
        with self._transaction(connection):
            known = raw_imports.files(connection)
        planned = plan(
            parts, checksums, known, {row.import_id: row for row in former}, options, self.source.declaration
        )
        _check_readable(self.source, [task.part for task in planned.tasks])
        with self._transaction(connection):
            begun = self._register(connection, planned, options, newest)
        try:
            return self._load_files(connection, planned, begun)
        except RecsysError:
            if not self.replace:
                with connection.begin():
                    touched = {file.import_id for file in begun}
                    files = raw_imports.files(connection)
                    raw_imports.take_back(connection, [file for file in files if file.import_id in touched])
            raise

    def _register(
        self, connection: sa.Connection, planned: Plan, options: dict[str, str], newest: Any
    ) -> list[FileProgress]:
        """Note what is new in this import; gives the file of each task."""
        if planned.take_back:
            raw_imports.take_back(connection, planned.take_back)
        self._note(planned.notes)
        declaration = {name: _json(value) for name, value in asdict(self.source.declaration).items()}
        said = changes(newest, self.source.declaration) if newest is not None else []
        self._note(said)
        new = [
            {"stream": task.part.stream, "file": task.part.name, "sha256": task.sha256}
            for task in planned.tasks
            if task.begun is None
        ]
        aliases = [
            {"stream": part.stream, "file": part.name, "sha256": sha256, "complete": True}
            for part, sha256 in planned.aliases
        ]
        added: list[FileProgress] = []
        if new or aliases or said:
            said_options = {name: as_text(value) for name, value in options.items()}
            path = as_text(str(self.path))
            values = {"source": self.source.name, "path": path, "options": said_options, **declaration}
            status = "loading" if new else "complete"
            added = raw_imports.add_import(
                connection, values | {"complete_until": self.complete_until, "status": status}, [*new, *aliases]
            )
        elif self.complete_until is not None:
            raw_imports.say_complete(connection, self.complete_until)
        waiting = iter(added)
        return [task.begun or next(waiting) for task in planned.tasks]

    def _load_files(self, connection: sa.Connection, planned: Plan, begun: list[FileProgress]) -> dict[str, Any]:
        loaded = []
        was_begun = any(task.begun for task in planned.tasks)
        with self._transaction(connection):
            erased = keys.erased(connection)
        with progress_bar() as bar:
            for task, file in zip(planned.tasks, begun, strict=True):
                if task.how == "rows" and not self._may_be_there(connection, task, file):
                    loaded.append(self._load_rows(connection, task.part, file, bar))
                else:
                    loaded.append(self._load_difference(connection, task, file, bar))
        former = [file for task in planned.tasks for file in task.former if task.how != "state"]
        files = {file.file_id: file for file in [*planned.before, *former, *loaded]}.values()
        with self._transaction(connection):
            if not sum(file.n_loaded for file in files if file.stream == EVENTS):
                raise EmptyResultError(f"{self.path}: not one event was left to load; see the counts above")
            new_events = [file.file_id for file in loaded if file.stream == EVENTS]
            n_twice = n_duplicates(connection, new_events) if new_events else 0
            for import_id in {file.import_id for file in loaded}:
                raw_imports.mark_complete(connection, import_id)
            if loaded and (was_begun or keys.erased(connection) != erased):  # while files were read
                raw_imports.remove_erased(connection)
            whole = import_summary.of_database(connection) if loaded else {}
        if n_twice:
            self._note(
                [f"{n_twice:,} of the events equal another one in every column; --drop-duplicates leaves such out"]
            )
        return self._result([*planned.current, *loaded], list(files), loaded, n_twice, whole)

    def _may_be_there(self, connection: sa.Connection, task: Task, file: FileProgress) -> bool:
        """Whether events of a file can be loaded already, so that it is compared before it is loaded."""
        if task.part.stream != EVENTS or self.drop_duplicates:
            return task.part.stream == EVENTS
        if self.keep_duplicates or file.position:
            return False
        with self._transaction(connection):
            return bool(_others(connection, file))

    def _load_rows(self, connection: sa.Connection, part: Part, progress: FileProgress, bar: Bar) -> FileProgress:
        """Chunk by chunk, each with the note of how far the file is dealt with; goes on where that note stands."""
        resume_at, read_to = progress.position, 0
        with Quarantine(self._quarantine_file(progress), part.name) as quarantine, bar.file(part) as say:
            for chunk in self._read(connection, part):
                quarantine.write(chunk.rejected)
                starts_at, read_to = read_to, chunk.end
                if read_to <= resume_at:
                    continue  # loaded before the last interruption
                if starts_at != progress.position:  # a release that reads in other pieces: from the file's start
                    with self._transaction(connection):
                        progress = raw_imports.begin_again(connection, progress)
                    return self._load_rows(connection, part, progress, bar)
                with self._transaction(connection):
                    progress = raw_imports.append(
                        connection,
                        progress,
                        chunk.rows,
                        end=chunk.end,
                        reasons=_reasons(chunk),
                        left_out=chunk.left_out,
                    )
                say(progress.n_loaded)
        return self._complete(connection, part, progress)

    def _load_difference(self, connection: sa.Connection, task: Task, file: FileProgress, bar: Bar) -> FileProgress:
        """What the file says beyond what is there, in one transaction."""
        part = task.part
        reasons: Counter[str] = Counter()
        left_out: Counter[str] = Counter()
        end = 0
        with (
            self._transaction(connection),
            Quarantine(self._quarantine_file(file), part.name) as quarantine,
            bar.file(part) as say,
        ):
            staged = Staged(connection, part.stream)
            for chunk in self._read(connection, part):
                quarantine.write(chunk.rejected)
                staged.add(chunk.rows)
                reasons.update(_reasons(chunk))
                left_out.update(chunk.left_out)
                end = chunk.end
                say(staged.n_rows)
            n_new, why = self._insert(connection, staged, task, file)
            if staged.n_rows > n_new:
                left_out[why] += staged.n_rows - n_new
            file = raw_imports.note(connection, file, end=end, n_loaded=n_new, reasons=reasons, left_out=left_out)
        return self._complete(connection, part, file)

    def _insert(self, connection: sa.Connection, staged: Staged, task: Task, file: FileProgress) -> tuple[int, str]:
        """The number of rows that were new, and why the others were left out."""
        part = task.part
        if task.how == "state":
            state = staged.insert_state(file, int(dt.datetime.now(dt.UTC).timestamp() * 1000))
            said = f"{part.name} is a later state: {state.n_told:,} properties are new or changed"
            said += f", {state.n_emptied:,} emptied" if state.n_emptied else ""
            if state.n_missing:
                said += f"; {state.n_missing:,} that were described before are not in it and stay as they were"
            self._note([said])
            return state.n_told, AS_BEFORE
        why = LOADED_BEFORE
        has_grown = False
        if task.former and part.stream == EVENTS:
            against = staged.against([former.file_id for former in task.former])
            if against.is_later:
                self._note([f"{part.name} is another file than before, and all later: taken as a further one"])
            elif against.n_missing:
                raise InputError(
                    f"{part.path}: another file of this name is loaded already, and this one differs from it: "
                    f"{against.n_missing:,} of the {against.n_former:,} rows that it brought are not in it any more. "
                    f"If it holds new rows alone, give it a name of its own; if rows were withdrawn, {START_OVER}"
                )
            else:
                has_grown = True
                self._note([f"{part.name} has grown: its new rows alone are loaded"])
        elif task.former:
            staged.against([former.file_id for former in task.former])
            self._note([f"{part.name} has changed: its new rows are loaded, what it said before stays"])
        if self.drop_duplicates and part.stream == EVENTS:
            return staged.insert_distinct(file), DUPLICATE if not task.former else f"{LOADED_BEFORE} or {DUPLICATE}"
        if part.stream == EVENTS and not self.keep_duplicates:
            self._set_against_others(staged, task, _others(connection, file), has_grown)
        return staged.insert_new(file), why

    def _set_against_others(self, staged: Staged, task: Task, others: list[FileProgress], has_grown: bool) -> None:
        """Compare with the files of any name that this one holds, beside those that its own name brought."""
        own = {former.file_id for former in task.former}
        others = [other for other in others if other.file_id not in own]
        held = continued(task.part, staged, others, is_known=has_grown)
        if held:
            staged.against([*own, *(other.file_id for other in held)])
            self._note([f"{task.part.name} holds what {shown(held)} brought: it has grown, its new rows are loaded"])
        elif not own:
            staged.against([])

    def _read(self, connection: sa.Connection, part: Part) -> Iterator[Chunk]:
        """The chunks of a part without erased users; every line of it must be accounted for."""
        emptied = self.emptied[part.stream, part.name] = Counter()
        count = self.lines[part.stream, part.name] = LineCount()
        for read in part.read():
            with nullcontext() if connection.in_transaction() else connection.begin():
                chunk = of_the_living(read, keys.erased(connection))
            count.add(part, read if read.n_records is not None else chunk)
            for reason, n in chunk.emptied.items():
                may_be_told = reason in emptied or len(emptied) < raw_imports.MAX_REASONS
                emptied[reason if may_be_told else raw_imports.OTHER_REASONS] += n
            yield chunk

    def _check_share_of_bad(self, part: Part, file: FileProgress) -> None:
        """InputError where so many rows are bad that the file, or an option, is rather the wrong one."""
        bound = MAX_BAD_REPLACING if self.replace else MAX_BAD
        if self.allow_bad_rows or file.n_rejected <= bound * file.position:
            return
        often = sorted(file.reasons.items(), key=lambda reason: -reason[1])[:3]
        raise InputError(
            f"{part.path}: {file.n_rejected:,} of its {file.position:,} rows cannot be read as {part.stream} of "
            f"{self.source.name}: {'; '.join(f'{reason} ({n:,})' for reason, n in often)}. More than {bound:.0%} is "
            f"refused{' with --replace' if self.replace else ''}, and nothing was loaded; the rows are in "
            f"{self._quarantine_file(file)}. --allow-bad-rows loads the others all the same"
        )

    def _complete(self, connection: sa.Connection, part: Part, file: FileProgress) -> FileProgress:
        self._check_share_of_bad(part, file)
        with self._transaction(connection):
            raw_imports.mark_file_complete(connection, file)
        key = part.stream, part.name
        told = _told(file, self._quarantine_file(file), self.emptied[key])
        logger.info("%s%s", told, _lines_told(self.lines[key]))
        return file

    def _note(self, notes: Sequence[str]) -> None:
        for note in notes:
            logger.info("%s: %s", self.source.name, note)
        self.notes += notes

    def _quarantine_file(self, progress: FileProgress) -> Path:
        folder = self.quarantine / f"{self.source.name}-{progress.import_id}"
        return folder / f"{progress.stream}-{file_name(progress.file)}.csv"

    def _result(
        self,
        current: list[FileProgress],
        all_states: list[FileProgress],
        loaded: list[FileProgress],
        n_duplicates: int,
        whole: dict[str, Any],
    ) -> dict[str, Any]:
        n_loaded: Counter[str] = Counter()
        n_before: Counter[str] = Counter()  # by earlier imports, from the files of this one
        left_out: Counter[str] = Counter()
        reasons: Counter[str] = Counter()
        lines: Counter[str] = Counter()
        for count in self.lines.values():
            lines.update(count.by_fate())
        ours = {file.import_id for file in loaded}
        for file in all_states:
            counted, other = (n_loaded, n_before) if file.import_id in ours else (n_before, n_loaded)
            counted[file.stream] += file.n_loaded
            other[file.stream] += 0
        for file in current:
            left_out.update(file.left_out)
            reasons.update(file.reasons)
        result = {
            "source": self.source.name,
            "status": "loaded" if loaded else "already loaded",
            "n_loaded": dict(n_loaded),
            "n_loaded_before": dict(n_before),
            "n_rejected": sum(file.n_rejected for file in current),
            "rejected": dict(reasons.most_common()),
            "left_out": dict(left_out),
            "emptied": dict(sum(self.emptied.values(), Counter())),
            "lines": {"read": lines.total(), **lines},
            "n_duplicates": n_duplicates,
            "quarantine": [str(self._quarantine_file(file)) for file in current if file.n_rejected],
            "files": [import_summary.of_file(file) for file in loaded],
            **whole,
            "notes": self.notes,
        }
        if loaded:
            import_summary.show(result)
        else:
            told = ", ".join(f"{n:,} rows of {stream}" for stream, n in n_before.items())
            logger.info(
                "%s: all files of %s were loaded before (%s); nothing is loaded now", self.source.name, self.path, told
            )
        return result


def _check_readable(source: Source, parts: list[Part]) -> None:
    """InputError when the first rows of a file are all bad: then the file is of another format."""
    for part in parts:
        first: Chunk | None = next(part.read(), None)
        if first is not None and first.rejected and not first.rows.num_rows and not sum(first.left_out.values()):
            row = first.rejected[0]
            raise InputError(
                f"{part.path}: not one of the first {len(first.rejected):,} rows can be read as {part.stream} of "
                f"{source.name}; line {row.line}: {row.reason} ({row.text[:200]})"
            )


def _others(connection: sa.Connection, file: FileProgress) -> list[FileProgress]:
    """The files of events that are loaded, but this one."""
    known = raw_imports.files(connection)
    return [f for f in known if f.stream == EVENTS and f.complete and f.n_loaded and f.file_id != file.file_id]


def _reasons(chunk: Chunk) -> Counter[str]:
    return Counter(row.reason for row in chunk.rejected)


def _lock(connection: sa.Connection) -> None:
    deadline = time.monotonic() + LOCK_PATIENCE_S
    while not raw_imports.try_lock(connection):
        if time.monotonic() > deadline:
            raise RecsysError("another import into this database is running; wait for it to end, or stop it")
        connection.commit()
        time.sleep(0.25)
    connection.commit()


def _told(progress: FileProgress, quarantine: Path, emptied: Mapping[str, int]) -> str:
    text = f"{progress.stream} of {progress.file}: {progress.n_loaded:,} rows loaded now"
    for reason, n in progress.left_out.items():
        text += f"; left out, {reason}: {n:,}"
    for reason, n in emptied.items():
        text += f"; cells not read, {reason}: {n:,}"
    if progress.n_rejected:
        text += f"; {progress.n_rejected:,} bad rows are in {quarantine}"
    return text


def _lines_told(count: LineCount) -> str:
    if not count.lines.total:
        return ""
    fates = ", ".join(f"{n:,} {fate}" for fate, n in count.by_fate().items() if n)
    return f"; {count.lines.total:,} lines = {fates}"


def _json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
