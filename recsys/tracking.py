"""The only door to MLflow: runs with parameters, metrics, plots and references, and the model registry.

MLflow is imported on first use, because importing it takes seconds.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recsys.errors import NotFoundError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient

CHAMPION = "champion"
CHALLENGER = "challenger"
_METRICS_PER_CALL = 1000  # MLflow's limit for one batch


class Run:
    """One MLflow run that is under way."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self._client = client
        self.run_id = run_id

    def params(self, values: Mapping[str, Any]) -> None:
        """Log parameters; nested ones are flattened with dots, long ones cut at MLflow's 6,000 characters."""
        from mlflow.entities import Param

        flat = [Param(name, str(value)[:6000]) for name, value in _flatten(values).items()]
        for start in range(0, len(flat), 100):
            self._client.log_batch(self.run_id, params=flat[start : start + 100])

    def metrics(self, values: Mapping[str, float], *, step: int = 0) -> None:
        """Log metrics; what MLflow refuses in names becomes `_`, `@` and `%` words; values that are not finite are left
        out."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        batch = [
            Metric(_named(name), float(value), now, step)
            for name, value in values.items()
            if value is not None and math.isfinite(value)
        ]
        for start in range(0, len(batch), _METRICS_PER_CALL):
            self._client.log_batch(self.run_id, metrics=batch[start : start + _METRICS_PER_CALL])

    def curve(self, name: str, values: Sequence[float]) -> None:
        """Log a metric that has a value per epoch or iteration."""
        for step, value in enumerate(values):
            self.metrics({name: value}, step=step)

    def figure(self, name: str, figure: Figure) -> None:
        """Log a plot as `plots/<name>.png`."""
        self._client.log_figure(self.run_id, figure, f"plots/{name}.png")

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Log rows as `tables/<name>.json`, which MLflow compares between runs."""
        columns = {key: [row.get(key) for row in rows] for key in (rows[0] if rows else {})}
        self._client.log_table(self.run_id, columns, f"tables/{name}.json")

    def text(self, path: str, content: str) -> None:
        self._client.log_text(self.run_id, content, path)

    def tag(self, name: str, value: str) -> None:
        self._client.set_tag(self.run_id, name, value[:5000])


class Tracker:
    """Runs and registered models at one tracking URI."""

    def __init__(self, uri: str, artifact_location: str | None = None) -> None:
        """`artifact_location`: where plots go when `uri` is a database and not a server, which has its own."""
        self.uri = uri
        self._location = artifact_location if not uri.startswith("http") else None
        self._cached: MlflowClient | None = None

    @property
    def _client(self) -> MlflowClient:
        if self._cached is None:
            from mlflow import MlflowClient

            if self.uri.startswith("sqlite:///"):
                Path(self.uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
            self._cached = MlflowClient(self.uri, self.uri)
        return self._cached

    @contextmanager
    def run(
        self,
        experiment: str,
        name: str,
        *,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> Iterator[Run]:
        """A run that ends FINISHED, or FAILED with the error as a tag when the block raises."""
        client = self._client
        created = client.create_run(self._experiment_id(experiment), run_name=name, tags=dict(tags or {}))
        run = Run(client, created.info.run_id)
        try:
            run.params(params or {})
            yield run
        except BaseException as error:
            run.tag("error", f"{type(error).__name__}: {error}")
            client.set_terminated(run.run_id, "FAILED")
            raise
        client.set_terminated(run.run_id, "FINISHED")

    def register(self, model: str, ref: str, run_id: str, *, tags: Mapping[str, str] | None = None) -> str:
        """A new version of `model` that stands for the artifact `ref`, with the alias `challenger`; its number."""
        from mlflow.exceptions import MlflowException

        client = self._client
        try:
            client.create_registered_model(model)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        client.log_text(run_id, json.dumps({"artifact": ref}), "model/artifact.json")
        source = f"{client.get_run(run_id).info.artifact_uri}/model"
        version = client.create_model_version(
            model, source, run_id=run_id, tags={"artifact": ref, **dict(tags or {})}, description=ref
        ).version
        client.set_registered_model_alias(model, CHALLENGER, version)
        return str(version)

    def promote(self, model: str, version: str) -> None:
        """Make a version the champion; the alias `challenger` goes."""
        self._client.set_registered_model_alias(model, CHAMPION, version)
        self._client.delete_registered_model_alias(model, CHALLENGER)

    def refuse(self, model: str, version: str, reason: str) -> None:
        """Say at the version why it did not become the champion; it keeps the alias `challenger`."""
        self._client.set_model_version_tag(model, version, "refused", reason[:5000])

    def champion(self, model: str) -> str | None:
        """The artifact reference of the champion, None when there is none yet."""
        from mlflow.exceptions import MlflowException

        try:
            version = self._client.get_model_version_by_alias(model, CHAMPION)
        except MlflowException as error:
            if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
                return None
            raise
        ref = version.tags.get("artifact")
        if not ref:
            raise NotFoundError(f"version {version.version} of {model} in MLflow names no artifact")
        return str(ref)

    def old_runs(self, before_ms: int) -> list[str]:
        """Ids of the runs that ended before an instant and of which no registered version has an alias."""
        client = self._client
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        kept = {
            client.get_model_version(model.name, version).run_id
            for model in client.search_registered_models()
            for version in model.aliases.values()
        }
        found, token = [], None
        while experiments:
            page = client.search_runs(
                experiments, f"attributes.end_time < {int(before_ms)}", max_results=1000, page_token=token
            )
            found += [run.info.run_id for run in page if run.info.run_id not in kept]
            token = page.token
            if not token:
                break
        return found

    def delete_runs(self, run_ids: Sequence[str]) -> None:
        """Delete runs with their plots and registered versions. Their rows go, too, where `uri` is a database; a server
        marks them as deleted, and `mlflow gc` beside it ends them."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        client = self._client
        for run_id in run_ids:
            for version in client.search_model_versions(f"run_id = '{run_id}'"):
                client.delete_model_version(version.name, version.version)
            uri = client.get_run(run_id).info.artifact_uri
            if uri:
                get_artifact_repository(uri, tracking_uri=self.uri).delete_artifacts()
            client.delete_run(run_id)
        if run_ids and not self.uri.startswith("http"):
            from mlflow.cli import gc

            for start in range(0, len(run_ids), 100):
                some = ",".join(run_ids[start : start + 100])
                arguments = ["--backend-store-uri", self.uri, "--tracking-uri", self.uri, "--run-ids", some]
                gc.main(arguments, standalone_mode=False)

    def _experiment_id(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        client = self._client
        found = client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        try:
            return str(client.create_experiment(name, artifact_location=self._location))
        except MlflowException:  # another task made it in the meantime
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
            return str(found.experiment_id)


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _named(metric: str) -> str:
    """A name that MLflow takes: letters, digits and `_-. :/`."""
    return re.sub(r"[^\w\-. :/]", "_", metric.replace("@", "_at_").replace("%", "_percent"), flags=re.ASCII)
