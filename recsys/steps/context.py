"""The services that every step depends on: settings, database, artifacts, MLflow, and the record of runs.

Steps find each other's results in `training_runs`, always by data set and never by "latest": `dataset=None` resolves
once, to the newest prepared data set, and all later lookups are for that one.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

import sqlalchemy as sa

from recsys import log
from recsys import settings as settings_module
from recsys.artifacts import ArtifactStore, Manifest
from recsys.data.dataset import Dataset, instant, microseconds
from recsys.errors import ModelError, NotFoundError, NothingToDoError
from recsys.evaluation.gate import GateDecision
from recsys.instants import age_days
from recsys.settings import Settings
from recsys.steps import recipe
from recsys.storage.engine import engine, require_current, with_patience
from recsys.storage.tables import training_runs
from recsys.tracking import Tracker

logger = logging.getLogger(__name__)
P = ParamSpec("P")
R = TypeVar("R")

SERVING = "serving"
SKIPPED = "skipped"  # MLflow experiment of skipped steps
HISTORY = "history"  # fitted on data before a label window, for the ranker's training rows only


@dataclass
class Context:
    """The services of one step; opened by the step itself, or passed by a test."""

    settings: Settings
    engine: sa.Engine
    store: ArtifactStore
    tracker: Tracker
    _open: dict[str, Dataset] = field(default_factory=dict)

    @classmethod
    def open(cls, settings: Settings | None = None) -> Context:
        """The services of the settings; starts the embedded Postgres when no other is configured.

        InputError where the schema is not that of this release, or a setting of the models does not fit.
        """
        chosen = settings or settings_module.load()
        recipe.check(chosen)
        database = engine(chosen)
        with_patience(lambda: require_current(database), chosen.database_patience_s)
        return cls(
            chosen,
            database,
            ArtifactStore(chosen.artifact_root, chosen.local_dir / "cache"),
            Tracker(chosen.mlflow_tracking_uri, f"{chosen.artifact_root}/mlflow"),
        )

    def dataset(self, ref: str | None = None) -> tuple[str, Dataset]:
        """A prepared data set by reference, the newest when `ref` is None; its files are verified once."""
        if ref is None:
            ref = self.newest("prepare_dataset")
            if ref is None:
                raise NotFoundError("no data set is prepared yet; run `recsys prepare-dataset` (DAG nightly) first")
        if ref not in self._open:
            folder, _ = self.store.open(ref)
            self._open[ref] = Dataset(folder)
        return ref, self._open[ref]

    def newest(self, step: str, dataset: str | None = None, *, purpose: str = SERVING) -> str | None:
        """The artifact of the newest successful run of a step (for one data set), None when there is none."""
        query = (
            sa.select(training_runs.c.artifact)
            .where(training_runs.c.step == step, training_runs.c.status == "succeeded")
            .where(training_runs.c.purpose == purpose)
            .order_by(training_runs.c.as_of.desc(), training_runs.c.run_id.desc())
            .limit(1)
        )
        if dataset is not None:
            query = query.where(training_runs.c.dataset == dataset)
        with self.engine.connect() as connection:
            return connection.execute(query).scalar_one_or_none()

    def history(self, step: str, dataset: str) -> dict[int, str]:
        """The artifacts that a step fitted for the ranker's label windows: cutoff (microseconds) → reference."""
        query = (
            sa.select(training_runs.c.as_of, training_runs.c.artifact)
            .where(training_runs.c.step == step, training_runs.c.dataset == dataset)
            .where(training_runs.c.purpose == HISTORY, training_runs.c.status == "succeeded")
            .order_by(training_runs.c.run_id)
        )
        with self.engine.connect() as connection:
            return {microseconds(as_of): ref for as_of, ref in connection.execute(query)}

    def histories_before(self, step: str, dataset: str, cut_at: int, n: int = 10) -> list[str]:
        """The artifacts that a step fitted for label windows of other data sets, on events up to an instant
        (microseconds) at most: the newest `n`, newest events first."""
        query = (
            sa.select(training_runs.c.artifact)
            .where(training_runs.c.step == step, training_runs.c.dataset != dataset)
            .where(training_runs.c.purpose == HISTORY, training_runs.c.status == "succeeded")
            .where(training_runs.c.as_of <= instant(cut_at))
            .order_by(training_runs.c.as_of.desc(), training_runs.c.run_id.desc())
            .limit(n)
        )
        with self.engine.connect() as connection:
            return [str(ref) for ref in connection.scalars(query)]

    def measured_model(self, model: str, serving: str) -> str | None:
        """The model of the past by which a serving one was measured: the newest of the same data; None without one."""
        query = (
            sa.select(training_runs.c.dataset)
            .where(training_runs.c.step == f"train_{model}", training_runs.c.artifact == serving)
            .where(training_runs.c.purpose == SERVING)
            .order_by(training_runs.c.run_id.desc())
            .limit(1)
        )
        with self.engine.connect() as connection:
            dataset = connection.execute(query).scalar_one_or_none()
        found = self.history(f"train_{model}", dataset) if dataset is not None else {}
        return found[max(found)] if found else None

    def verdict(self, step: str, dataset: str, artifact: str) -> tuple[bool, str] | None:
        """Whether the gate accepted an artifact, and why; None when the step did not reach the gate."""
        query = (
            sa.select(training_runs.c.status, training_runs.c.reason)
            .where(training_runs.c.step == step, training_runs.c.dataset == dataset)
            .where(training_runs.c.artifact == artifact, training_runs.c.purpose == SERVING)
            .order_by(training_runs.c.run_id.desc())
            .limit(1)
        )
        with self.engine.connect() as connection:
            found = connection.execute(query).first()
        if found is None:
            return None
        return found.status == "succeeded", found.reason or ""

    def refusal(self, step: str, dataset: str) -> str | None:
        """Why the newest refused run of a step for a data set was refused, None when there was none."""
        query = (
            sa.select(training_runs.c.reason)
            .where(training_runs.c.step == step, training_runs.c.dataset == dataset)
            .where(training_runs.c.status == "refused")
            .order_by(training_runs.c.run_id.desc())
            .limit(1)
        )
        with self.engine.connect() as connection:
            return connection.execute(query).scalar_one_or_none()

    def champion(self, model: str) -> str | None:
        """The model in service: the accepted one of the newest data whose artifact exists; None when there is none.

        This database is authoritative; MLflow only shows it.
        """
        return next(iter(self.champions(model, 1)), None)

    def champions(self, model: str, n: int) -> list[str]:
        """The model in service, and the accepted ones before it, at most `n`: those whose artifacts exist."""
        query = (
            sa.select(training_runs.c.artifact)
            .where(training_runs.c.step == f"train_{model}", training_runs.c.purpose == SERVING)
            .where(training_runs.c.status == "succeeded", training_runs.c.artifact.is_not(None))
            .order_by(training_runs.c.as_of.desc(), training_runs.c.run_id.desc())
        )
        with self.engine.connect() as connection:
            refs = [str(ref) for ref in dict.fromkeys(connection.scalars(query))]
        found: list[str] = []
        for ref in refs:
            if len(found) == n:
                break
            if self.store.exists(ref):
                found.append(ref)
            elif not found:
                logger.warning("the champion %s is not in the artifact store; using the one before it", ref)
        return found

    def serving_model(self, model: str, dataset: str) -> str:
        """The artifact to serve for a data set: the one trained on it, else the champion.

        NothingToDoError when none was accepted; NotFoundError with the step to run when it was not run.
        """
        ref = self.newest(f"train_{model}", dataset) or self.champion(model)
        if ref is None and (reason := self.refusal(f"train_{model}", dataset)):
            raise NothingToDoError(f"there is no {model} model: {reason}")
        if ref is None:
            raise NotFoundError(
                f"no {model} model has been accepted yet; run train_{model}, or see the reason of its gate"
            )
        return ref

    def show_champion(self, model: str, artifact: str, version: str, decision: GateDecision) -> None:
        """Show in MLflow that a registered version is the champion, or why it is not. The runs in Postgres decide which
        one is, see `champion`.

        A model of older data than the champion's, from a run for a past interval, does not replace it.
        """
        champion = self.champion(model)
        if decision.accepted:
            logger.info("the gate accepted %s: %s", artifact, decision.reason)
        if not decision.accepted:
            self.tracker.refuse(model, version, decision.reason)
            logger.warning("the gate refused %s: %s", artifact, decision.reason)
        elif champion is not None and (age_days(artifact, champion) or 0) > 0:
            logger.info("%s is of older data than the champion %s, which stays", artifact, champion)
        else:
            self.tracker.promote(model, version)

    def record(
        self,
        step: str,
        dataset: str,
        artifact: str | None,
        *,
        as_of: int,
        purpose: str = SERVING,
        status: str = "succeeded",
        reason: str | None = None,
        metrics: Mapping[str, float] | None = None,
        mlflow_run_id: str | None = None,
    ) -> None:
        """Record a run (`as_of` in microseconds); it replaces an earlier record of the same result."""
        row = {
            "step": step,
            "dataset": dataset,
            "artifact": artifact,
            "purpose": purpose,
            "as_of": instant(as_of),
            "status": status,
            "reason": reason,
            "metrics": {k: float(v) for k, v in (metrics or {}).items() if v == v},
            "mlflow_run_id": mlflow_run_id,
        }
        same = [training_runs.c[name] == row[name] for name in ("step", "dataset", "artifact", "purpose", "as_of")]
        with self.engine.begin() as connection:
            connection.execute(training_runs.delete().where(*same))
            connection.execute(training_runs.insert().values(row))


