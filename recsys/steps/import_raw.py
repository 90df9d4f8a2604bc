"""Load a source's files into schema `raw`: resumable, and quarantines bad rows."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from recsys import log
from recsys import settings as settings_module
from recsys.data.sources import open_source, source_of
from recsys.data.sources.base import EVENTS, Chunk, Part, Source, as_text
from recsys.data.sources.checksums import checksums_of
from recsys.errors import EmptyResultError, InputError, RecsysError
from recsys.steps.imports import summary
from recsys.steps.imports.accounts import Accounts
from recsys.steps.imports.files import Files
from recsys.steps.imports.plan import (
    Plan,
    changes,
    check_fits,
    inherited,
    plan,
    spelt_out,
    with_roles_kept,
)
from recsys.steps.imports.progress import progress_bar
from recsys.steps.imports.request import Request
from recsys.storage import raw_erased, raw_imports
from recsys.storage.engine import engine as open_engine
from recsys.storage.engine import require_current, with_patience
from recsys.storage.raw_differences import n_duplicates
from recsys.storage.raw_imports import FileProgress

LOCK_PATIENCE_S = 15.0  # for the last transaction of a killed import


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
    """Load the files of `source` at `path`; returns what was loaded, rejected and left out.

    A killed run is resumed by the next call. Files are identified by their content: a loaded file is not loaded again
    under any name, and of a changed file only the new rows are. Options that define the meaning of rows persist between
    imports; later ones may extend, not contradict them. Bad rows go to CSV files (file, line, reason, row) in
    `quarantine_dir`, by default `quarantine` in the settings' local folder.
    `replace`: replace all data in the database, in one transaction.
    `drop_duplicates`: leave out events that equal a loaded one in every column.
    `keep_duplicates`: load a new file whole, however many of its events are loaded already; else a file that contains
    a loaded one is that one grown, under any name, and one that shares many events with loaded ones is refused.
    `allow_bad_rows`: load a file's good rows however many are bad; else a file with more than ten bad rows, if they are
    more than half of it (with `replace`, a tenth), is refused.
    `complete_until` (aware): the import has all events before it of the types that occur in it, so that data sets leave
    out posted events of that time and those types; it can be set for files that are loaded already.

    Raises InputError for an unusable file, for another source than that of the database, and for a file of events that
    lost rows since it was loaded; EmptyResultError where no event is left. The database is then unchanged.
    """
    log.setup()
    if complete_until is not None and complete_until > dt.datetime.now(dt.UTC):
        raise InputError(
            f"--complete-until {complete_until.isoformat()} is in the future; no export can be complete then"
        )
    if drop_duplicates and keep_duplicates:
        raise InputError("--drop-duplicates and --keep-duplicates contradict each other; give one of them")
    source_of(source, Path(path))  # before a database is started
    settings = settings_module.load()
    engine = engine or open_engine(settings)
    request = Request(
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
    loading = _Loading(request)
    with_patience(lambda: require_current(engine), settings.database_patience_s)
    return with_patience(lambda: loading.run(engine), settings.database_patience_s)


class _Loading:
    """One call of `run`; resumed from the record in the database after a lost connection."""

    source: Source

    def __init__(self, request: Request) -> None:
        self.request = request
        self.accounts = Accounts(request)
        self.files = Files(request, self.accounts)

    def run(self, engine: sa.Engine) -> dict[str, Any]:
        with engine.connect() as connection:
            connection.detach()  # a session-level lock: the connection must not return to a pool
            _lock(connection)
            started = time.monotonic()
            if not self.request.replace:
                result = self._load(connection)
            else:
                with connection.begin():
                    raw_imports.empty_raw(connection)
                    result = self._load(connection)
                    raw_imports.start_over(connection)  # last: readers of lists wait from here to the commit
                    raw_erased.hold_off_erasures(connection)
                    self.files.leave_out_erased(connection)
                self.request.replace = False  # committed: a retry resumes and does not start over
            return {"seconds": round(time.monotonic() - started, 1), **result}

    def _load(self, connection: sa.Connection) -> dict[str, Any]:
        with self.request.transaction(connection):
            former = raw_imports.imports(connection)
            self.files.look_at_erased(connection)
        newest = former[-1] if former else None
        options = inherited(newest, source_of(self.request.source, self.request.path), self.request.options)
        weights = {**(newest.event_weights if newest is not None else {}), **self.request.weights}
        self.source = open_source(self.request.source, self.request.path, options, weights)
        parts = self.source.parts()
        self.accounts.notes = []
        self.accounts.note(self.source.notes)
        if newest is not None:
            check_fits(newest, self.source, options)
            self.source.declaration = with_roles_kept(newest, self.source, options)
        options = spelt_out(self.source, options)
        checksums = checksums_of(parts)
        with self.request.transaction(connection):
            known = raw_imports.files(connection)
        planned = plan(
            parts, checksums, known, {row.import_id: row for row in former}, options, self.source.declaration
        )
        _check_readable(self.source, [task.part for task in planned.tasks])
        with self.request.transaction(connection):
            begun = self._register(connection, planned, options, newest)
        self.files.begin(planned.tasks, begun)
        try:
            return self._load_files(connection, planned, begun)
        except RecsysError:
            if not self.request.replace:
                with connection.begin():
                    unfinished = {row.import_id for row in former if row.status != "complete"}
                    touched = {file.import_id for file in begun}
                    touched |= {file.import_id for file in planned.current} & unfinished
                    files = raw_imports.files(connection)
                    raw_imports.take_back(connection, [file for file in files if file.import_id in touched])
            raise

    def _register(
        self, connection: sa.Connection, planned: Plan, options: dict[str, str], newest: Any
    ) -> list[FileProgress]:
        """Record what is new in this import; returns the file of each task."""
        if planned.take_back:
            raw_imports.take_back(connection, planned.take_back)
        self.accounts.note(planned.notes)
        declaration = {name: _json(value) for name, value in asdict(self.source.declaration).items()}
        changed = changes(newest, self.source.declaration) if newest is not None else []
        self.accounts.note(changed)
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
        if new or aliases or changed:
            texts = {name: as_text(value) for name, value in options.items()}
            path = as_text(str(self.request.path))
            values = {"source": self.source.name, "path": path, "options": texts, **declaration}
            status = "loading" if new else "complete"
            added = raw_imports.add_import(
                connection, values | {"complete_until": self.request.complete_until, "status": status}, [*new, *aliases]
            )
        elif self.request.complete_until is not None:
            raw_imports.say_complete(connection, self.request.complete_until)
        waiting = iter(added)
        return [task.begun or next(waiting) for task in planned.tasks]

    def _load_files(self, connection: sa.Connection, planned: Plan, begun: list[FileProgress]) -> dict[str, Any]:
        with progress_bar() as bar:
            pairs = zip(planned.tasks, begun, strict=True)
            loaded = [self.files.load(connection, task, file, bar) for task, file in pairs]
        return self._finish(connection, planned, loaded)

    def _finish(self, connection: sa.Connection, planned: Plan, loaded: list[FileProgress]) -> dict[str, Any]:
        """Complete the import after all files are loaded, now or before it was killed."""
        former = [file for task in planned.tasks for file in task.former if not task.part.is_state]
        with self.request.transaction(connection):
            now = {file.file_id: file for file in raw_imports.files(connection)}
            loaded = [now[file.file_id] for file in loaded]
            current = [*planned.current, *loaded]
            files = {file.file_id: file for file in [*planned.before, *former, *loaded]}.values()
            if not sum(file.n_loaded for file in files if file.stream == EVENTS):
                raise EmptyResultError(f"{self.request.path}: not one event was left to load; see the counts above")
            finished = raw_imports.mark_complete(connection)
            ours = finished & {file.import_id for file in current}
            of_ours = [file for file in current if file.import_id in ours]
            new_events = [file.file_id for file in of_ours if file.stream == EVENTS]
            n_twice = n_duplicates(connection, new_events) if new_events else 0
            whole = summary.of_database(connection) if ours else {}
            paths = [row.path for row in raw_imports.imports(connection) if row.import_id in finished - ours]
        self.accounts.note([f"the import of {path}, which was interrupted at the end, is finished" for path in paths])
        if n_twice:
            self.accounts.note(
                [f"{n_twice:,} of the events equal another one in every column; --drop-duplicates leaves such out"]
            )
        return summary.of_import(self.accounts, current, list(files), of_ours, n_twice, whole)


def _check_readable(source: Source, parts: list[Part]) -> None:
    """InputError when the first rows of a file are all bad: it probably has another format."""
    for part in parts:
        first: Chunk | None = next(part.read(), None)
        if first is not None and first.rejected and not first.rows.num_rows and not sum(first.left_out.values()):
            row = first.rejected[0]
            raise InputError(
                f"{part.path}: not one of the first {len(first.rejected):,} rows can be read as {part.stream} of "
                f"{source.name}; line {row.line}: {row.reason} ({row.text[:200]})"
            )


def _lock(connection: sa.Connection) -> None:
    deadline = time.monotonic() + LOCK_PATIENCE_S
    while not raw_imports.try_lock(connection):
        if time.monotonic() > deadline:
            raise RecsysError("another import into this database is running; wait for it to end, or stop it")
        connection.commit()
        time.sleep(0.25)
    connection.commit()


def _json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
