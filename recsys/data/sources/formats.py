"""How a text file is written: encoding, delimiter, header, quoting. Told from the file where nobody says."""

from __future__ import annotations

import csv as csv_module
import difflib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from recsys.data.sources.heads import (
    blanks_before_quotes,
    cells_of,
    delimiter_of,
    n_title_lines,
    skips_blanks,
    with_header_on_one_line,
    with_unnamed,
)
from recsys.data.sources.opening import READ_ERRORS, SUPPORTED, Member, members
from recsys.data.sources.texts import encoding_of, is_encoding, pieces
from recsys.errors import InputError

DELIMITER_WORDS = {"comma": ",", "semicolon": ";", "tab": "\t", r"\t": "\t", "pipe": "|", "space": " "}
_CODE = re.compile(r"\\(?:x|u00)?([0-9a-fA-F]{2,3})|\^A")  # of a control character, as Hive's \x01 or \001
FORMAT_OPTIONS = ("delimiter", "header", "names", "encoding", "quoting")
JSON_LINES = "JSON lines"
MAX_COLUMNS = 10_000
_SAMPLE_BYTES = 1 << 16
_SAMPLE_LINES = 50
_SEP_LINE = re.compile(rb'\s*"?sep=(\\t|.)"?\s*', re.IGNORECASE)
_DATA_LIKE = re.compile(r"[-+]?\d[\d.,:/TZ+ -]*|")  # numbers, dates, nothing: no name of a column


@dataclass(frozen=True)
class CsvFormat:
    """What is known of how delimited files are written; None: it is told from the file."""

    delimiter: str | None = None
    names: tuple[str, ...] | None = None  # of the columns, for files without a header
    header: bool | None = None  # None: there is one, unless `names` are given and the first line does not hold them
    quoting: bool | None = None  # None: yes, but for tabs and `::` only where the header is quoted
    encoding: str | None = None


def csv_format(options: Mapping[str, str]) -> CsvFormat:
    """The options that say how files are written; InputError for one that cannot be."""
    given = {name: options[name] for name in FORMAT_OPTIONS if options.get(name)}
    delimiter = given.get("delimiter")
    if delimiter is not None:
        delimiter = DELIMITER_WORDS.get(delimiter.lower(), delimiter)
        if code := _CODE.fullmatch(delimiter):
            delimiter = chr(int(code[1] or "1", 16))
        if len(delimiter.encode()) > 4 or set(delimiter) & set('"\r\n\0'):
            raise InputError(
                f"option delimiter={delimiter!r} is none; use comma, semicolon, tab, pipe, space or 1 to 4 characters"
            )
    names = given.get("names")
    columns = None if names is None else tuple(name.strip() for name in next(csv_module.reader([names])))
    encoding = given.get("encoding")
    if encoding is not None and not is_encoding(encoding):
        raise InputError(f"option encoding={encoding} is unknown; use utf-8, utf-16, cp1252, latin-1 or the like")
    return CsvFormat(
        delimiter=delimiter,
        names=columns,
        header=_yes_or_no("header", given),
        quoting=_yes_or_no("quoting", given),
        encoding=encoding,
    )


def _yes_or_no(option: str, given: Mapping[str, str]) -> bool | None:
    if option not in given:
        return None
    if given[option].lower() not in ("yes", "no"):
        raise InputError(f"option {option}={given[option]} is unknown; use yes or no")
    return given[option].lower() == "yes"


@dataclass(frozen=True)
class TextForm:
    """How one text is written."""

    member: Member
    encoding: str
    columns: tuple[str, ...]  # stripped of spaces; of JSON lines those of the first lines
    delimiter: str = ","  # JSON_LINES where each line is an object
    quoting: bool = True
    has_header: bool = True
    n_blank: int = 0  # blank lines before the first record or header
    n_header: int = 0  # lines of the header, of `sep=` and of a title
    n_title: int = 0  # of these, of the title
    skips_blanks: bool = False  # between a delimiter and a quote
    sample: tuple[bytes, ...] = ()  # the first lines with something in them, after the header
    has_rows: bool = True

    @property
    def is_json(self) -> bool:
        """Whether each line is a JSON object."""
        return self.delimiter == JSON_LINES

    @property
    def beyond_ascii(self) -> str | None:
        """A word of the first lines with letters beyond ASCII."""
        texts = (*self.columns, *(line.decode(errors="replace") for line in self.sample))
        found = re.search(r"\w*[^\W\x00-\x7f]\w*", " ".join(texts))
        return found[0][:40] if found else None

    @property
    def is_plain(self) -> bool:
        """Whether it is UTF-8 with commas and a header, as nobody needs to be told."""
        is_usual = (self.delimiter, self.encoding, self.has_header) == (",", "utf-8", True) and self.quoting
        return is_usual and not self.n_title

    def described(self) -> str:
        """In words, for messages: `CSV with ';', cp1252, header, gzip`."""
        if self.is_json:
            words = [JSON_LINES]
        else:
            shown = {"\t": "tabs", " ": "spaces", ",": "commas", ";": "semicolons"}
            words = [f"columns divided by {shown.get(self.delimiter, repr(self.delimiter))}"]
            words.append("a header" if self.has_header else "no header")
            if self.n_title:
                words[-1] += f" below {self.n_title} line{'s' if self.n_title > 1 else ''} of a title"
        words.append(self.encoding)
        if self.member.packed:
            words.append(self.member.packed)
        return ", ".join(words)


