"""Rows of erased users do not come back with a file: they are left out before anything of it is stored."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import replace
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from recsys.data.sources.base import Chunk
from recsys.serving.ids import digest_of

LEFT_OUT: Final = "erased users"
_USER: Final = "visitorid"


def of_the_living(chunk: Chunk, erased: Set[str]) -> Chunk:
    """The chunk without rows of users whose SHA-256 (hexadecimal) is in `erased`; they are counted as left out."""
    if not erased or _USER not in chunk.rows.schema.names:
        return chunk
    users = chunk.rows[_USER]
    gone = [user for user in pc.unique(users).to_pylist() if user is not None and digest_of(user).hex() in erased]
    if not gone:
        return chunk
    is_gone = pc.is_in(users, pa.array(gone, users.type))
    left_out = {**chunk.left_out, LEFT_OUT: chunk.left_out.get(LEFT_OUT, 0) + pc.sum(is_gone).as_py()}
    return replace(chunk, rows=chunk.rows.filter(pc.invert(is_gone)), left_out=left_out)
