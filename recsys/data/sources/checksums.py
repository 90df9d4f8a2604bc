"""Checksums that know a file again, whatever its name and however it is packed."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from recsys.data.sources.base import Part
from recsys.data.sources.opening import READ_ERRORS, Member, is_parquet, members
from recsys.errors import InputError

_PIECE = 1 << 20


def content_sha256(path: Path) -> str:
    """SHA-256 (hexadecimal) of a file's content, unpacked; InputError where it cannot be unpacked."""
    digest = hashlib.sha256()
    plain = is_parquet(path) or not path.stat().st_size
    for member in [Member(path, "")] if plain else members(path):
        try:
            with member.open() as file:
                while piece := file.read(_PIECE):
                    digest.update(piece)
        except READ_ERRORS as error:
            raise InputError(f"{member.shown}: cannot be read: {error}") from error
    return digest.hexdigest()


def checksums_of(parts: Iterable[Part]) -> Mapping[tuple[str, str], str]:
    """(stream, name) → checksum; parts of one stream that share a file are told apart by their names."""
    parts = list(parts)
    by_path = {path: content_sha256(path) for path in {part.path for part in parts}}
    shared = Counter((part.stream, part.path) for part in parts)
    return {
        (part.stream, part.name): by_path[part.path]
        if shared[part.stream, part.path] == 1
        else hashlib.sha256(f"{by_path[part.path]} {part.name}".encode()).hexdigest()
        for part in parts
    }
