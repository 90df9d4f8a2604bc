"""Nights of the taste world, with artifacts and MLflow of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa

from recsys.artifacts import ArtifactStore, version_of
from recsys.data.dataset import instant
from recsys.evaluation.gate import GateDecision
from recsys.settings import Settings
from recsys.steps import judge, train_ranker
from recsys.steps.context import Context
from recsys.steps.ranker_plan import plan_of
from recsys.storage.tables import training_runs
from recsys.tracking import Tracker
from recsys.types import MICROSECONDS_PER_DAY as DAY
from tests.unit.ranking import taste_world

WINDOW_DAYS = 14


class Shop:
    """The taste world, a data set for each night."""

    def __init__(self, url: str, engine: sa.Engine, folder: Path, *, n_users: int, surge: bool = False) -> None:
        self.settings = Settings(
            database_url=url,
            artifact_root=str(folder / "artifacts"),
            mlflow_tracking_uri=f"sqlite:///{folder / 'mlflow.db'}",
            local_dir=folder,
            generators=["popular", "covisitation"],
            ranker_params={"iterations": 30, "losses": ["Logloss"], "n_models": 1, "threads": 2},
            n_label_windows=2,
            label_window_days=WINDOW_DAYS,
        )
        self.engine, self._n_users, self._surge = engine, n_users, surge
        self.store = ArtifactStore(self.settings.artifact_root)
        self.tracker = Tracker(self.settings.mlflow_tracking_uri, str(folder / "mlflow"))

    def ctx(self, **changed: Any) -> Context:
        return Context(self.settings.model_copy(update=changed), self.engine, self.store, self.tracker)

    def dataset(self, until: float) -> str:
        version = version_of(instant(round(until * DAY)), {"surge": self._surge})
        if not self.store.exists(f"dataset/{version}"):
            with self.store.writing("dataset", version, made_by="test") as (folder, _):
                taste_world.dataset(folder, n_users=self._n_users, days=(0, until), surge=self._surge)
        return f"dataset/{version}"

    def night(self, until: float, **changed: Any) -> dict[str, Any]:
        """Train and judge on what was known until a day."""
        return train_ranker.run(self.dataset(until), ctx=self.ctx(**changed))

    def judged_again(self, until: float, **changed: Any) -> tuple[GateDecision, dict[str, float]]:
        """Judge what a night has trained, among the champions of now."""
        ctx = self.ctx(**changed)
        plan = plan_of(ctx, *ctx.dataset(self.dataset(until)))
        with self.tracker.run("ranker", "again") as run:
            return judge.judge(ctx, run, plan)

    def run_of(self, ranker: str) -> str:
        client = self.tracker._client
        (experiment,) = [one for one in client.search_experiments() if one.name == "ranker"]
        run_id: str = client.search_runs([experiment.experiment_id], f"tags.artifact = '{ranker}'")[0].info.run_id
        return run_id

    def logged(self, ranker: str, path: str) -> Path:
        return Path(self.tracker._client.download_artifacts(self.run_of(ranker), path))

    def set_status(self, ranker: str, status: str) -> None:
        with self.engine.begin() as connection:
            row = sa.update(training_runs).where(training_runs.c.artifact == ranker).values(status=status)
            assert connection.execute(row).rowcount == 1
