"""What the first lines of a delimited text tell: the delimiter, where the header is, columns that it does not name."""

from __future__ import annotations

import csv as csv_module
import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

DELIMITERS: Final = (",", ";", "\t", "|", "::")
MAX_TITLE_LINES: Final = 20
_NO_DELIMITER: Final = frozenset("\"'_.-/()[]{}\\")  # inside names, dates and numbers


def cells_of(line: str, delimiter: str, quoting: bool) -> list[str]:
    """The values of one line, also of one that is not well formed."""
    if not quoting or len(delimiter) > 1:
        return [cell.strip('"') if quoting else cell for cell in line.split(delimiter)]
    try:
        return next(iter(csv_module.reader([line], delimiter=delimiter)), [""])
    except csv_module.Error:
        return line.split(delimiter)


def delimiter_of(lines: Sequence[bytes], name: str) -> str:
    """The one that divides most lines into as many columns as the first; the more columns the better."""
    texts = [line.decode(errors="replace") for line in lines]
    best, best_score = "\t" if ".tsv" in name.lower() else ",", (0.0, 0)
    for delimiter in DELIMITERS:
        counts = [len(cells_of(text, delimiter, True)) for text in texts]
        if counts and counts[0] > 1:
            score = (counts.count(counts[0]) / len(counts), counts[0])
            if score > best_score:
                best, best_score = delimiter, score
    return best if best_score[1] else _unusual(texts) or best


def _unusual(texts: Sequence[str]) -> str | None:
    """Any other sign that divides all of several lines into as many columns, three at least; the header may have one
    less, as where R names the rows."""
    best, most = None, 2
    for sign in dict.fromkeys(texts[0] if len(texts) > 1 else ""):
        if sign.isalnum() or sign in _NO_DELIMITER:
            continue
        counts = [len(cells_of(text, sign, True)) for text in texts]
        if len(set(counts[1:])) == 1 and counts[1] - counts[0] in (0, 1) and counts[0] > most:
            best, most = sign, counts[0]
    return best


def n_title_lines(lines: Sequence[bytes], delimiter: str | None, name: str) -> int:
    """How many lines stand before the header that hold one value at most, or a comment, where the others hold three
    and more: a title, the day of the export."""
    filled = [line for line in lines if line.strip()]
    rows = [line.decode(errors="replace") for line in filled[-max(len(filled) // 2, 1) :]]
    delimiter = delimiter or delimiter_of([row.encode() for row in rows], name)
    counts = Counter(len(cells_of(row, delimiter, True)) for row in rows)
    width, n_of_width = counts.most_common(1)[0]
    if len(rows) < 2 or width < 3 or n_of_width * 2 < len(rows):
        return 0
    others = [other for other in DELIMITERS if other != delimiter]
    for n, line in enumerate(lines[: MAX_TITLE_LINES + 1]):
        text = line.decode(errors="replace")
        cells = cells_of(text, delimiter, True)
        is_comment = text.lstrip().startswith("#") and len(cells) != width
        is_header = any(len(cells_of(text, other, True)) > 2 for other in others)
        if not is_comment and (is_header or sum(bool(cell.strip()) for cell in cells) > 1):
            return n
    return 0


def with_header_on_one_line(lines: Sequence[bytes], name: str) -> tuple[list[bytes], int]:
    """Lines, the header's first as one where a name of it goes on over line ends in quotes; and how many these were."""
    for n in range(2, 11):
        if not lines or not lines[0].count(b'"') % 2 or n >= len(lines):
            break
        head = b" ".join(lines[:n])
        if not head.count(b'"') % 2:
            rest = [line for line in lines[n:] if line.strip()]
            texts = [line.decode(errors="replace") for line in (head, *rest)]
            delimiter = delimiter_of([head, *rest], name)
            counts = [len(cells_of(text, delimiter, True)) for text in texts]
            if counts[0] > 1 and counts.count(counts[0]) * 2 > len(counts):
                return [head, *lines[n:]], n
            break
    return list(lines), 1


def blanks_before_quotes(delimiter: str) -> re.Pattern[bytes]:
    """What stands between two values as in `"a", "b"`, up to the quote."""
    return re.compile(re.escape(delimiter.encode()) + rb'[ \t]+(?=")')


def skips_blanks(lines: Sequence[bytes], delimiter: str) -> bool:
    """Whether blanks after delimiters belong to the form of a text, so that values behind them are quoted."""
    pattern = blanks_before_quotes(delimiter)
    if delimiter.isspace() or not any(pattern.search(line) for line in lines):
        return False
    texts = (pattern.sub(delimiter.encode(), line).decode(errors="replace") for line in lines)
    return len({len(cells_of(text, delimiter, True)) for text in texts}) == 1


def with_unnamed(names: Sequence[str], rows: Sequence[bytes], delimiter: str, quoting: bool) -> tuple[str, ...]:
    """The columns' names, with an empty one for a column that the header leaves out: of nothing, where each line ends
    in a delimiter; or of the rows' numbers in front, as R writes them."""
    counted = [cells_of(row.decode(errors="replace"), delimiter, quoting) for row in rows]
    if len(counted) < 2 or any(len(cells) != len(names) + 1 for cells in counted):
        return tuple(names)
    if not any(cells[-1].strip() for cells in counted):
        return (*names, "")
    firsts = [int(cells[0]) for cells in counted if cells[0].isdecimal()]
    if len(firsts) == len(counted) and all(after - before == 1 for before, after in pairwise(firsts)):
        return ("", *names)
    return tuple(names)
