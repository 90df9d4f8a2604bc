"""`recsys …`: every step of the pipeline without Airflow, and what people on call need."""

from __future__ import annotations

import datetime as dt
import errno
import json
import re
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from recsys import log, settings
from recsys.errors import InputError, RecsysError
from recsys.settings import Settings

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False, help=__doc__)
publications = typer.Typer(no_args_is_help=True, help="What readers see: list, verify, roll back.")
app.add_typer(publications, name="publications")
keys = typer.Typer(no_args_is_help=True, help="API keys of the service: create, list, revoke.")
app.add_typer(keys, name="keys")

DatasetOption = Annotated[str | None, typer.Option(help="Reference of a data set, dataset/…; the newest by default.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Make it again although the inputs did not change.")]


def _print(result: Any) -> None:
    typer.echo(json.dumps(result, indent=1, default=str))


@app.command("generate")
def generate(
    folder: Path,
    users: Annotated[int, typer.Option(min=10, max=1_500_000)] = 5_000,
    items: Annotated[int, typer.Option(min=10)] = 1_000,
    events: Annotated[int, typer.Option(min=100)] = 100_000,
    seed: int = 42,
) -> None:
    """Write the files of a generated shop (RetailRocket's three) into FOLDER."""
    from recsys.steps import generate_shop

    _print(generate_shop.run(folder, n_users=users, n_items=items, n_events=events, seed=seed))


@app.command("import")
def import_(
    source: Annotated[str, typer.Argument(help="retailrocket, movielens, online-retail, table or generated")],
    path: Path,
    option: Annotated[
        list[str] | None, typer.Option("--option", "-o", help="NAME=VALUE for the source, e.g. -o user=customer_id.")
    ] = None,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="In place of all that is there: raw tables, keys, lists, publications, events."),
    ] = False,
    drop_duplicates: Annotated[
        bool, typer.Option("--drop-duplicates", help="Leave out events that equal another one in every column.")
    ] = False,
    allow_bad_rows: Annotated[
        bool,
        typer.Option(
            "--allow-bad-rows",
            help="Load a file's good rows, even if more than half of its rows (with --replace: a tenth) are bad.",
        ),
    ] = False,
    keep_duplicates: Annotated[
        bool,
        typer.Option("--keep-duplicates", help="Load new files whole, also where many of their events are there."),
    ] = False,
    complete_until: Annotated[
        str | None,
        typer.Option(
            "--complete-until",
            help="Instant before which the files hold all events of their types; posted ones of then do not count.",
        ),
    ] = None,
) -> None:
    """Load the files of a SOURCE at PATH into schema raw; resumes where a killed load stopped."""
    from recsys.steps import import_raw

    result = import_raw.run(
        source,
        str(path),
        options=_options(option),
        replace=replace,
        drop_duplicates=drop_duplicates,
        keep_duplicates=keep_duplicates,
        allow_bad_rows=allow_bad_rows,
        complete_until=_instant(complete_until),
    )
    _print(result)


@app.command("inspect")
def inspect_(
    path: Path,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", "-o", help="NAME=VALUE that is known already, e.g. -o encoding=cp1252."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The report as JSON.")] = False,
) -> None:
    """Look at a file or folder of events: its form, columns, span and types, and the command that imports it."""
    from recsys.steps import inspect_file

    report = inspect_file.run(path, options=_options(option))
    if as_json:
        _print(vars(report))
    else:
        typer.echo(inspect_file.text(report))
    if report.command is None:
        raise typer.Exit(2)


@app.command("prepare-dataset")
def prepare_dataset(
    as_of: Annotated[
        str | None, typer.Option(help="Use only what happened before this instant, ISO 8601, UTC.")
    ] = None,
    force: ForceOption = False,
) -> None:
    """Prepare a data set from the raw tables: keys, items, users, events, as of an instant."""
    from recsys.steps import prepare_dataset

    _print(prepare_dataset.run(as_of=as_of, force=force))


# The steps that work on one data set; the module, and what `recsys --help` says without importing it.
STEPS = {
    "train_als": "Train ALS: for the ranker's label windows, and for serving.",
    "train_deepfm": "Train DeepFM: for the ranker's label windows, and for serving.",
    "default_recommendations": "Write the default lists: popular items overall and by category.",
    "personal_recommendations": "Write the personal lists of ALS.",
    "i2i_recommendations": "Write the item-to-item lists of co-visitation.",
    "similar_items": "Write the lists of similar items, by ALS' item factors.",
    "train_ranker": "Train the CatBoost ranker and let the gate decide.",
    "rank_users": "Write the ranked lists of the champion.",
    "user_history": "Write down what users did, so that nobody is shown again what they bought.",
    "publish": "Check the newest lists of a data set and move the pointer to them (--force: to older data, too).",
}


