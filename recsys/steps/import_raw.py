"""Load a source's files into schema `raw`: resumable, with bad rows in quarantine instead of in the way."""

from __future__ import annotations

import csv
import datetime as dt
import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from recsys import log
from recsys import settings as settings_module
from recsys.artifacts import sha256_of
from recsys.data.sources import open_source
from recsys.data.sources.base import EVENTS, Chunk, LineCount, Part, Rejected, Source
from recsys.errors import EmptyResultError, InputError, RecsysError
from recsys.storage import raw_imports
from recsys.storage.engine import engine as open_engine
from recsys.storage.engine import migrate, with_patience
from recsys.storage.raw_imports import FileProgress

logger = logging.getLogger(__name__)

LOCK_PATIENCE_S = 15.0  # a killed import's last transaction may still be ending
MEND = "give --replace to empty the database and start over (raw tables, keys, lists, publications and posted events)"


def run(
    source: str,
    path: str | Path,
    *,
    options: Mapping[str, str] | None = None,
    replace: bool = False,
    complete_until: dt.datetime | None = None,
    quarantine_dir: str | Path | None = None,
    engine: sa.Engine | None = None,
) -> dict[str, Any]:
    """Load the files of `source` at `path`; says what was loaded, refused and left out.

    A killed run goes on where it stopped when it is called again. A file that is loaded already (told by its
    checksum) is not loaded again; new files of the same source and options are added. Bad rows go to CSV files
    (file, line, reason, row) in `quarantine_dir`, by default `quarantine` in the settings' local folder.
    `complete_until` (aware): before it, what is imported holds all events of the types that occur in it, so that data
    sets leave out posted events of that time and those types; it can be said of files that are loaded already.

    Raises InputError for a file that cannot be used, for another source than the one that the database holds,
    or for a file that changed since it was loaded; then nothing of the new import is written.
    """
    log.setup()
    if complete_until is not None and complete_until > dt.datetime.now(dt.UTC):
        raise InputError(
            f"--complete-until {complete_until.isoformat()} lies in the future; no export is complete then"
        )
    settings = settings_module.load()
    opened = open_source(source, path, options)
    parts = opened.parts()
    _check_readable(opened, parts)
    for note in opened.notes:
        logger.info("%s: %s", source, note)
    checksums = {part.path: sha256_of(part.path) for part in parts}
    engine = engine or open_engine(settings)
    loading = _Loading(
        source=opened,
        path=str(path),
        options=dict(options or {}),
        parts=parts,
        checksums=checksums,
        quarantine=Path(quarantine_dir or settings.local_dir / "quarantine"),
        replace=replace,
        complete_until=complete_until,
    )
    migrate(engine)
    return with_patience(lambda: loading.run(engine), settings.database_patience_s)