def require_purpose(manifest: Manifest, purpose: str) -> None:
    """ModelError for a model that was fitted for another purpose."""
    found = manifest.meta.get("purpose")
    if found == purpose:
        return
    if found == HISTORY:
        raise ModelError(
            f"{manifest.ref} was fitted on data before a label window, for the ranker's training rows; "
            f"it must not serve. Use the artifact with purpose {SERVING!r} of the same run"
        )
    raise ModelError(f"{manifest.ref} was fitted for {found!r}; its use for {purpose!r} would leak the labels' window")


def may_skip(run: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Decorates a step that may have nothing to do for a data set: the reason is then in its result ("skipped"), the
    log, the record of runs and a run in MLflow, and other steps continue without it."""
    name = run.__module__.rsplit(".", 1)[-1]

    @functools.wraps(run)
    def wrapped(
        dataset: str | None = None, force: bool = False, *, ctx: Context | None = None, **others: Any
    ) -> dict[str, Any]:
        ctx = ctx or Context.open()
        ref, data = ctx.dataset(dataset)
        try:
            return run(ref, force, ctx=ctx, **others)
        except NothingToDoError as error:
            logger.warning("%s is skipped: %s", name, error)
            shown = _logged(ctx, f"{name} {data.meta.as_of_at:%Y-%m-%d}", step=name, dataset=ref, skipped=str(error))
            ctx.record(name, ref, None, as_of=data.meta.as_of, status="refused", reason=str(error), mlflow_run_id=shown)
            return {"dataset": ref, "skipped": str(error)}

    return wrapped


def _logged(ctx: Context, name: str, **tags: str) -> str | None:
    """Log to MLflow why a step was skipped; the id of the run, or None where MLflow is unavailable."""
    try:
        with ctx.tracker.run(SKIPPED, name, tags=tags) as run:
            return run.run_id
    except Exception as error:
        logger.warning("MLflow does not show that %s was skipped: %s", name, error)
        return None


def step(function: Callable[P, R]) -> Callable[P, R]:
    """Decorates a function as a step: logs its duration, and retries it while Postgres is away for a while."""
    name = function.__module__.rsplit(".", 1)[-1]

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        log.setup()
        patience_s = settings_module.load().database_patience_s
        started = time.monotonic()
        given = {k: v for k, v in kwargs.items() if k != "ctx" and v is not None}  # a context has passwords
        logger.info("%s: start %s", name, given)
        result = with_patience(lambda: function(*args, **kwargs), patience_s)
        logger.info("%s: done in %.1f s: %s", name, time.monotonic() - started, result)
        return result

    return wrapped