def _add_step(module: str, help_text: str) -> None:
    @app.command(module.replace("_", "-"), help=help_text)
    def command(dataset: DatasetOption = None, force: ForceOption = False) -> None:
        _print(import_module(f"recsys.steps.{module}").run(dataset=dataset, force=force))


for _module, _help_text in STEPS.items():
    _add_step(_module, _help_text)


@app.command("run-all")
def run_all(
    as_of: Annotated[
        str | None, typer.Option(help="Use only what happened before this instant, ISO 8601, UTC.")
    ] = None,
    force: ForceOption = False,
) -> None:
    """The whole nightly pipeline in order, in this process, from the raw tables to the publication."""
    from recsys.steps import run_all

    _print(run_all.run(as_of=as_of, force=force))


@app.command("housekeeping")
def housekeeping(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go, and how much it is.")] = False,
) -> None:
    """End what grows: unused artifacts, old exposures, idle sessions, logs, MLflow runs; by days in the settings."""
    from recsys.steps import housekeeping

    _print(housekeeping.run(dry_run=dry_run))


@app.command("evaluate")
def evaluate(
    dataset: DatasetOption = None,
    cuts: Annotated[int, typer.Option(min=1, max=26, help="Number of cuts, one window apart.")] = 4,
    days: Annotated[float, typer.Option(min=0.01, help="Length of a label window in days.")] = 14,
    out: Annotated[Path | None, typer.Option(help="Folder for the report as JSON and CSV.")] = None,
) -> None:
    """Measure popularity, each generator and the two-stage result on past label windows (protocol B4)."""
    from recsys.steps import evaluate

    evaluate.run(dataset=dataset, cuts=cuts, days=days, out=out)


OnceOption = Annotated[bool, typer.Option("--once", help="End when all is done, instead of waiting for more.")]
InstantOption = Annotated[str | None, typer.Option(help="An instant, ISO 8601, UTC where it names no zone.")]


@app.command("relay")
def relay(once: OnceOption = False) -> None:
    """Deliver the events of the outbox to Kafka, in their order (RECSYS_EVENT_OUTBOX=true)."""
    from recsys.online import commands

    _print({"passed": commands.relay(_ready(), once=once)})


@app.command("sink")
def sink(once: OnceOption = False) -> None:
    """Bring Kafka's events into the tables; messages that are none go to the topic for dead letters."""
    from recsys.online import commands

    _print({"messages": commands.sink(_ready(), once=once)})


@app.command("updater")
def updater() -> None:
    """Let DeepFM learn from events as they come, and watch over it; until a signal. One works, others wait."""
    from recsys.online.supervisor import supervise

    supervise(_ready())


@app.command("archive")
def archive(folder: Path) -> None:
    """Write the event log as Parquet files into FOLDER, by day; goes on where it stopped."""
    from recsys.online import commands

    _print(commands.archive(_ready(), folder))


@app.command("replay")
def replay(
    folder: Annotated[Path | None, typer.Argument(help="An archive; the log's own events when not given.")] = None,
    since: InstantOption = None,
    until: InstantOption = None,
) -> None:
    """Append archived events to the log again, those that occurred in [since, until); none counts twice."""
    from recsys.online import commands

    _print(commands.replay(_ready(), folder, _instant(since), _instant(until)))


@app.command("skip-gap")
def skip_gap(
    reader: Annotated[str, typer.Argument(help="updater, sink, or archive with its FOLDER.")],
    folder: Annotated[Path | None, typer.Argument(help="The archive.")] = None,
) -> None:
    """Let a READER go on with what Kafka still has, where it has not kept what came next."""
    from recsys.online import commands

    _print(commands.skip_gap(_ready(), reader, folder))


@publications.command("list")
def publications_list(limit: Annotated[int, typer.Option(min=1, max=1000)] = 20) -> None:
    """The newest publications; the one that readers see is marked."""
    from recsys.steps import publications

    publications.show(limit=limit)


@publications.command("verify")
def publications_verify(
    publication: Annotated[int | None, typer.Argument(help="Its number; the live one by default.")] = None,
) -> None:
    """Check the stored rows of a publication against every invariant."""
    from recsys.steps import publications

    _print(publications.verify(publication))


@publications.command("rollback")
def publications_rollback(
    to: Annotated[
        int | None, typer.Option(help="Number of a publication; the one before the live one by default.")
    ] = None,
) -> None:
    """Move the pointer back to an older publication."""
    from recsys.steps import publications

    _print(publications.rollback(to))


