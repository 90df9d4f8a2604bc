"""Leaves rows of erased users out of an import."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from recsys.data.sources.base import Chunk
from recsys.serving.ids import digest_of
from recsys.storage.raw_erased import OF_ERASED


def without(chunk: Chunk, erased: Set[str]) -> Chunk:
    """The chunk without the rows of erased users, which are counted as left out. `erased`: see `keys.erased`."""
    if not erased or "visitorid" not in chunk.rows.schema.names:
        return chunk
    users = chunk.rows["visitorid"].dictionary_encode()
    is_erased = pa.array([digest_of(user).hex() in erased for user in users.dictionary.to_pylist()], pa.bool_())
    rows = chunk.rows.filter(pc.invert(is_erased.take(users.indices)))
    n = chunk.rows.num_rows - rows.num_rows
    if not n:
        return chunk
    return replace(chunk, rows=rows, left_out={**chunk.left_out, OF_ERASED: n})
