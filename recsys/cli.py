"""`recsys …`: every step of the pipeline without Airflow, and what people on call need."""

from __future__ import annotations

import errno
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from recsys import log, settings
from recsys.cli_arguments import instant, options_of, ready, show
from recsys.cli_operations import keys, publications
from recsys.errors import InputError, RecsysError

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False, help=__doc__)
app.add_typer(publications, name="publications")
app.add_typer(keys, name="keys")

DatasetOption = Annotated[str | None, typer.Option(help="Reference of a data set, dataset/…; the newest by default.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Make it again although the inputs did not change.")]


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

    show(generate_shop.run(folder, n_users=users, n_items=items, n_events=events, seed=seed))


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
            help="Load a file's good rows, even if ten of them and more than half (with --replace: a tenth) are bad.",
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
        options=options_of(option),
        replace=replace,
        drop_duplicates=drop_duplicates,
        keep_duplicates=keep_duplicates,
        allow_bad_rows=allow_bad_rows,
        complete_until=instant(complete_until),
    )
    show(result)


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

    report = inspect_file.run(path, options=options_of(option))
    if as_json:
        show(vars(report))
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

    show(prepare_dataset.run(as_of=as_of, force=force))


# The steps that work on one data set; the module, and what `recsys --help` says without importing it.
STEPS = {
    "train_als": "Train ALS: for the ranker's label windows, and for serving.",
    "train_deepfm": "Train DeepFM: for the ranker's label windows, and for serving.",
    "train_sequence": "Train the sequence network: for the ranker's label windows, and for serving.",
    "default_recommendations": "Write the default lists: popular items overall and by category.",
    "personal_recommendations": "Write the personal lists of ALS.",
    "i2i_recommendations": "Write the item-to-item lists of co-visitation.",
    "index_sessions": "Write the index of sessions: what follows a user's last events.",
    "similar_items": "Write the lists of similar items, by ALS' item factors, or by content where few use an item.",
    "train_ranker": "Train the CatBoost ranker and let the gate decide.",
    "rank_users": "Write the ranked lists of the champion.",
    "user_history": "Write down what users did, so that nobody is shown again what they bought.",
    "publish": "Check the newest lists of a data set and move the pointer to them (--force: to older data, too).",
}


def _add_step(module: str, help_text: str) -> None:
    @app.command(module.replace("_", "-"), help=help_text)
    def command(dataset: DatasetOption = None, force: ForceOption = False) -> None:
        show(import_module(f"recsys.steps.{module}").run(dataset=dataset, force=force))


for _module, _help_text in STEPS.items():
    _add_step(_module, _help_text)


@app.command("run-all")
def run_all(
    as_of: Annotated[
        str | None, typer.Option(help="Use only what happened before this instant, ISO 8601, UTC.")
    ] = None,
    force: ForceOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="The results of all steps as JSON.")] = False,
) -> None:
    """The whole nightly pipeline in order, in this process, from the raw tables to the publication."""
    from recsys.steps import run_all

    lines: list[str] = []
    result = run_all.run(as_of=as_of, force=force, on_step=lambda *done: lines.append(run_all.line(*done)))
    if as_json:
        show(result)
    else:
        typer.echo("\n".join(lines))


@app.command("housekeeping")
def housekeeping(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go, and how much it is.")] = False,
) -> None:
    """End what grows: unused artifacts, old exposures, idle sessions, logs, MLflow runs; by days in the settings."""
    from recsys.steps import housekeeping

    show(housekeeping.run(dry_run=dry_run))


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


