"""Loads a file: in chunks, or, where some of its rows may be loaded already, only the difference."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import sqlalchemy as sa

from recsys.data.sources.base import EVENTS, Chunk, Part
from recsys.errors import InputError, RecsysError
from recsys.steps.imports.accounts import Accounts
from recsys.steps.imports.known import are_others, continued, shown
from recsys.steps.imports.plan import START_OVER, Task
from recsys.steps.imports.progress import Bar, Quarantine
from recsys.steps.imports.request import Request
from recsys.storage import keys, raw_erased, raw_imports
from recsys.storage.raw_differences import Staged
from recsys.storage.raw_imports import FileProgress
from recsys.storage.raw_seen import Seen

LOADED_BEFORE = "loaded before"
DUPLICATE = "exact duplicates"
AS_BEFORE = "said before"  # of a catalogue


class Files:
    """Loads the files of one import, one after the other."""

    def __init__(self, request: Request, accounts: Accounts) -> None:
        self.request = request
        self.accounts = accounts
        self.begun: list[int] = []  # ids of the files of this import
        self.n_to_compare = 0
        self.seen: Seen | None = None  # created when several files are compared
        self.n_there: Mapping[int, int] = {}  # file → its number of loaded events, where users were erased since

    def look_at_erased(self, connection: sa.Connection) -> None:
        """Read the erased users, and how many events of each file are left."""
        self.accounts.erased = keys.erased(connection)
        self.n_there = raw_erased.n_there(connection) if self.accounts.erased else {}

    def begin(self, tasks: Sequence[Task], begun: Sequence[FileProgress]) -> None:
        """Start on tasks, with the recorded file of each."""
        self.begun = [file.file_id for file in begun]
        self.n_to_compare = sum(task.part.stream == EVENTS for task in tasks)
        self.seen = None

    def load(self, connection: sa.Connection, task: Task, file: FileProgress, bar: Bar) -> FileProgress:
        """Load a file, resuming where it was interrupted; returns its updated record."""
        if task.how == "rows" and not self._may_be_there(connection, task, file):
            return self._load_rows(connection, task.part, file, bar)
        return self._load_difference(connection, task, file, bar)

    def _may_be_there(self, connection: sa.Connection, task: Task, file: FileProgress) -> bool:
        """Whether events of a file may be loaded already, so that it has to be compared first."""
        if task.part.stream != EVENTS or self.request.drop_duplicates:
            return task.part.stream == EVENTS
        if self.request.keep_duplicates or file.position:
            return False
        with self.request.transaction(connection):
            return bool(self._others(connection, file))

    def _load_rows(self, connection: sa.Connection, part: Part, progress: FileProgress, bar: Bar) -> FileProgress:
        """Load chunk by chunk, each in one transaction with the position in the file; resumes at that position."""
        resume_at, read_to = progress.position, 0
        with Quarantine(self.accounts.quarantine_file(progress), part.name) as quarantine, bar.file(part) as show:
            for chunk in self.accounts.read(part):
                quarantine.write(chunk.rejected)
                starts_at, read_to = read_to, chunk.end
                if read_to <= resume_at:
                    continue  # loaded before the last interruption
                if starts_at != progress.position:  # another release with other chunks: restart the file
                    with self.request.transaction(connection):
                        progress = raw_imports.begin_again(connection, progress)
                    return self._load_rows(connection, part, progress, bar)
                with self.request.transaction(connection):
                    progress = raw_imports.append(
                        connection,
                        progress,
                        chunk.rows,
                        end=chunk.end,
                        reasons=_reasons(chunk),
                        left_out=chunk.left_out,
                    )
                    progress = self._before_commit(connection, part, progress)
                    self.seen = None
                show(progress.n_loaded)
        with self.request.transaction(connection):
            self._mark_complete(connection, part, progress)
        self.accounts.log(part, progress)
        return progress

    def _load_difference(self, connection: sa.Connection, task: Task, file: FileProgress, bar: Bar) -> FileProgress:
        """Load the rows of the file that are new, in one transaction."""
        part = task.part
        reasons: Counter[str] = Counter()
        left_out: Counter[str] = Counter()
        end = 0
        with (
            self.request.transaction(connection),
            Quarantine(self.accounts.quarantine_file(file), part.name) as quarantine,
            bar.file(part) as show,
        ):
            if file.position:  # killed while it was loaded in chunks: restart, and compare all of it
                file = raw_imports.begin_again(connection, file)
            staged = Staged(connection, part.stream)
            for chunk in self.accounts.read(part):
                quarantine.write(chunk.rejected)
                staged.add(chunk.rows)
                reasons.update(_reasons(chunk))
                left_out.update(chunk.left_out)
                end = chunk.end
                show(staged.n_rows)
            n_new, why = self._insert(connection, staged, task, file)
            if staged.n_rows > n_new:
                left_out[why] += staged.n_rows - n_new
                if part.stream == EVENTS:  # in other streams a line may be several rows
                    self.accounts.lines[part.stream, part.name].leave_out(staged.n_rows - n_new)
            file = raw_imports.note(connection, file, end=end, n_loaded=n_new, reasons=reasons, left_out=left_out)
            file = self._before_commit(connection, part, file)
            self._mark_complete(connection, part, file)
        self.accounts.log(part, file)
        return file

    def leave_out_erased(self, connection: sa.Connection) -> bool:
        """Remove loaded rows of users who were erased since the last call; whether there are any."""
        known, self.accounts.erased = self.accounts.erased, keys.erased(connection)
        if late := self.accounts.erased - known:
            raw_erased.remove(connection, self.begun, late)
        return bool(late)

    def _before_commit(self, connection: sa.Connection, part: Part, file: FileProgress) -> FileProgress:
        """The file without the rows of users who were erased meanwhile."""
        if not self.request.replace:  # with `replace` all is one transaction, see `run`
            raw_erased.hold_off_erasures(connection)
        if not self.leave_out_erased(connection):
            return file
        less = raw_imports.again(connection, file)
        self.accounts.lines[part.stream, part.name].leave_out(file.n_loaded - less.n_loaded)
        return less

    def _insert(self, connection: sa.Connection, staged: Staged, task: Task, file: FileProgress) -> tuple[int, str]:
        """The number of rows that were new, and why the others were left out."""
        part = task.part
        if task.how == "state":
            state = staged.insert_state(file, int(dt.datetime.now(dt.UTC).timestamp() * 1000))
            text = f"{part.name} is a later state: {state.n_changed:,} properties are new or changed"
            text += f", {state.n_emptied:,} emptied" if state.n_emptied else ""
            if state.n_missing:
                text += f"; {state.n_missing:,} that were described before are not in it and stay unchanged"
            self.accounts.note([text])
            return state.n_changed, AS_BEFORE
        why = LOADED_BEFORE
        has_grown = False
        if task.former and part.stream == EVENTS:
            against = staged.against([former.file_id for former in task.former])
            if against.is_later:
                self.accounts.note([f"{part.name} is another file than before, and all later: loaded additionally"])
            elif against.n_missing:
                raise InputError(
                    f"{part.path}: another file of this name is loaded already, and this one differs from it: "
                    f"{against.n_missing:,} of the {against.n_former:,} rows of that one are not in it any more. "
                    f"If it has new rows only, give it another name; if rows were withdrawn, {START_OVER}"
                )
            else:
                has_grown = True
                self.accounts.note([f"{part.name} has grown: only its new rows are loaded"])
        elif task.former:
            staged.against([former.file_id for former in task.former])
            self.accounts.note([f"{part.name} has changed: its new rows are loaded, its earlier ones stay"])
        if self.request.drop_duplicates and part.stream == EVENTS:
            return staged.insert_distinct(file), DUPLICATE if not task.former else f"{LOADED_BEFORE} or {DUPLICATE}"
        if part.stream == EVENTS and not self.request.keep_duplicates:
            self._compare_with_others(connection, staged, task, self._others(connection, file), has_grown)
        return staged.insert_new(file), why

    def _compare_with_others(
        self, connection: sa.Connection, staged: Staged, task: Task, others: list[FileProgress], has_grown: bool
    ) -> None:
        """Compare with the files of other names that this one contains, beside those of its own name."""
        own = {former.file_id for former in task.former}
        others = [other for other in others if other.file_id not in own]
        if self.seen is None and self.n_to_compare > 1:
            self.seen = Seen(connection)
        if self.seen is not None and are_others(staged, others, self.seen):
            return
        contained = continued(task.part, staged, others, is_known=has_grown)
        if contained:
            staged.against([*own, *(other.file_id for other in contained)])
            self.accounts.note(
                [f"{task.part.name} contains {shown(contained)}: it has grown, only its new rows are loaded"]
            )

    def _others(self, connection: sa.Connection, file: FileProgress) -> list[FileProgress]:
        """The loaded files of events, except this one, with the number of their events that are left."""
        known = [f for f in raw_imports.files(connection) if f.stream == EVENTS and f.complete]
        if self.accounts.erased:
            known = [replace(f, n_loaded=self.n_there.get(f.file_id, f.n_loaded)) for f in known]
        return [f for f in known if f.n_loaded and f.file_id != file.file_id]

    def _mark_complete(self, connection: sa.Connection, part: Part, file: FileProgress) -> None:
        """Check the counts of a file that is read to its end, and mark it complete."""
        self.accounts.check_share_of_bad(part, file)
        n_counted = file.n_loaded + file.n_rejected + sum(file.left_out.values())
        if part.stream == EVENTS and n_counted != file.position:
            raise RecsysError(
                f"{part.path}: {file.n_loaded:,} rows loaded, {file.n_rejected:,} rejected, {file.left_out} left out "
                f"are not its {file.position:,} rows; this is a bug of the import: nothing of the file is loaded"
            )
        raw_imports.mark_file_complete(connection, file)


def _reasons(chunk: Chunk) -> Counter[str]:
    return Counter(row.reason for row in chunk.rejected)
