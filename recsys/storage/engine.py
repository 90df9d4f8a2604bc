"""The door to Postgres: engines, the migrations, and patience while the server is away."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import psycopg2
import psycopg2.errors
import sqlalchemy as sa
import tenacity
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from recsys.dsn import postgres_url
from recsys.errors import InputError
from recsys.settings import Settings
from recsys.storage import embedded

log = logging.getLogger(__name__)
Result = TypeVar("Result")

_MIGRATION_LOCK = 0x7265637379  # any number that all processes agree on
_LOCK_MS = 2000  # of a migration: readers and writers wait behind it meanwhile
_LOCKS_S = 300.0  # so long it is tried again
# SQLSTATE: connection exceptions, shutdown, crash, starting up, too many connections
_LOST = ("08", "57P01", "57P02", "57P03", "53300")
# Refusals on connecting carry no SQLSTATE; these do not pass by waiting.
_LASTING = ("does not exist", "authentication failed", "no pg_hba.conf entry", "invalid connection option")


def database_url(settings: Settings) -> str:
    """DATABASE_URL if set, else that of the embedded server, which is started when it is not running."""
    if settings.database_url:
        return settings.database_url
    return embedded.ensure(settings.local_dir / "postgres", settings.pg_port).url("recsys")


def engine(settings: Settings) -> sa.Engine:
    """An engine on the database of the settings; starts the embedded server when it is needed and not there.

    Raises InputError for an unusable DATABASE_URL, and RecsysError when the embedded server does not start.
    """
    return engine_of(database_url(settings))


def engine_of(url: str) -> sa.Engine:
    """An engine (psycopg2, small pool, connections tested before use) on `url`, postgresql://…; InputError."""
    return sa.create_engine(
        sa.make_url(postgres_url(url)).set(drivername="postgresql+psycopg2"),
        pool_size=4,
        max_overflow=4,
        pool_pre_ping=True,
        connect_args={
            "connect_timeout": 10,
            "application_name": "recsys",
            "keepalives_idle": 30,
            "keepalives_interval": 10,
            "keepalives_count": 3,
        },
    )


def url_of(engine: sa.Engine) -> str:
    """An engine's URL as DATABASE_URL has it, password included, for other drivers."""
    return engine.url.set(drivername="postgresql").render_as_string(hide_password=False)


def migrate(engine: sa.Engine) -> None:
    """Bring the schema to the newest version, and the log to this server where it has moved (`server_identity`); safe
    to call at any time, from several processes at once.

    A migration that has to wait for others' locks gives up after a moment, so that nobody waits behind it, and is tried
    again. InputError where the tables are not of this release's past.
    """
    with engine.connect() as connection:
        connection.detach()  # the lock lasts as long as the connection
        connection.execute(sa.select(sa.func.pg_advisory_lock(_MIGRATION_LOCK)))
        connection.execute(sa.text(f"set lock_timeout = '{_LOCK_MS}ms'"))
        connection.commit()
        with connection.begin():
            _refuse_stranger(_revision(connection))
        with_lock_patience(lambda: _upgrade(connection), _LOCKS_S)
        if with_lock_patience(lambda: _adopt(connection), _LOCKS_S):
            log.warning("the database has moved to this server: its log goes on with the next epoch")


def require_current(engine: sa.Engine) -> None:
    """InputError, which says what to run, where the tables are not those of this release."""
    with engine.connect() as connection:
        revision = _revision(connection)
    _refuse_stranger(revision)
    if revision != _scripts().get_current_head():
        state = "has no tables yet" if revision is None else f"is of an older release (revision {revision})"
        raise InputError(f"the database {state}; run `recsys migrate`")


def _upgrade(connection: sa.Connection) -> None:
    config = _config()
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    finally:
        connection.rollback()  # whatever a failed one has left open


def _adopt(connection: sa.Connection) -> bool:
    with connection.begin():
        return bool(connection.scalar(sa.text("select server_moved() and adopt_server()")))


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", "recsys.storage:migrations")
    return config


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _revision(connection: sa.Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _refuse_stranger(revision: str | None) -> None:
    if revision is not None and revision not in {script.revision for script in _scripts().walk_revisions()}:
        raise InputError(
            f"the database is of revision {revision}, which this release does not know: it is of a newer release (then "
            "use that one), or of a state of the code before the first release (then give an empty database)"
        )


def with_lock_patience(work: Callable[[], Result], patience_s: float) -> Result:
    """`work()`, tried again after short pauses for up to `patience_s` seconds while others hold what it locks.

    A lock that waits holds up all who come after it: so `work` gives up soon, by a lock time-out of its own, and lets
    go of all that it has locked. The last time-out is raised when patience ends (`is_lock_timeout`).
    """
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception(is_lock_timeout),
        wait=tenacity.wait_random(0.1, 0.5),
        stop=tenacity.stop_after_delay(patience_s),
        reraise=True,
    )(work)


def is_lock_timeout(error: BaseException) -> bool:
    """Whether a statement gave up waiting for a lock."""
    return isinstance(error, sa.exc.DBAPIError) and isinstance(error.orig, psycopg2.errors.LockNotAvailable)


def is_lost_connection(error: BaseException) -> bool:
    """Whether an error says that Postgres went away or is not there yet (so that trying again can help)."""
    if isinstance(error, sa.exc.DBAPIError):
        return error.connection_invalidated or (error.orig is not None and is_lost_connection(error.orig))
    if isinstance(error, psycopg2.InterfaceError):
        return "closed" in str(error)
    if not isinstance(error, psycopg2.DatabaseError):
        return False
    if error.pgcode is not None:
        return error.pgcode.startswith(_LOST)
    text = str(error)
    return (isinstance(error, psycopg2.OperationalError) or "server closed" in text) and not any(
        refusal in text for refusal in _LASTING
    )


def server_message(error: BaseException) -> str:
    """The first line of what is wrong with the server or the way to it (away, full, refusing); empty for other errors,
    such as a mistake in a statement."""
    if isinstance(error, sa.exc.DBAPIError) and error.orig is not None:
        return server_message(error.orig)
    if not isinstance(error, psycopg2.OperationalError) and not is_lost_connection(error):
        return ""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def with_patience(fn: Callable[[], Result], patience_s: float) -> Result:
    """`fn()`, tried again with growing pauses for up to `patience_s` seconds while Postgres is away.

    `fn` must be repeatable as a whole: it opens its own transaction. Other errors pass through at once, and
    the last lost connection is raised when patience ends.
    """

    def tell(state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        pause_s = state.next_action.sleep if state.next_action else 0.0
        log.warning("Postgres is away (%s); trying again in %.1f s", reason, pause_s)

    return tenacity.Retrying(
        retry=tenacity.retry_if_exception(is_lost_connection),
        wait=tenacity.wait_exponential_jitter(multiplier=0.5, max=8, jitter=0.5),
        stop=tenacity.stop_after_delay(patience_s),
        before_sleep=tell,
        reraise=True,
    )(fn)
