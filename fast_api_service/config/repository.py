"""Which configuration is in force: the newest that this release can read. Workers and routes ask the same here."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
from pydantic import ValidationError

from fast_api_service.config.schemas import ConfigVersion
from recsys.serving.config import DEFAULT, ServingConfig

COLUMNS: Final = "config_id, config, comment, author, created_at"
_PAGE: Final = 50
_PAGE_SQL: Final = f"""
select {COLUMNS} from config_versions where $1::bigint is null or config_id < $1 order by config_id desc limit {_PAGE}
"""  # noqa: S608 - names of ours
# A version may also be deleted, or all of them be another server's.
_STAMP_SQL: Final = "select count(*), max(config_id), max(created_at) from config_versions"


@dataclass(frozen=True)
class InForce:
    """The configuration by which a worker answers."""

    version: ConfigVersion  # 0, the defaults, where there is none that can be read
    passed_over: tuple[int, ...]  # newer versions that this release cannot read, the newest first
    stamp: tuple[Any, ...] = ()  # of all versions, when it was read

    @property
    def config(self) -> ServingConfig:
        return self.version.config or DEFAULT

    @property
    def config_id(self) -> int:
        return self.version.config_id

    @property
    def problem(self) -> str:
        """Why not the newest version is in force; empty where it is."""
        if not self.passed_over:
            return ""
        newer = ", ".join(map(str, self.passed_over[:5])) + (", …" if len(self.passed_over) > 5 else "")
        instead = f"version {self.config_id}" if self.config_id else "the defaults, because no version can be read"
        return (
            f"version {newer} cannot be read by this release of the service; in force: {instead}. "
            "Run the release that wrote it, or put a configuration that this one knows"
        )


DEFAULTS: Final = InForce(ConfigVersion(config_id=0, config=DEFAULT, comment="defaults", author=""), ())


async def in_force(connection: asyncpg.Connection) -> InForce:
    """The newest version that can be read, however many newer ones cannot."""
    passed_over: list[int] = []
    async for version in _newest_first(connection):
        if version.config is not None:
            return InForce(version, tuple(passed_over))
        passed_over.append(version.config_id)
    return InForce(DEFAULTS.version, tuple(passed_over))


async def follow(connection: asyncpg.Connection, former: InForce | None) -> InForce:
    """The same, read only where something has changed since the `former` one."""
    stamp = tuple(await connection.fetchrow(_STAMP_SQL))
    if former is not None and stamp == former.stamp:
        return former
    found = await in_force(connection)
    return InForce(found.version, found.passed_over, stamp)


def version_of(row: Any) -> ConfigVersion:
    """A row of COLUMNS; its configuration is None where this release cannot read it."""
    try:
        config = ServingConfig.model_validate_json(row["config"])
    except ValidationError:
        config = None
    return ConfigVersion(**{**dict(row), "config": config})


async def _newest_first(connection: asyncpg.Connection) -> AsyncIterator[ConfigVersion]:
    before = None
    while rows := await connection.fetch(_PAGE_SQL, before):
        for row in rows:
            yield version_of(row)
        before = rows[-1]["config_id"]
