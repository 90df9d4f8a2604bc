"""All settings, from the environment (or `.env`), with defaults that work on an empty machine.

Three names stand alone because users know them from elsewhere: DATABASE_URL, ARTIFACT_ROOT and
MLFLOW_TRACKING_URI. Everything else starts with RECSYS_; a nested value is JSON, for example
RECSYS_EVENT_WEIGHTS='{"view": 1, "transaction": 5}'. A variable that is empty counts as not set.

Relative paths are below the folder of this repository, wherever a command is run, so that all parts of a system mean
the same folder.
"""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from recsys.action import SYNONYMS
from recsys.errors import InputError

log = logging.getLogger(__name__)
ROOT = Path(__file__).resolve().parents[1]
Days = Annotated[float, Field(le=36_500)]  # a hundred years: an instant so long ago can still be told
LOCAL = ROOT / ".local"


def _schedule(text: str) -> str:
    """A schedule that Airflow and `training_due` can read; ValueError for another one, or one that is never due."""
    try:
        from croniter import CroniterError, croniter
    except ImportError:  # the image of the API, which schedules nothing
        return text
    try:
        croniter(text).get_next()
    except CroniterError as error:
        raise ValueError(f"not a schedule ({error}); write five fields of cron, e.g. 0 2 * * 0, or @weekly") from None
    return text


Schedule = Annotated[str, AfterValidator(_schedule)]
_SQLITE = "sqlite:///"
# Read elsewhere: of tests, the mark of the demo's processes, the choice of recsys.serving.core.
_NO_SETTINGS = ("RECSYS_TEST_", "RECSYS_DATA_DIR", "RECSYS_SERVICE", "RECSYS_COMPILED")
_EXPECTED = "expected are lists and mappings in JSON, as in .env.example"

Loaded = TypeVar("Loaded", bound=BaseSettings)


