"""Files as streams of bytes, whatever they are packed in: told by their first bytes, never by their name.

Nothing is unpacked as a whole, so that a file of any size takes the memory of the pieces that are asked for.
"""

from __future__ import annotations

import bz2
import gzip
import io
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

import pyarrow as pa

from recsys.errors import InputError

PARQUET = "Parquet"
MAX_MEMBERS = 10_000  # of a zip archive
# What fails while packed or damaged files are read.
READ_ERRORS = (pa.ArrowInvalid, OSError, EOFError, zlib.error, zipfile.BadZipFile)

_PACKED: dict[bytes, tuple[str, Callable[[Path], Any]]] = {
    b"\x1f\x8b": ("gzip", gzip.GzipFile),
    b"BZh": ("bzip2", bz2.BZ2File),
    b"\x28\xb5\x2f\xfd": ("zstd", lambda path: pa.CompressedInputStream(pa.OSFile(str(path)), "zstd")),
}
_ZIP = b"PK"
# What is a zip archive by its form, by a file in it.
_DOCUMENTS = {
    "xl/workbook.xml": "an Excel workbook; save its sheet as CSV UTF-8",
    "xl/workbook.bin": "an Excel workbook; save its sheet as CSV UTF-8",
    "content.xml": "an OpenDocument file; save its sheet as CSV",
    "word/document.xml": "a Word document; save its table as CSV",
    "Index/Document.iwa": "a Numbers document; export it as CSV",
}
_SQL = re.compile(rb"\s*(--|/\*|INSERT\s+INTO|CREATE\s+(TABLE|DATABASE)|COPY\s+\S+\s*\()", re.IGNORECASE)
_MARKUP = re.compile(rb"\s*<(!doctype|\?xml|html|table)", re.IGNORECASE)
_OTHER = {
    b"PAR1": PARQUET,
    b"\xd0\xcf\x11\xe0": "an Excel workbook; save its sheet as CSV UTF-8",
    b"ORC": "an ORC file; write it as Parquet",
    b"Obj\x01": "an Avro file; write it as Parquet",
    b"ARROW1": "an Arrow (Feather) file; write it as Parquet",
    b"SQLite format 3": "an SQLite database; write its table as CSV",
    b"\x89HDF": "an HDF5 file; write it as Parquet",
    b"%PDF": "a PDF document",
    b"\xfd7zXZ": "packed with xz; unpack it, or pack it with gzip",
    b"7z\xbc\xaf": "a 7z archive; unpack it",
    b"RDX": "a data file of R; write it as CSV",
    b"Rar!": "a RAR archive; unpack it",
}
SUPPORTED = "CSV, TSV and the like, JSON lines and Parquet; texts also packed with gzip, zip, bzip2 or zstd"


@dataclass(frozen=True)
class Member:
    """One stream of bytes of a file: the file, or what is packed in it. A zip archive may hold several."""

    path: Path
    packed: str  # "" for a plain file, else the name of the packing
    inner: str | None = None  # the name inside a zip archive

    @property
    def shown(self) -> str:
        """The name for messages."""
        return str(self.path) if self.inner is None else f"{self.path}: {self.inner}"

    def open(self) -> IO[bytes]:
        """The unpacked bytes from the start."""
        if self.inner is not None:
            archive = zipfile.ZipFile(self.path)
            stream: Any = _ClosesArchive(archive.open(self.inner), archive)
        elif self.packed:
            stream = next(open_ for name, open_ in _PACKED.values() if name == self.packed)(self.path)
        else:
            stream = self.path.open("rb")
        return stream

    def head(self, n_bytes: int = 1 << 16) -> bytes:
        """The first bytes, at most `n_bytes`; InputError where they cannot be unpacked."""
        try:
            with self.open() as file:
                return file.read(n_bytes)
        except READ_ERRORS as error:
            raise InputError(f"{self.shown}: cannot be read: {error}") from error


