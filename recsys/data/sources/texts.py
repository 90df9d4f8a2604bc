"""The bytes of a text file as pieces of whole lines: UTF-8, each line ended by LF, counted as they come."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

from recsys.data.sources.opening import Member

MAX_LINE_BYTES = 4 << 20
_SCAN_BYTES = 4 << 20
_BOMS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_SEQUENCE = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")
_HIGH = re.compile(rb"[\x80-\xff]")


@dataclass(frozen=True)
class Piece:
    """Whole lines, each ended by LF; or the beginning of one line that is too long to be read."""

    data: bytes
    is_too_long: bool = False


def _as_escaped(error: UnicodeError) -> tuple[str, int]:
    """Bytes that are none of the encoding, as characters that become bytes which are no UTF-8 either."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    raw = error.object[error.start : error.end]
    return "".join(chr(0xDC00 + byte) if byte >= 0x80 else "\udcff" for byte in raw), error.end


codecs.register_error("recsys.no_text", _as_escaped)


def is_encoding(name: str) -> bool:
    """Whether texts can be read in an encoding of this name."""
    try:
        decoder: Any = codecs.getincrementaldecoder(name)("recsys.no_text")
        return isinstance("a".encode(name), bytes) and isinstance(decoder.decode(b"a", final=True), str)
    except (LookupError, UnicodeError):
        return False


def encoding_of(member: Member) -> str:
    """The encoding of a text, told from its mark (BOM), from zeros between letters, or from whether all of it is UTF-8.

    What is neither counts as Windows-1252 (which holds ISO-8859-1), unless half of its letters beyond ASCII are UTF-8.
    """
    with member.open() as file:
        head = file.read(_SCAN_BYTES)
        for bom, encoding in _BOMS.items():
            if head.startswith(bom):
                return encoding
        if zeros := _utf16_without_bom(head[:4096]):
            return zeros
        decoder = codecs.getincrementaldecoder("utf-8")()
        pending = False
        while head:
            if pending or not head.isascii():
                try:
                    decoder.decode(head)
                except UnicodeDecodeError:
                    return _by_letters(head)
                pending = bool(decoder.getstate()[0])
            head = file.read(_SCAN_BYTES)
    return "utf-8"


def _utf16_without_bom(head: bytes) -> str | None:
    if len(head) < 8:
        return None
    even, odd = head[0::2], head[1::2]
    if odd.count(0) > 0.4 * len(odd) and even.count(0) < 0.1 * len(even):
        return "utf-16-le"
    if even.count(0) > 0.4 * len(even) and odd.count(0) < 0.1 * len(odd):
        return "utf-16-be"
    return None


def _by_letters(window: bytes) -> str:
    sequences = _SEQUENCE.findall(window)
    n_bad = len(_HIGH.findall(window)) - sum(map(len, sequences))
    return "utf-8" if len(sequences) >= n_bad else "cp1252"


def pieces(member: Member, encoding: str, piece_bytes: int) -> Iterator[Piece]:
    """The lines of a text from the start, the same pieces at each reading."""
    whole = kept = b""  # a piece waits for the next one, so that a last line without an end is part of it
    too_long = False
    with member.open() as file:
        for data in _with_line_feeds(_as_utf8(file, encoding, piece_bytes)):
            if too_long:
                end = data.find(b"\n")
                if end < 0:
                    continue
                data, too_long = data[end + 1 :], False
            kept += data
            end = kept.rfind(b"\n") + 1
            if end:
                if whole:
                    yield Piece(whole)
                whole, kept = (kept, b"") if end == len(kept) else (kept[:end], kept[end:])
            if len(kept) > MAX_LINE_BYTES:
                if whole:
                    yield Piece(whole)
                yield Piece(kept[:MAX_LINE_BYTES], is_too_long=True)
                whole, kept, too_long = b"", b"", True
        if kept:
            whole += kept + b"\n"
        if whole:
            yield Piece(whole)


def _as_utf8(file: IO[bytes], encoding: str, n_bytes: int) -> Iterator[bytes]:
    if codecs.lookup(encoding).name in ("utf-8", "utf-8-sig", "ascii"):
        data = file.read(n_bytes).removeprefix(codecs.BOM_UTF8)
        while data:
            yield data
            data = file.read(n_bytes)
        return
    decoder: Any = codecs.getincrementaldecoder(encoding)("recsys.no_text")
    while data := file.read(n_bytes):
        yield decoder.decode(data).encode("utf-8", "surrogateescape")
    yield decoder.decode(b"", final=True).encode("utf-8", "surrogateescape")


def _with_line_feeds(stream: Iterator[bytes]) -> Iterator[bytes]:
    """CR LF and CR as LF."""
    ends_in_cr = False
    for data in stream:
        if ends_in_cr:
            data = b"\r" + data
        ends_in_cr = data.endswith(b"\r")
        if ends_in_cr:
            data = data[:-1]
        yield data.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in data else data
    if ends_in_cr:
        yield b"\n"