@app.command("migrate")
def migrate_() -> None:
    """Make the tables in an empty database, or bring them up to this version; safe to repeat.

    Before a newer service is started, and after a move to another server. No other command changes tables.
    """
    from recsys.storage.engine import engine, migrate, with_patience

    loaded = settings.load()
    with_patience(lambda: migrate(engine(loaded)), loaded.database_patience_s)
    typer.echo("The tables are those of this version.")


@keys.command("create")
def keys_create(
    name: Annotated[str, typer.Option(help="Who uses the key.")],
    scope: Annotated[
        list[str],
        typer.Option(help="recommend, events, catalogue, users, metrics or admin (which allows all); repeatedly."),
    ],
    rate: Annotated[
        float | None, typer.Option(help="Requests per second and worker; API_RATE_PER_S of the service by default.")
    ] = None,
    expires: Annotated[
        str | None, typer.Option(help="When it ends: in 90d, 12h, or at an instant, ISO 8601, UTC. Never by default.")
    ] = None,
) -> None:
    """Make a key and print it, alone on standard output."""
    from recsys.storage import api_keys

    text, key = api_keys.create(_database(), name, scope, rate, _end(expires))
    ends = f" until {key.expires_at.isoformat()}" if key.expires_at else ""
    typer.echo(text)
    typer.echo(
        f"Key {key.key_id} of {key.name!r} may {', '.join(key.scopes)}{ends}. Keep it now: it will not be shown again. "
        "Running services know it within seconds; send it as `Authorization: Bearer <key>`.",
        err=True,
    )


@keys.command("list")
def keys_list() -> None:
    """All keys, without their secrets."""
    from recsys.storage import api_keys

    _print([key._asdict() for key in api_keys.every(_database())])


@keys.command("revoke")
def keys_revoke(key_id: Annotated[str, typer.Argument(help="The id that `recsys keys list` shows.")]) -> None:
    """End a key for good; running services refuse it within seconds."""
    from recsys.storage import api_keys

    _print(api_keys.revoke(_database(), key_id)._asdict())


def _options(pairs: list[str] | None) -> dict[str, str]:
    options: dict[str, str] = {}
    for pair in pairs or []:
        name, found, value = pair.partition("=")
        if not found or not name:
            raise InputError(f"--option {pair!r} is not of the form NAME=VALUE")
        options[name] = value
    return options


def _ready() -> Settings:
    """The settings, when Postgres is there and has this version's tables."""
    from recsys.storage.engine import with_patience

    loaded = settings.load()
    with_patience(lambda: _database().dispose(), loaded.database_patience_s)
    return loaded


def _instant(text: str | None) -> dt.datetime | None:
    if text is None:
        return None
    try:
        at = dt.datetime.fromisoformat(text)
    except ValueError:
        raise InputError(f"{text!r} is no instant; expected ISO 8601, as 2026-03-01T12:00:00Z") from None
    return at if at.tzinfo else at.replace(tzinfo=dt.UTC)


def _end(text: str | None) -> dt.datetime | None:
    """An instant, or so many days or hours from now; InputError."""
    found = re.fullmatch(r"([0-9]{1,5})([dh])", text or "")
    if found is None:
        return _instant(text)
    return dt.datetime.now(dt.UTC) + dt.timedelta(**{"days" if found[2] == "d" else "hours": int(found[1])})


def _database() -> Any:
    from recsys.storage.engine import engine, require_current

    database = engine(settings.load())
    require_current(database)
    return database


# Where files are to be written: full, read-only, not ours, not a folder.
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR)


def main() -> None:
    """Entry point of the command `recsys`: errors made on purpose, those of the disk, and those of Postgres' server are
    one line, not a stack trace."""
    try:
        log.setup()
        app()
    except RecsysError as error:
        typer.secho(f"error: {error}", fg=typer.colors.RED, err=True)
        raise SystemExit(2 if isinstance(error, InputError) else 1) from None
    except OSError as error:
        if error.errno not in _OF_THE_DISK:
            raise
        typer.secho(f"error: {error.strerror}: {error.filename or 'no file is named'}", fg=typer.colors.RED, err=True)
        raise SystemExit(1) from None
    except Exception as error:
        from recsys.storage.engine import said_by_server

        if not (said := said_by_server(error)):
            raise
        text = (
            f"error: Postgres does not do it: {said}. When that is mended, run the same again (DATABASE_URL says where)"
        )
        typer.secho(text, fg=typer.colors.RED, err=True)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