class _ClosesArchive(io.BufferedReader):
    def __init__(self, member: Any, archive: zipfile.ZipFile) -> None:
        super().__init__(member)
        self._archive = archive

    def close(self) -> None:
        super().close()
        self._archive.close()


def magic_of(path: Path) -> bytes:
    """The first 16 bytes; InputError for what is no file."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        with path.open("rb") as file:
            return file.read(16)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error}") from error


def is_parquet(path: Path) -> bool:
    """Whether a file is Parquet by its content, or would be by its name if it were not damaged."""
    if path.is_file() and path.stat().st_size:
        magic = magic_of(path)
        return magic.startswith(b"PAR1") or (
            path.suffix.lower() in {".parquet", ".pq"} and _packing(magic) is None and not magic.startswith(_ZIP)
        )
    return path.suffix.lower() in {".parquet", ".pq"}


def members(path: Path) -> list[Member]:
    """The texts of a file, packed or not; InputError where it is something else, and says what."""
    magic = magic_of(path)
    if magic.startswith(_ZIP):
        return _zipped(path)
    packed = _packing(magic)
    found = Member(path, packed or "")
    _refuse_other(found, found.head(512))
    return [found]


def _packing(magic: bytes) -> str | None:
    return next((name for start, (name, _) in _PACKED.items() if magic.startswith(start)), None)


def _zipped(path: Path) -> list[Member]:
    try:
        with zipfile.ZipFile(path) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir() and not _is_hidden(info.filename)]
    except READ_ERRORS as error:
        raise InputError(f"{path}: not a zip archive that can be read ({error})") from error
    for name, what in _DOCUMENTS.items():
        if any(info.filename == name for info in infos):
            raise InputError(f"{path}: {what}. Supported are {SUPPORTED}")
    infos = [info for info in infos if not is_about(PurePosixPath(info.filename).name)]
    if not infos:
        raise InputError(f"{path}: the zip archive is empty")
    if len(infos) > MAX_MEMBERS:
        raise InputError(f"{path}: the zip archive holds more than {MAX_MEMBERS:,} files; unpack it")
    twice = [name for name, count in Counter(info.filename for info in infos).items() if count > 1]
    if twice:
        raise InputError(f"{path}: the zip archive holds more than one file of the name {twice[0]}; unpack it")
    for info in infos:
        if info.flag_bits & 1:
            raise InputError(f"{path}: {info.filename} is encrypted; unpack it")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise InputError(f"{path}: {info.filename} is packed by an unusual method; unpack the archive")
    found = [Member(path, "zip", info.filename) for info in sorted(infos, key=lambda info: info.filename)]
    for member in found:
        _refuse_other(member, member.head(512))
    return found


def _is_hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)


def is_about(name: str) -> bool:
    """Whether a file among others tells of them instead of being data: a README, a licence, checksums."""
    return name.lower().startswith(("readme", "license", "licence", "changelog", "sha256sums", "md5sums")) or (
        name.lower().endswith((".md", ".rst", ".html", ".pdf"))
    )


def _refuse_other(member: Member, head: bytes) -> None:
    what = next((text for start, text in _OTHER.items() if head.startswith(start)), None)
    if what is None and head[257:262] == b"ustar":
        what = "a tar archive; unpack it"
    if what is None and head.startswith(_ZIP) and member.packed:
        what = "an archive within an archive; unpack it"
    if what is None and _packing(head) is not None and member.packed:
        what = "packed twice; unpack it once"
    if what is None and _MARKUP.match(head):
        what = "HTML or XML; write it as CSV"
    if what is None and _SQL.match(head):
        what = "an SQL script; export the table as CSV"
    if what is not None:
        packed = f", packed with {member.packed}" if member.packed else ""
        more = "; unpack it" if what == PARQUET else ""
        raise InputError(f"{member.shown}: the file is {what}{packed}{more}. Supported are {SUPPORTED}")