class _Loading:
    """One call of `run`; started again from the database's own record when the connection is lost."""

    def __init__(
        self,
        source: Source,
        path: str,
        options: dict[str, str],
        parts: list[Part],
        checksums: dict[Path, str],
        quarantine: Path,
        replace: bool,
        complete_until: dt.datetime | None,
    ) -> None:
        self.source = source
        self.path = path
        self.options = options
        self.parts = parts
        self.checksums = checksums
        self.quarantine = quarantine
        self.replace = replace
        self.complete_until = complete_until
        self.emptied: dict[tuple[str, str], Counter[str]] = {}  # (stream, file) → reason → cells left empty
        self.lines: Counter[str] = Counter()  # of the files read by this run, by what became of them

    def run(self, engine: sa.Engine) -> dict[str, Any]:
        with engine.connect() as connection:
            connection.detach()  # the lock lasts as long as the connection: it must not go back to a pool
            _lock(connection)
            started = time.monotonic()
            with connection.begin():
                if self.replace:
                    raw_imports.start_over(connection)
                self._register(connection)
            self.replace = False  # after a lost connection the load goes on, it does not start over
            progress = raw_imports.files(connection)
            connection.commit()
            pending = [part for part in self.parts if not progress[part.stream, part.name].complete]
            with _bar() as bar:
                for part in pending:
                    self._load_part(connection, part, progress[part.stream, part.name], bar)
            return self._finish(connection, n_pending=len(pending), seconds=time.monotonic() - started)

    def _register(self, connection: sa.Connection) -> None:
        """Note what is new in this import; InputError where it does not fit what the database holds."""
        former = raw_imports.imports(connection)
        known = raw_imports.files(connection)
        for row in former:
            if row.source != self.source.name or row.options != self.options:
                raise InputError(
                    f"the database holds source {row.source} {_shown(row.options)}from {row.path}; a database has "
                    f"one source. To load {self.source.name} {_shown(self.options)}instead, {MEND}"
                )
        new = []
        for part in self.parts:
            there = known.get((part.stream, part.name))
            if there is None:
                new.append({"stream": part.stream, "file": part.name, "sha256": self.checksums[part.path]})
            elif there.sha256 != self.checksums[part.path]:
                raise InputError(
                    f"{part.path}: another file of this name is loaded already, and this one differs from it. "
                    f"Put new rows into a file of a new name, or {MEND}"
                )
        ours = {(part.stream, part.name) for part in self.parts}
        for row in former:
            if row.status == "loading" and not any(
                key in ours for key, file in known.items() if file.import_id == row.import_id
            ):
                raise InputError(
                    f"the import of {row.path} is not finished; run `recsys import {row.source} {row.path}` "
                    f"again to finish it, or {MEND}"
                )
        if new:
            declaration = {name: _json(value) for name, value in asdict(self.source.declaration).items()}
            values = {"source": self.source.name, "path": self.path, "options": self.options, **declaration}
            raw_imports.add_import(connection, values | {"complete_until": self.complete_until}, new)
        elif self.complete_until is not None:
            raw_imports.say_complete(connection, self.complete_until)

    def _load_part(self, connection: sa.Connection, part: Part, progress: FileProgress, bar: Progress) -> None:
        task = bar.add_task(f"{part.stream} {part.name}", total=None, rows=f"{progress.n_loaded:,}")
        resume_at, read_to = progress.position, 0
        emptied = self.emptied[part.stream, part.name] = Counter()
        count = LineCount()
        with _Quarantine(self._quarantine_file(progress), part.name) as quarantine:
            for chunk in part.read():
                count.add(part, chunk)
                quarantine.write(chunk.rejected)
                emptied.update(chunk.emptied)
                starts_at, read_to = read_to, chunk.end
                if read_to <= resume_at:
                    continue  # loaded before the last interruption
                if starts_at != progress.position:
                    raise RecsysError(f"{part.path}: it is read in other pieces than when its load began; {MEND}")
                with connection.begin():
                    progress = raw_imports.append(
                        connection,
                        progress,
                        chunk.rows,
                        end=chunk.end,
                        n_rejected=len(chunk.rejected),
                        left_out=chunk.left_out,
                    )
                bar.update(task, rows=f"{progress.n_loaded:,}")
        with connection.begin():
            raw_imports.mark_file_complete(connection, progress)
        self.lines.update(count.by_fate())
        logger.info("%s%s", _told(progress, self._quarantine_file(progress), emptied), _lines_told(count))

    def _quarantine_file(self, progress: FileProgress) -> Path:
        folder = self.quarantine / f"{self.source.name}-{progress.import_id}"
        return folder / f"{progress.stream}-{progress.file.replace('/', '_')}.csv"

    def _finish(self, connection: sa.Connection, *, n_pending: int, seconds: float) -> dict[str, Any]:
        with connection.begin():
            files = [
                f for key, f in raw_imports.files(connection).items() if key in {(p.stream, p.name) for p in self.parts}
            ]
            if not sum(file.n_loaded for file in files if file.stream == EVENTS):
                raise EmptyResultError(f"{self.path}: not one event was left to load; see the counts above")
            for import_id in {file.import_id for file in files}:
                raw_imports.mark_complete(connection, import_id)
        n_loaded: Counter[str] = Counter()
        left_out: Counter[str] = Counter()
        for file in files:
            n_loaded[file.stream] += file.n_loaded
            left_out.update(file.left_out)
        refused = [file for file in files if file.n_rejected]
        result = {
            "source": self.source.name,
            "status": "loaded" if n_pending else "already loaded",
            "seconds": round(seconds, 1),
            "n_loaded": dict(n_loaded),
            "n_rejected": sum(file.n_rejected for file in files),
            "left_out": dict(left_out),
            "emptied": dict(sum(self.emptied.values(), Counter())),
            "lines": {"read": self.lines.total(), **self.lines},
            "quarantine": [str(self._quarantine_file(file)) for file in refused],
            "notes": self.source.notes,
        }
        if not n_pending:
            logger.info("%s: all files of %s are loaded already; nothing to do", self.source.name, self.path)
        return result


class _Quarantine:
    """The file of one part's bad rows; written anew from the part's start at each run, so that none is there twice."""

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self._name = name
        self._file: Any = None

    def __enter__(self) -> _Quarantine:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, rejected: list[Rejected]) -> None:
        """Add rows and hand them to the system before their chunk is committed."""
        if not rejected:
            return
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("w", newline="", encoding="utf-8")
            csv.writer(self._file).writerow(["file", "line", "reason", "row"])
        csv.writer(self._file).writerows([self._name, row.line, row.reason, row.text] for row in rejected)
        self._file.flush()


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


def _lock(connection: sa.Connection) -> None:
    deadline = time.monotonic() + LOCK_PATIENCE_S
    while not raw_imports.try_lock(connection):
        if time.monotonic() > deadline:
            raise RecsysError("another import into this database is running; wait for it to end, or stop it")
        connection.commit()
        time.sleep(0.25)
    connection.commit()


@contextmanager
def _bar() -> Iterator[Progress]:
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TextColumn("{task.fields[rows]} rows"))
    with Progress(*columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal) as bar:
        yield bar


def _told(progress: FileProgress, quarantine: Path, emptied: Mapping[str, int]) -> str:
    text = f"{progress.stream} of {progress.file}: {progress.n_loaded:,} rows loaded"
    for reason, n in progress.left_out.items():
        text += f"; left out, {reason}: {n:,}"
    for reason, n in emptied.items():
        text += f"; left empty, {reason}: {n:,}"
    if progress.n_rejected:
        text += f"; {progress.n_rejected:,} bad rows are in {quarantine}"
    return text


def _lines_told(count: LineCount) -> str:
    if not count.lines.total:
        return ""
    fates = ", ".join(f"{n:,} {fate}" for fate, n in count.by_fate().items() if n)
    return f"; {count.lines.total:,} lines = {fates}"


def _shown(options: Mapping[str, str]) -> str:
    return f"({', '.join(f'{name}={value}' for name, value in options.items())}) " if options else ""


def _json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