@app.command("benchmark")
def benchmark(
    name: Annotated[
        str,
        typer.Argument(
            help="b1: next item; b2: next film; b3: click probability; b4: a whole shop; b5: the online half;"
            " b6: next click."
        ),
    ],
    path: Annotated[
        Path | None,
        typer.Option(
            "--input",
            help="b1: lines `user item item …`; b3, b6: a folder; b5: ml-1m, a folder; RECSYS_DATA_DIR's else.",
        ),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Part of the data, small models (b1, b2, b4: no networks): to see it run."),
    ] = False,
    keep: Annotated[bool, typer.Option(help="Add the result to research/benchmarks/RESULTS.md.")] = True,
    plots: Annotated[Path | None, typer.Option(help="Folder for its plots as PNG; MLflow has them, too.")] = None,
) -> None:
    """Measure the defaults that ship on a public protocol, beside published rows."""
    from recsys.steps.benchmarks import command

    show(command.run(name, path, quick=quick, keep=keep, plots=plots))


@app.command("tune")
def tune(
    name: Annotated[str, typer.Argument(metavar="GENERATOR|RANKER", help="als, ease, …; or ranker.")],
    minutes: Annotated[float, typer.Option(min=0.01, help="Of the search; the best so far is the result.")] = 60,
    trials: Annotated[int, typer.Option(min=1, help="Configurations at most, the defaults included.")] = 100,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data", help="NAME=FILE: sequences, sessions, invoices or a prepared data set, beside RECSYS_DATA_DIR's."
        ),
    ] = None,
    dataset: DatasetOption = None,
) -> None:
    """Search better hyper-parameters on validation parts of several data sets; prints the setting to paste."""
    from recsys.steps import tune

    tune.run(name.lower(), data=options_of(data, "--data"), dataset=dataset, minutes=minutes, trials=trials)


OnceOption = Annotated[bool, typer.Option("--once", help="End when all is done, instead of waiting for more.")]
InstantOption = Annotated[str | None, typer.Option(help="An instant, ISO 8601, UTC where it names no zone.")]


@app.command("relay")
def relay(once: OnceOption = False) -> None:
    """Deliver the events of the outbox to Kafka, in their order (RECSYS_EVENT_OUTBOX=true)."""
    from recsys.events import commands

    show({"passed": commands.relay(ready(), once=once)})


@app.command("sink")
def sink(once: OnceOption = False) -> None:
    """Bring Kafka's events into the tables; messages that are none go to the topic for dead letters."""
    from recsys.events import commands

    show({"messages": commands.sink(ready(), once=once)})


@app.command("updater")
def updater() -> None:
    """Let DeepFM learn from events as they come, and watch over it; until a signal. One works, others wait."""
    from recsys.updater.supervisor import supervise

    supervise(ready())


@app.command("archive")
def archive(folder: Path) -> None:
    """Write the event log as Parquet files into FOLDER, by day; goes on where it stopped."""
    from recsys.events import commands

    show(commands.archive(ready(), folder))


@app.command("replay")
def replay(
    folder: Annotated[Path | None, typer.Argument(help="An archive; the log's own events when not given.")] = None,
    since: InstantOption = None,
    until: InstantOption = None,
) -> None:
    """Append archived events to the log again, those that occurred in [since, until); none counts twice."""
    from recsys.events import commands

    show(commands.replay(ready(), folder, instant(since), instant(until)))


@app.command("skip-gap")
def skip_gap(
    reader: Annotated[str, typer.Argument(help="updater, sink, or archive with its FOLDER.")],
    folder: Annotated[Path | None, typer.Argument(help="The archive.")] = None,
) -> None:
    """Let a READER go on with what Kafka still has, where it has not kept what came next."""
    from recsys.events import commands

    show(commands.skip_gap(ready(), reader, folder))


@app.command("migrate")
def migrate_() -> None:
    """Make the tables in an empty database, or bring them up to this version; safe to repeat.

    Before a newer service is started, and after a move to another server. No other command changes tables.
    """
    from recsys.storage.engine import engine, migrate, with_patience

    loaded = settings.load()
    with_patience(lambda: migrate(engine(loaded)), loaded.database_patience_s)
    typer.echo("The tables are those of this version.")


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
        from recsys.storage.engine import server_message

        if not (message := server_message(error)):
            raise
        hint = "Once that is fixed, run the same again (DATABASE_URL says where)"
        text = f"error: Postgres does not do it: {message}. {hint}"
        typer.secho(text, fg=typer.colors.RED, err=True)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
