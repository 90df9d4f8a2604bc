"""The files of a source as a prepared data set, beside whatever this installation holds."""

from __future__ import annotations

import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recsys.data.dataset import Dataset
from recsys.settings import Settings
from recsys.steps import import_raw, prepare_dataset
from recsys.steps.context import Context
from recsys.storage import embedded
from recsys.storage.engine import engine, migrate


@contextmanager
def imported(loaded: Settings, source: str, path: Path) -> Iterator[tuple[Context, str]]:
    """The services and the reference of the data set of the files at `path`, as `recsys import SOURCE PATH` reads them.

    Postgres and artifacts are its own, and go when the block ends.
    """
    with _own_services(loaded) as own:
        database = engine(own)
        try:
            migrate(database)
            import_raw.run(source, path, engine=database)
            ctx = Context.open(own)
            try:
                yield ctx, prepare_dataset.run(ctx=ctx)["dataset"]
            finally:
                ctx.engine.dispose()
        finally:
            database.dispose()


def kept(loaded: Settings, source: str, path: Path, folder: Path) -> Dataset:
    """The data set of a source's files in `folder`, where it stays: the next time it is read from there."""
    if not folder.exists():
        with imported(loaded, source, path) as (ctx, ref):
            whole = folder.with_name(f"{folder.name}.part")
            shutil.rmtree(whole, ignore_errors=True)
            shutil.copytree(ctx.dataset(ref)[1].folder, whole)
        whole.rename(folder)
    return Dataset(folder)


@contextmanager
def _own_services(loaded: Settings) -> Iterator[Settings]:
    """Settings with a Postgres and artifacts of their own, which go when the block ends."""
    folder = Path(tempfile.mkdtemp(prefix="recsys-benchmark-", dir="/var/tmp"))
    folder.chmod(0o755)  # the embedded server may run as another user
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    try:
        yield loaded.model_copy(
            update={
                "local_dir": folder,
                "artifact_root": str(folder / "artifacts"),
                "database_url": None,
                "pg_port": port,
            }
        )
    finally:
        embedded.stop(folder / "postgres")
        shutil.rmtree(folder, ignore_errors=True)
