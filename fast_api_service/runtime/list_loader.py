"""The lists of a publication, mapped from its published files, or from files written here from Postgres."""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import asyncpg

from fast_api_service.metrics import Metrics
from fast_api_service.postgres.away import AWAY, DatabaseAwayError, in_words
from recsys.artifacts import ArtifactStore, split_ref
from recsys.errors import RecsysError
from recsys.events.connections import ENDS_WITH_CLIENT
from recsys.serving.list_file import LISTS, ListFile, ListFileWriter
from recsys.serving.snapshot import ListVersion, Publication
from recsys.storage.list_format import COLUMNS, Decoder, partition_name

log = logging.getLogger(__name__)
_COPY_S: Final = 600.0
_SESSION: Final = {"application_name": "recsys-api-lists", "jit": "off", **ENDS_WITH_CLIENT}
_ROWS_PER_BLOCK: Final = 2000


class ListLoader:
    """Loads the lists of publications by kind; files that are mapped already are reused."""

    def __init__(self, dsn: str, artifact_root: str, metrics: Metrics) -> None:
        self._dsn, self._root, self._metrics = dsn, artifact_root, metrics
        self._store: ArtifactStore | None = None

    async def load(
        self, publication: Publication, former: Publication | None, mapped: Mapping[str, ListFile]
    ) -> dict[str, ListFile]:
        """The lists of all kinds; DatabaseAwayError. `mapped`: those of the `former` publication, of the same epoch."""
        found = {}
        for kind, version in publication.lists.items():
            if former is not None and kind in mapped and former.version_id(kind) == version.list_version_id:
                found[kind] = mapped[kind]
            else:
                found[kind] = await asyncio.to_thread(self._open, version)
        return found

    def forget(self, *in_use: Publication) -> None:
        """Delete downloads except those of these publications."""
        refs = {version.file for publication in in_use for version in publication.lists.values()}
        if self._store is not None:
            self._store.forget(LISTS, lambda version: f"{LISTS}/{version}" in refs)

    def _open(self, version: ListVersion) -> ListFile:
        if version.file is not None:
            try:
                split_ref(version.file)
                self._store = self._store or ArtifactStore(self._root)
                return ListFile(self._store.open(version.file)[0])
            except Exception as error:  # any error: Postgres has the lists, too
                self._metrics.list_file_failures.labels(version.kind).inc()
                text = str(error) if isinstance(error, RecsysError) else repr(error)
                log.error("%s lists are read from Postgres, their file cannot be: %s", version.kind, text)
        try:
            return asyncio.run(self._made_of_rows(version))
        except AWAY as error:
            raise DatabaseAwayError(in_words(error)) from error

    async def _made_of_rows(self, version: ListVersion) -> ListFile:
        """Write the lists into a temporary folder, which is deleted once its files are mapped."""
        folder = Path(tempfile.mkdtemp(prefix="recsys-lists-"))
        try:
            with ListFileWriter(folder, version.kind) as writer:
                await self._copy(version, writer)
            return ListFile(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    async def _copy(self, version: ListVersion, writer: ListFileWriter) -> None:
        table = partition_name(version.list_version_id)
        async with asyncio.timeout(_COPY_S):
            connection = await asyncpg.connect(self._dsn, timeout=5, server_settings=_SESSION)
            try:
                async with connection.transaction(isolation="repeatable_read", readonly=True):
                    runs = await connection.fetch(
                        f"select cardinality(item_keys), count(*) from {table} group by 1 order by 1"  # noqa: S608
                    )
                    decoder = Decoder([tuple(run) for run in runs], _ROWS_PER_BLOCK)

                    async def take(data: bytes) -> None:
                        for block in decoder.feed(data):
                            writer.take(block)

                    query = f"select {', '.join(COLUMNS)} from {table} order by cardinality(item_keys)"  # noqa: S608
                    await connection.copy_from_query(query, output=take, format="binary")
            finally:
                connection.terminate()
