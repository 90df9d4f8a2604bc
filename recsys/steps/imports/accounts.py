"""The counts that an import reports of its files: lines, bad rows, notes."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path

from recsys.data.sources.base import Chunk, LineCount, Part
from recsys.errors import InputError
from recsys.steps.imports.erased import without
from recsys.steps.imports.progress import file_name
from recsys.steps.imports.request import Request
from recsys.storage import raw_imports
from recsys.storage.raw_imports import FileProgress

logger = logging.getLogger(__name__)

MAX_BAD = 0.5  # of a file's rows
MAX_BAD_REPLACING = 0.1  # stricter, since the existing data are lost
FEW_BAD = 10  # rows: too few to judge a file by


class Accounts:
    """Counts the outcomes of the lines and cells of each file that is read."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.notes: list[str] = []
        self.erased: Set[str] = frozenset()  # digests of users whose rows are left out
        self.emptied: dict[tuple[str, str], Counter[str]] = {}  # (stream, file) → reason → cells left empty
        self.lines: dict[tuple[str, str], LineCount] = {}  # (stream, file) → outcomes of its lines

    def note(self, notes: Sequence[str]) -> None:
        """Log each note once, even if it holds for several streams of a file."""
        for note in notes:
            if note not in self.notes:
                logger.info("%s: %s", self.request.source, note)
                self.notes.append(note)

    def read(self, part: Part) -> Iterator[Chunk]:
        """The chunks of a part, counting every line."""
        emptied = self.emptied[part.stream, part.name] = Counter()
        count = self.lines[part.stream, part.name] = LineCount()
        for chunk in part.read():
            chunk = without(chunk, self.erased)
            count.add(part, chunk)
            for reason, n in chunk.emptied.items():
                is_named = reason in emptied or len(emptied) < raw_imports.MAX_REASONS
                emptied[reason if is_named else raw_imports.OTHER_REASONS] += n
            yield chunk

    def check_share_of_bad(self, part: Part, file: FileProgress) -> None:
        """InputError where so many rows are bad that the file, or an option, is probably wrong."""
        bound = MAX_BAD_REPLACING if self.request.replace else MAX_BAD
        if self.request.allow_bad_rows or file.n_rejected <= max(FEW_BAD, bound * file.position):
            return
        often = sorted(file.reasons.items(), key=lambda reason: -reason[1])[:3]
        raise InputError(
            f"{part.path}: {file.n_rejected:,} of its {file.position:,} rows cannot be read as {part.stream} of "
            f"{self.request.source}: {'; '.join(f'{reason} ({n:,})' for reason, n in often)}. More than {bound:.0%} is "
            f"refused{' with --replace' if self.request.replace else ''}, and nothing was loaded; the rows are in "
            f"{self.quarantine_file(file)}. --allow-bad-rows loads the others"
        )

    def log(self, part: Part, file: FileProgress) -> None:
        key = part.stream, part.name
        text = _text(file, self.quarantine_file(file), self.emptied[key])
        logger.info("%s%s", text, _lines_text(self.lines[key]))

    def quarantine_file(self, progress: FileProgress) -> Path:
        folder = self.request.quarantine / f"{self.request.source}-{progress.import_id}"
        return folder / f"{progress.stream}-{file_name(progress.file)}.csv"


def _text(progress: FileProgress, quarantine: Path, emptied: Mapping[str, int]) -> str:
    text = f"{progress.stream} of {progress.file}: {progress.n_loaded:,} rows loaded now"
    for reason, n in progress.left_out.items():
        text += f"; left out, {reason}: {n:,}"
    for reason, n in emptied.items():
        text += f"; cells not read, {reason}: {n:,}"
    if progress.n_rejected:
        text += f"; {progress.n_rejected:,} bad rows are in {quarantine}"
    return text


def _lines_text(count: LineCount) -> str:
    if not count.lines.total:
        return ""
    fates = ", ".join(f"{n:,} {fate}" for fate, n in count.by_fate().items() if n)
    return f"; {count.lines.total:,} lines = {fates}"
