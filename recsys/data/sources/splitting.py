"""Lines into records, so that no line is lost: a stray quote costs its own line and nothing after it.

The rule. A line ends with LF, CR LF or CR. A line is a record when each of its values is either without a quote at its
start, or quoted as a whole (a quote inside doubled) with a delimiter or the line's end behind the closing quote, and
their number is that of the columns. A record may go on over further lines inside a quoted value when all of it keeps to
this, none of the lines in between has the right number of columns by itself (quotes taken as other characters), and
not both its first and its last line have. A line that is none, but is one where a backslash before a quote, or before
another backslash, stands for it, is read so. Every other line is rejected alone, and reading goes on with the next.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from recsys.data.sources.base import Lines, Rejected
from recsys.data.sources.heads import blanks_before_quotes

MAX_RECORD_BYTES = 1 << 20  # of a record that goes on over several lines
MAX_ROWS = 250_000  # about, that are given back at once
MAX_TEXT = 10_000  # characters of a rejected line that are kept
_STAND_IN = b"\x1f"  # for a delimiter of more than one byte
_NO_TEXT = b"\xff"  # for NUL, which breaks the CSV reader: no UTF-8 either, so that the cell is refused


_NO_LINES = Lines(0)


@dataclass(frozen=True)
class Split:
    """Records out of successive lines."""

    data: bytes  # the good records, one after the other, each of the right number of columns
    first_lines: NDArray[np.int64]  # (records,) where each begins
    rejected: list[Rejected] = field(default_factory=list)
    lines: Lines = _NO_LINES


class _Found:
    """Gathers what successive lines are."""

    def __init__(self, line: int) -> None:
        self.line = self._first = line
        self.n_rows = self._n_blank = self._n_continued = 0
        self._good: list[bytes] = []
        self._numbers: list[NDArray[np.int64]] = []
        self._rejected: list[Rejected] = []

    def add_run(self, records: bytes) -> None:
        n = records.count(b"\n")
        self._good.append(records)
        self._numbers.append(np.arange(self.line, self.line + n))
        self.n_rows, self.line = self.n_rows + n, self.line + n

    def add_record(self, record: bytes) -> None:
        n = record.count(b"\n")
        self._good.append(record)
        self._numbers.append(np.array([self.line]))
        self._n_continued += n - 1
        self.n_rows, self.line = self.n_rows + 1, self.line + n

    def add_blank(self, n: int) -> None:
        self._n_blank, self.line = self._n_blank + n, self.line + n

    def reject(self, reason: str, text: str) -> None:
        self._rejected.append(Rejected(self.line, reason, text))
        self.n_rows, self.line = self.n_rows + 1, self.line + 1

    def split(self) -> Split:
        numbers = np.concatenate(self._numbers) if self._numbers else np.empty(0, np.int64)
        data = self._good[0] if len(self._good) == 1 else b"".join(self._good)
        lines = Lines(self.line - self._first, blank=self._n_blank, continued=self._n_continued)
        return Split(data, numbers, self._rejected, lines)


class Splitter:
    """Takes pieces of whole lines that end with LF, keeps back what later lines must decide."""

    def __init__(
        self,
        n_columns: int,
        delimiter: str,
        quoting: bool,
        first_line: int,
        *,
        skips_blanks: bool = False,
    ) -> None:
        self.line = first_line  # number of the next line
        self._n = n_columns
        self._shown_delimiter = delimiter.encode()
        self._delimiter = self._shown_delimiter if len(self._shown_delimiter) == 1 else _STAND_IN
        self._quoting = quoting
        self._blanks = blanks_before_quotes(delimiter) if skips_blanks else None
        self._kept = b""
        self._run = _records(n_columns, self._delimiter, quoting, several_lines=False)
        self._one = _records(n_columns, self._delimiter, quoting, several_lines=True)

    @property
    def delimiter(self) -> str:
        """The delimiter of the records that are given back: one byte."""
        return self._delimiter.decode()

    def split(self, piece: bytes, *, last: bool) -> Iterator[Split]:
        """The records of what was kept back and a further piece; `last`: nothing follows that could decide."""
        if self._blanks is not None:
            piece = self._blanks.sub(self._shown_delimiter, piece)
        if self._delimiter != self._shown_delimiter:
            piece = piece.replace(self._shown_delimiter, self._delimiter)
        data = self._kept + piece if self._kept else piece
        self._kept = b""
        at, found = 0, _Found(self.line)
        while at < len(data):
            if found.n_rows >= MAX_ROWS:
                yield found.split()
                found = _Found(found.line)
            if run := self._run.match(data, at):
                end = run.end()
                found.add_run(data if end - at == len(data) else data[at:end])
            elif blank := _BLANK.match(data, at):
                end = blank.end()
                found.add_blank(end - at)
            else:
                line_end = data.index(b"\n", at) + 1
                until = self._end_of_record(data, at, line_end, last)
                if until is None:
                    self._kept = data[at:]
                    break
                end = until if until > at else line_end
                if until > at:
                    found.add_record(data[at:end].replace(b"\0", _NO_TEXT))
                elif doubled := self._with_doubled_quotes(data[at:line_end]):
                    found.add_record(doubled.replace(b"\0", _NO_TEXT))
                else:
                    found.reject(self._reason(data[at : line_end - 1]), self._shown(data, at, line_end))
            at = end
        self.line = found.line
        yield found.split()

    def reject(self, text: bytes, reason: str) -> Split:
        """One line that is given up as a whole, after all that was kept back is decided."""
        rejected = Rejected(self.line, reason, self._shown(text, 0, len(text)))
        self.line += 1
        return Split(b"", np.empty(0, np.int64), [rejected], Lines(1))

    def _with_doubled_quotes(self, line: bytes) -> bytes | None:
        """A line that escapes quotes with backslashes with doubled ones in their place; None where it is no record."""
        if not self._quoting or b'\\"' not in line:
            return None
        doubled = _doubled(line)
        return doubled if self._one.fullmatch(doubled) else None

    def _end_of_record(self, data: bytes, at: int, line_end: int, last: bool) -> int | None:
        """Where the record that begins at `at` ends; `at` where there is none; None where later lines decide."""
        limit, is_decided = line_end, True
        if self._quoting and b'"' in data[at:line_end]:
            limit, is_decided = self._reach(data, at, line_end, last)
        found = self._one.match(data, at, limit)
        if not found:
            return at if is_decided else None
        end: int = found.end()
        if end > line_end:
            last_begins = data.rindex(b"\n", at, end - 1) + 1
            if self._is_whole(data, at, line_end) and self._is_whole(data, last_begins, end):
                return at
        return end

    def _reach(self, data: bytes, at: int, line_end: int, last: bool) -> tuple[int, bool]:
        """How far a record may go: to the end of the first further line that has the right number of columns; and
        whether more lines could carry it further."""
        begin = line_end
        while begin < len(data) and begin - at < MAX_RECORD_BYTES:
            end = data.index(b"\n", begin) + 1
            if self._is_whole(data, begin, end):
                return end, True
            begin = end
        return begin, last or begin - at >= MAX_RECORD_BYTES

    def _is_whole(self, data: bytes, begin: int, end: int) -> bool:
        return data.count(self._delimiter, begin, end) == self._n - 1

    def _shown(self, data: bytes, begin: int, end: int) -> str:
        text = data[begin : min(end, begin + 4 * MAX_TEXT)].rstrip(b"\n").decode(errors="replace")
        return text.replace(self.delimiter, self._shown_delimiter.decode())[:MAX_TEXT]

    def _reason(self, line: bytes) -> str:
        """Why a line is no record, without anything of the line itself: rows are counted by their reasons."""
        at, n = 0, 1
        while True:
            if self._quoting and line[at : at + 1] == b'"':
                closed = _QUOTED.match(line, at)
                if closed is None:
                    return f"a quote opens and is not closed in column {n}"
                at = closed.end()
                if at < len(line) and line[at : at + 1] != self._delimiter:
                    return f"text follows the closing quote in column {n}"
            else:
                found = line.find(self._delimiter, at)
                at = len(line) if found < 0 else found
            if at >= len(line):
                return f"{n} columns where {self._n} are expected"
            at, n = at + 1, n + 1


_ESCAPED = re.compile(rb'\\(["\\])')
_QUOTED = re.compile(rb'"(?:[^"]++|"")*+"')
_BLANK = re.compile(rb"\n++")


def _doubled(data: bytes) -> bytes:
    return _ESCAPED.sub(lambda found: b'""' if found[1] == b'"' else b"\\", data)


def _records(n_columns: int, delimiter: bytes, quoting: bool, *, several_lines: bool) -> re.Pattern[bytes]:
    """One record that may go on over lines and hold NUL, or as many as follow each other, each on one line."""
    d = re.escape(delimiter)
    nul = b"" if several_lines else rb"\0"
    bare = rb"[^" + d + rb"\n" + nul + rb"]*+"
    if quoting:
        inside = rb'[^"]' if several_lines else rb'[^"\n\0]'
        value = rb'(?:"(?:' + inside + rb'++|"")*+"|(?!")' + bare + rb")"
    else:
        value = bare
    record = value + (rb"(?:" + d + value + rb"){%d}+" % (n_columns - 1)) + rb"\n"
    if n_columns == 1:  # a blank line is none
        record = rb"(?!\n)" + record
    return re.compile(record if several_lines else rb"(?:%s){1,%d}+" % (record, MAX_ROWS))