def forms_of(path: Path, csv: CsvFormat) -> list[TextForm]:
    """The form of each text in a file that is no Parquet; InputError where it is none that can be read.

    A text without a line that holds something has no columns.
    """
    try:
        stat = path.stat()
        return _forms_of(path, csv, stat.st_size, stat.st_mtime_ns)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None


@lru_cache(maxsize=4096)
def _forms_of(path: Path, csv: CsvFormat, _size: int, _changed: int) -> list[TextForm]:
    forms = []
    for member in members(path):
        try:
            forms.append(_form_of(member, csv))
        except READ_ERRORS as error:
            raise InputError(f"{member.shown}: cannot be read: {error}") from error
    return forms


def _form_of(member: Member, csv: CsvFormat) -> TextForm:
    encoding = csv.encoding or encoding_of(member)
    first, *more = _first_two(member, encoding)
    lines = first.split(b"\n")[:-1]
    n_blank = next((n for n, line in enumerate(lines) if line.strip()), len(lines))
    lines = lines[n_blank:]
    if not lines and more:
        raise InputError(f"{member.shown}: it begins with {n_blank:,} blank lines; take them away")
    if not lines:
        return TextForm(member, encoding, (), n_blank=n_blank, has_rows=False)
    n_header = 0
    delimiter = csv.delimiter
    if separator := _SEP_LINE.fullmatch(lines[0]):
        delimiter = delimiter or separator[1].decode().replace(r"\t", "\t")
        n_header, lines = 1, lines[1:]
        while lines and not lines[0].strip():
            n_blank, lines = n_blank + 1, lines[1:]
    name = member.inner or member.path.name
    head = _text_of(member, lines[0] if lines else b"")
    n_title = 0
    if csv.names is None and csv.header is not False and not head.lstrip().startswith(("{", "[")):
        lines, n_head = with_header_on_one_line(lines[: 2 * _SAMPLE_LINES], name)
        n_title = n_title_lines(lines[: 2 * _SAMPLE_LINES], delimiter, name) if n_head == 1 else 0
        n_empty = sum(not line.strip() for line in lines[:n_title])
        lines, n_blank, n_header = lines[n_title:], n_blank + n_empty, n_header + n_title - n_empty + n_head - 1
        n_title -= n_empty
        head = _text_of(member, lines[0] if lines else b"")
    filled = [line for line in lines if line.strip()]
    if delimiter is None and csv.names is None and head.lstrip().startswith("{"):
        if not (keys := _keys(filled)):
            raise InputError(
                f"{member.shown}: it begins like JSON, but none of its first lines is a JSON object; write one object "
                f"a line, in JSON's quotes (`jq -c . file.json > file.jsonl`). Supported are {SUPPORTED}"
            )
        return TextForm(
            member, encoding, keys, JSON_LINES, False, False, n_blank, n_header, sample=tuple(filled[:_SAMPLE_LINES])
        )
    if delimiter is None and (head.strip() == "[" or re.match(r'\s*\[\s*[\[{"]', head)):
        raise InputError(
            f"{member.shown}: a JSON array; write one object a line (`jq -c '.[]' file.json > file.jsonl`). "
            f"Supported are {SUPPORTED}"
        )
    filled = filled[: _SAMPLE_LINES + 1]
    delimiter = delimiter or delimiter_of(filled, name)
    quoting = csv.quoting
    if quoting is None:
        quoting = delimiter not in ("\t", "::") or any(
            len(cell) > 1 and cell[0] == cell[-1] == '"' for cell in head.split(delimiter)
        )
    does_skip = quoting and csv.quoting is None and skips_blanks(filled, delimiter)
    if does_skip:
        filled = [blanks_before_quotes(delimiter).sub(delimiter.encode(), line) for line in filled]
        head = filled[0].decode()
    cells = [cell.strip().strip("\ufeff") for cell in cells_of(head, delimiter, quoting)]
    names = csv.names
    has_header = csv.header
    if has_header is None:
        has_header = names is None or [name.casefold() for name in names] == [cell.casefold() for cell in cells]
    if names is None and not has_header:
        names = tuple(f"column{n}" for n in range(1, len(cells) + 1))
    rows = filled[1:] if has_header else filled
    columns = with_unnamed(cells, rows, delimiter, quoting) if names is None else names
    if len(columns) > MAX_COLUMNS:
        raise InputError(f"{member.shown}: more than {MAX_COLUMNS:,} columns in its first line")
    form = TextForm(
        member,
        encoding,
        columns,
        delimiter,
        quoting,
        has_header,
        n_blank,
        n_header + has_header,
        n_title,
        does_skip,
        tuple(rows),
        bool(rows or more),
    )
    _check_names(form, csv)
    return form