class UpdaterSettings(BaseModel):
    """How the updater learns from events and watches over what it has learned."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    priority_event_types: list[str] = Field(
        ["transaction", "purchase", "addtocart"], description="learned at once, with what came before them"
    )
    batch_events: int = Field(1024, ge=1, le=100_000, description="other events are learned when there are so many")
    batch_s: float = Field(2.0, ge=0, description="or when the first of them has waited so long")
    step_rows: int = Field(256, ge=2, le=65_536, description="rows of one step of the optimizer")
    replay_share: float = Field(0.25, ge=0, le=0.9, description="share of older events in a step, against forgetting")
    buffer_rows: int = Field(4096, ge=0, le=1_000_000, description="older events that are kept for this")
    learning_rate: float | None = Field(None, gt=0, description="that of the nightly training when not set")
    updates_per_base: int = Field(200, ge=1, description="after so many a process can begin with one artifact again")
    guard_window: int = Field(500, ge=10, le=100_000, description="events over which the guard judges")
    guard_bound: float = Field(0.05, gt=0, le=1, description="how far the AUC may fall below the frozen model's")
    seed: int = 42


class Settings(BaseSettings):
    """One object, made by each entry point and handed down. Library code below the steps never reads it."""

    model_config = SettingsConfigDict(
        env_prefix="RECSYS_",
        env_file=ROOT / ".env",
        env_ignore_empty=True,
        extra="ignore",
        populate_by_name=True,
        allow_inf_nan=False,
    )

    database_url: str | None = Field(
        None,
        validation_alias=AliasChoices("DATABASE_URL", "database_url"),
        description="postgresql://… of lists, events and raw tables; the embedded Postgres when not set",
    )
    artifact_root: str = Field(
        "",
        validation_alias=AliasChoices("ARTIFACT_ROOT", "artifact_root"),
        description="a folder, or s3://bucket/prefix; artifacts/ under RECSYS_LOCAL_DIR when not set",
    )
    mlflow_tracking_uri: str = Field(
        "",
        validation_alias=AliasChoices("MLFLOW_TRACKING_URI", "mlflow_tracking_uri"),
        description="a server, or a file of SQLite; mlflow/mlflow.db under RECSYS_LOCAL_DIR when not set",
    )
    local_dir: Path = Field(LOCAL, description="state of the embedded services, quarantine files, caches")
    pg_port: int = Field(
        5433,
        ge=1,
        le=65535,
        validation_alias=AliasChoices("PG_PORT", "pg_port"),
        description="port of the embedded Postgres on 127.0.0.1",
    )

    # --- what an event is worth
    event_weights: dict[str, FiniteFloat] | None = Field(
        None, description="event type → weight; the source's own defaults when not set"
    )
    label_event_types: list[str] | None = Field(
        None, description="event types that the ranker learns to bring about; the source's own when not set"
    )
    bought_event_types: list[str] | None = Field(
        None, description="event types after which an item is not recommended again; the source's own when not set"
    )

    task: Literal["discovery", "all"] = Field(
        "discovery",
        description="all: lists hold what people buy again, too, and nothing that was bought is hidden",
    )

    max_user_share: float = Field(
        0.1, gt=0, le=1, description="share of all events from which on a single user is pointed out, as bots have it"
    )

    # --- training
    label_window_days: Days = Field(14.0, gt=0, description="length of the ranker's label windows")
    n_label_windows: int = Field(4, ge=1, le=12, description="how many windows the ranker trains on")
    generators: list[str] = Field(
        ["popular", "als", "covisitation", "next_item", "ease", "deepfm", "sequence"],
        description="candidate generators that feed the ranker; EASE leaves itself out of large catalogues",
    )
    generator_params: dict[str, dict[str, Any]] = Field(
        {}, description='overrides of hyper-parameters by generator, e.g. {"als": {"factors": 128}}'
    )
    ranker_params: dict[str, Any] = Field({}, description="overrides of CatBoost's parameters")
    seed: int = 42

    # --- lists
    list_length: int = Field(100, ge=1, le=1000)
    neighbours: int = Field(50, ge=1, le=500, description="length of item-to-item and similar lists")
    max_personal_users: int = Field(400_000, ge=1, description="most recently active users who get personal lists")
    max_ranked_users: int = Field(100_000, ge=1, description="most recently active users who get ranked lists")
    publications_kept: int = Field(5, ge=2, description="former publications that stay for rollback")
    publication_min_share: float = Field(
        0.5, ge=0, le=1, description="a publication with fewer owners or items than this share of the former is refused"
    )

    list_max_age_days: Days = Field(
        7.0, ge=0, description="ranked and personal lists of data so much older than a publication's leave it"
    )

    # --- nights
    nightly_schedule: Schedule = Field(
        "0 2 * * *", description="when the DAG nightly runs: five fields of cron in UTC, or @daily, @weekly …"
    )
    training_schedule: Schedule | None = Field(
        None,
        description="when training is due, as cron in UTC or @weekly, @monthly …: the first night after it trains, and "
        "in between the champions make the lists; every night when not set",
    )
    housekeeping_schedule: Schedule = Field("0 6 * * *", description="when the DAG housekeeping runs, as cron in UTC")
    tasks_at_once: int = Field(2, ge=1, description="tasks of one DAG that run side by side: each takes memory")

    # --- housekeeping: how long things are kept that nobody needs (`recsys housekeeping --dry-run` says what would go)
    artifact_days: Days = Field(
        3.0, ge=1, description="data sets and models that no kept publication, champion or newest data set depends on"
    )
    export_days: Days = Field(90.0, ge=1, description="models that were exported by POST /model/export")
    event_days: Days | None = Field(
        None,
        ge=400,
        description="posted events in tables and data sets, once an archive has them; for ever when not set",
    )
    event_archive: Path | None = Field(None, description="that archive; events/ under RECSYS_LOCAL_DIR when not set")
    exposure_days: Days = Field(90.0, ge=1, description="what was shown to whom, by whole months")
    quarantine_days: Days = Field(90.0, ge=1, description="bad rows of imports, and events that contradict others")
    guest_days: Days = Field(30.0, ge=1, description="recent events of sessions in which nothing happens any more")
    run_days: Days = Field(180.0, ge=1, description="MLflow runs, except those of champions and challengers")
    log_days: Days = Field(30.0, ge=1, description="log files under the local folder and in log_folders")
    log_folders: list[Path] = Field([], description="further folders of logs, e.g. Airflow's")

    # --- the gate: what a new ranker has to show
    gate_max_relative_loss: float = Field(
        0.1, ge=0, description="a ranker must be shown to be less than this share worse than the champion"
    )
    gate_min_users: int = Field(50, ge=1, description="segments with fewer users are reported, not judged")

    # --- the event log: Postgres, or Kafka where its servers are named
    event_synonyms: dict[str, tuple[str, ...]] = Field(
        dict(SYNONYMS),
        description="names that clients and producers give to one action; which is stored is what the data declare of a"
        " row, and `bought` stands for what they declare as bought",
    )
    kafka_bootstrap_servers: str | None = Field(None, description="host:port,…; Postgres is the log when not set")
    kafka_topic: str = Field("recsys-events", pattern=r"^[A-Za-z0-9._-]{1,200}$")
    kafka_options: dict[str, str | int | float | bool] = Field(
        {}, description='more settings of librdkafka, e.g. {"security.protocol": "SASL_SSL", "sasl.username": "recsys"}'
    )
    event_outbox: bool = Field(
        False, description="events are answered for when Postgres has them; `recsys relay` delivers them to Kafka"
    )

    # --- the updater
    updater: UpdaterSettings = Field(
        default_factory=lambda: UpdaterSettings(),
        description='how `recsys updater` learns, e.g. {"batch_s": 5, "priority_event_types": ["transaction"]}',
    )

    # --- patience with Postgres
    database_patience_s: float = Field(120.0, ge=0, description="how long a step retries while Postgres is away")

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["text", "json"] = Field("text", description="json: one object a line")

    @model_validator(mode="after")
    def _paths(self) -> Self:
        """Make paths absolute, and let what is not set follow `local_dir`."""
        self.local_dir = absolute(self.local_dir)
        self.event_archive = self.event_archive and absolute(self.event_archive)
        self.log_folders = [absolute(folder) for folder in self.log_folders]
        if "://" not in self.artifact_root:
            self.artifact_root = str(absolute(self.artifact_root or self.local_dir / "artifacts"))
        uri = self.mlflow_tracking_uri or f"{_SQLITE}{self.local_dir / 'mlflow' / 'mlflow.db'}"
        if uri.startswith(_SQLITE):
            uri = f"{_SQLITE}{absolute(uri.removeprefix(_SQLITE))}"
        elif "/" in uri and ":" not in uri:
            uri = str(absolute(uri))
        self.mlflow_tracking_uri = uri
        return self


def absolute(path: str | Path) -> Path:
    """A path of a setting: `~` is the user's home, and what is relative is below the repository's folder."""
    return (ROOT / Path(path).expanduser()).resolve()


def read(kind: type[Loaded]) -> Loaded:
    """Settings from the environment and `.env`; InputError, which names each variable that cannot be used, and why."""
    try:
        return kind()
    except ValidationError as error:
        raise InputError("; ".join(_in_words(kind, dict(one)) for one in error.errors())) from None
    except SettingsError as error:
        name = next((name for name in kind.model_fields if f'"{name}"' in str(error)), None)
        if name is None:
            raise InputError(f"the settings cannot be read: {error}") from None
        raise InputError(f"{variable(kind, name)} is no JSON; {_EXPECTED}") from None


def variable(kind: type[BaseSettings], name: str) -> str:
    """The environment variable of a field."""
    field = kind.model_fields.get(name)
    alias = field.validation_alias if field else None
    if isinstance(alias, AliasChoices):
        return str(alias.choices[0])
    return name if field is None else f"{kind.model_config.get('env_prefix', '')}{name}".upper()


def _in_words(kind: type[BaseSettings], error: dict[str, Any]) -> str:
    """`PG_PORT=abc: input should be …`; the value is shown of plain settings alone: mappings may hold passwords."""
    name, *inner = map(str, error["loc"] or ("the settings",))
    value = f"={error['input']}" if isinstance(error["input"], str | int | float) and not inner else ""
    place = f", in {'.'.join(inner)}" if inner else ""
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] in ("dict_type", "list_type"):
        message = f"{message}; {_EXPECTED}"
    return f"{variable(kind, name)}{value:.60}{place}: {message[:1].lower()}{message[1:]}"


def unknown(variables: Iterable[str]) -> list[str]:
    """What is wrong with names of variables that look like settings and are none."""
    names = [variable(Settings, name) for name in Settings.model_fields]
    found = []
    for given in sorted(variables):
        if given.startswith("RECSYS_") and given not in names and not given.startswith(_NO_SETTINGS):
            near = difflib.get_close_matches(given, [*names, *(f"RECSYS_{name}" for name in names)], 1, 0.8)
            meant = near[0] if near and near[0] in names else near[0].removeprefix("RECSYS_") if near else ""
            found.append(f"{given} is no setting, and is ignored{f'; is {meant} meant?' if meant else ''}")
    return found


@lru_cache(maxsize=1)
def load() -> Settings:
    """The settings of this process, read once; InputError. Variables that are no settings are named in the log."""
    settings = read(Settings)
    for problem in unknown(os.environ):
        log.warning(problem)
    return settings
