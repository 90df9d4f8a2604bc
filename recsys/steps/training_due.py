"""Decide whether training is due: every night, or by the schedule of the settings since the last training."""

from __future__ import annotations

import datetime as dt
from typing import Any

import sqlalchemy as sa

from recsys.steps.context import SERVING, Context, step
from recsys.storage.tables import training_runs


@step
def run(dataset: str | None = None, force: bool = False, *, ctx: Context | None = None) -> dict[str, Any]:
    """The data set, with the reason under "skipped" when training is not due.

    A training counts once the ranker's gate has decided; after one that failed earlier, or had too little data for a
    ranker, training is due again the next night.
    """
    ctx = ctx or Context.open()
    ref, _ = ctx.dataset(dataset)
    schedule, trained_at = ctx.settings.training_schedule, _last_trained(ctx)
    if schedule is None or force:
        return {"dataset": ref}
    due_at = next_due(schedule, trained_at or dt.datetime.now(dt.UTC))
    if trained_at is None or due_at <= dt.datetime.now(dt.UTC):
        return {"dataset": ref}
    return {
        "dataset": ref,
        "skipped": f"training ({schedule}) was done {trained_at:%Y-%m-%d %H:%M} UTC and is due again "
        f"{due_at:%Y-%m-%d %H:%M} UTC; the current models make the lists",
    }


def next_due(schedule: str, after: dt.datetime) -> dt.datetime:
    """The next instant of a schedule (cron, UTC) after another."""
    from croniter import croniter

    found: dt.datetime = croniter(schedule, after.astimezone(dt.UTC)).get_next(dt.datetime)
    return found


def _last_trained(ctx: Context) -> dt.datetime | None:
    query = sa.select(sa.func.max(training_runs.c.created_at)).where(
        training_runs.c.step == "train_ranker",
        training_runs.c.purpose == SERVING,
        training_runs.c.status.in_(("succeeded", "refused")),
        training_runs.c.artifact.is_not(None),  # without: too little data to train on
    )
    with ctx.engine.connect() as connection:
        found: dt.datetime | None = connection.execute(query).scalar_one()
    return found