def _first_two(member: Member, encoding: str) -> list[bytes]:
    """The first lines, and whether more follow: a second element is there then."""
    stream = pieces(member, encoding, _SAMPLE_BYTES)
    first = next(stream, None)
    if first is not None and first.is_too_long:
        raise InputError(f"{member.shown}: not a text file (its first line does not end)")
    found = [b"" if first is None else first.data]
    if first is not None and next(stream, None) is not None:
        found.append(b"")
    stream.close()  # type: ignore[attr-defined]
    return found


def _text_of(member: Member, line: bytes) -> str:
    if b"\0" in line:
        raise InputError(
            f"{member.shown}: not a text file (its first line holds NUL characters). Supported are {SUPPORTED}"
        )
    try:
        return line.decode()
    except UnicodeDecodeError:
        raise InputError(
            f"{member.shown}: not a text file, or of another encoding (its first line cannot be read as text): "
            f"say the encoding, as --option encoding=cp1252. Supported are {SUPPORTED}"
        ) from None


def _keys(lines: Sequence[bytes]) -> tuple[str, ...]:
    keys: dict[str, None] = {}
    for line in lines:
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict):
            keys.update(dict.fromkeys(found))
    return tuple(keys)


def _check_names(form: TextForm, csv: CsvFormat) -> None:
    """InputError where the names that were given do not fit one of the first lines."""
    if csv.names is None or not form.sample:
        return
    counts = Counter(len(cells_of(line.decode(errors="replace"), form.delimiter, form.quoting)) for line in form.sample)
    if len(csv.names) not in counts:
        line = form.sample[0].decode(errors="replace")[:200]
        raise InputError(
            f"{form.member.shown}: {len(csv.names)} names are given, but lines have "
            f"{counts.most_common(1)[0][0]} columns ({form.described()}): {line}"
        )


def missing_columns(shown: str, missing: Sequence[str], found: Sequence[str], form: TextForm | None) -> InputError:
    """What to say where columns are missing: what the file looks like, and the option that reads it."""
    text = f"{shown}: column {', '.join(map(repr, missing))} is missing; the file has {', '.join(map(repr, found))}"
    near = {name: _near(name, found) for name in missing}
    if any(near.values()):
        text += "; did you mean " + ", ".join(f"{found!r} by {name!r}" for name, found in near.items() if found) + "?"
    if form is not None and form.member.inner is not None:
        text += "; all files of a zip archive are read as one: unpack it to leave some out"
    if form is not None and form.is_json and (inside := _list_in(form)):
        text += f"; {inside!r} holds a list of objects: write them one a line (`jq -c '.{inside}[]' file > file.jsonl`)"
    if form is not None and not form.is_json:
        text += f" ({form.described()})"
        if form.has_header and looks_like_data(found):
            text += (
                f". The first line looks like data, not like a header: name its {len(found)} columns, as "
                f"--option names={','.join(f'c{n}' for n in range(1, len(found) + 1))}"
            )
        elif len(found) == 1:
            text += ". No delimiter was found: give it, as --option delimiter=';'"
    return InputError(text)


def _list_in(form: TextForm) -> str | None:
    found = json.loads(form.sample[0]) if len(form.sample) == 1 else {}
    lists = {name: value for name, value in found.items() if isinstance(value, list) and value}
    return next((name for name, value in lists.items() if isinstance(value[0], dict)), None)


def looks_like_data(cells: Sequence[str]) -> bool:
    """Whether a first line is no header: some of its values are numbers or dates."""
    return any(cell and _DATA_LIKE.fullmatch(cell) for cell in cells)


def _near(name: str, found: Sequence[str]) -> str | None:
    plain = {re.sub(r"[\W_]+", "", other).casefold(): other for other in found}
    wanted = re.sub(r"[\W_]+", "", name).casefold()
    close = difflib.get_close_matches(wanted, [other for other in plain if other], n=1, cutoff=0.75)
    return plain[close[0]] if close else None
