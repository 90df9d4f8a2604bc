"""Request and response schemas that several routes share, or that are of no folder."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, PlainValidator, StrictBool, WithJsonSchema

from recsys.ids import ID_PATTERN, MAX_ID_LENGTH
from recsys.serving.config import Surface
from recsys.serving.filters import Filters
from recsys.serving.ids import external_id

MAX_TOP_K = 1000
MAX_ITEMS = 1000  # in each list of a request

ItemSource = Literal[
    "ranked",
    "personal",
    "fold_in",
    "session",
    "i2i",
    "similar",
    "popular_in_category",
    "popular",
    "popular_sampled",
    "editorial",
    "available",
    "candidate",
]
Tier = Literal[ItemSource, "nothing"]
UserStatus = Literal["known", "light", "unknown", "guest", "anonymous", "unread"]


def text_id(value: Any) -> str:
    """A string of 1 to MAX_ID_LENGTH characters that Postgres can store as text."""
    if not isinstance(value, str):
        raise ValueError("a string is expected")
    return str(external_id(value))


def _id_of(entity: str) -> Any:
    """`x-id-of` becomes the JSON type of the loaded catalogue's ids; see fast_api_service.openapi."""
    return WithJsonSchema({"type": ["integer", "string"], "x-id-of": entity})


UserId = Annotated[int | str, PlainValidator(external_id), _id_of("user")]
ItemId = Annotated[int | str, PlainValidator(external_id), _id_of("item")]
CategoryId = Annotated[int | str, PlainValidator(external_id), _id_of("category")]
TEXT_ID_SCHEMA: dict[str, Any] = {
    "type": "string",
    "minLength": 1,
    "maxLength": MAX_ID_LENGTH,
    "pattern": ID_PATTERN,
}
TextId = Annotated[str, PlainValidator(text_id), WithJsonSchema(TEXT_ID_SCHEMA)]
# Of requests, up to the first invalid one: a body may have room for hundreds of thousands.
ItemIds = Annotated[tuple[ItemId, ...], Field(fail_fast=True)]
TopK = Annotated[int, Field(ge=1, le=MAX_TOP_K, description="how many items")]


class RecommendRequest(BaseModel):
    """All fields are optional: `{}` requests popular items."""

    model_config = ConfigDict(extra="forbid")

    user_id: UserId | None = Field(None, description="anonymous when not given; unknown ids are accepted")
    top_k: TopK = 10
    category_id: CategoryId | None = Field(None, description="only items of this category and those below it")
    filters: Filters | None = Field(
        None, description="only items that match; category_id and the filters of the surface apply as well"
    )
    exclude: ItemIds = Field((), max_length=MAX_ITEMS, description="items not to recommend; unknown ones are ignored")
    surface: Surface = Field(
        "homepage", description="where the recommendations are shown; /config has the settings of each"
    )
    session_id: TextId | None = Field(
        None, description="identifies a guest, by the events of the session; with user_id, events of both count"
    )
    item_ids: ItemIds = Field(
        (), max_length=100, description="the product or the cart in context: neighbours come first, these items never"
    )
    candidate_items: ItemIds | None = Field(
        None, min_length=1, max_length=MAX_ITEMS, description="rank only these; unknown ones are left out"
    )
    seq: ItemIds | None = Field(
        None,
        max_length=MAX_ITEMS,
        description="items that the user viewed, oldest first, replacing stored events; each counts as a view, or as"
        " the shop's event type of lowest weight",
    )
    deadline_ms: float | None = Field(
        None, gt=0, le=60_000, description="time limit for the response, in milliseconds; at most the service's limit"
    )
    user_feats: dict[str, JsonValue] = Field(
        default_factory=dict,  # pydantic would copy a default value for each request
        max_length=50,
        description="on a surface that the model rescores: features of the context and the user, as for /predict",
    )
    explain: StrictBool = Field(False, description="return the reason for each item: an item of the user or in context")


class Reason(BaseModel):
    model_config = ConfigDict(extra="forbid")

    item_id: ItemId = Field(description="the item of the user, or in context, whose neighbour this is")


class Item(BaseModel):
    model_config = ConfigDict(extra="forbid")

    item_id: ItemId
    score: float | None = Field(
        description="of the item in its source; rank is the order, which blending and diversity change; not comparable"
        " between sources"
    )
    rank: int = Field(ge=1, description="1 is best")
    source: ItemSource = Field(
        description="the list the item comes from; fold_in: computed from recent events of users without a list;"
        " session: follows recent events in the sessions of others"
    )
    generator: str | None = Field(description="the model or rule that put the item into that list")
    reason: Reason | None = Field(None, description="with explain: why the item is recommended, if known")


class _Origin(BaseModel):
    model_config = ConfigDict(extra="forbid")

    publication_id: int = Field(description="the publication behind the whole response; 0: none yet")
    dataset: str = Field(description="artifact of the data set of the publication")
    models: dict[str, Any] = Field(description="the artifacts of the models behind the lists")
    list_version: str | None = Field(description="version of the first item's list; null: it is of no list")
    list_age_s: float | None = Field(description="seconds since that list was created")
    degraded: list[str] = Field(description="parts that could not be read, so that the result is poorer")
    time_ms: float = Field(description="time spent in the service")


class Provenance(_Origin):
    """The sources of a response."""

    tier: Tier = Field(description="the source of the first item")
    user: UserStatus = Field(
        description="known: has a list; light: in the catalogue without one; guest: a session with events and no user;"
        " unread: Postgres was away"
    )
    config_id: int = Field(description="the serving configuration; 0: the defaults")
    n_recent: int = Field(description="recent events that are taken into account, besides hiding purchases")
    surface: Surface
    rescored_by: str | None = Field(None, description="artifact of the model that reordered the lists, if one did")


class RecommendAnswer(BaseModel):
    model_config = ConfigDict(extra="forbid")

    success: Literal[True] = True
    user_id: UserId | None
    recommendations: list[Item]
    provenance: Provenance
    warnings: list[str] = Field([], description="parts of the request that could not be used")


class SimilarProvenance(_Origin):
    """The sources of the neighbours."""

    tier: Literal["i2i", "similar", "nothing"]


class SimilarAnswer(BaseModel):
    model_config = ConfigDict(extra="forbid")

    success: Literal[True] = True
    item_id: ItemId
    recommendations: list[Item]
    provenance: SimilarProvenance


class Health(BaseModel):
    success: Literal[True] = True
    status: Literal["alive"] = "alive"
    version: str = Field(description="of this service")


class Ready(BaseModel):
    success: Literal[True] = True
    status: Literal["ready"] = "ready"
    publication_id: int
    n_items: int
    database: Literal["up", "away"] = Field(description="away: responses come from memory and are degraded")


class ListInfo(BaseModel):
    list_version_id: int
    version: str
    dataset: str
    data_until: dt.datetime | None = Field(
        description="the last event of that data set; a kind that a nightly run could not build keeps its old version"
    )
    made_by: str
    created_at: dt.datetime
    n_rows: int | None
    n_items: int | None
    sources: list[str]


class PublicationInfo(BaseModel):
    publication_id: int
    fence: int
    created_at: dt.datetime
    age_s: float
    dataset: str
    lists: dict[str, ListInfo] = Field(description="by kind: ranked, personal, default, i2i, similar, history")
    checks: dict[str, Any]


class CatalogueInfo(BaseModel):
    n_items: int
    n_available: int
    n_categories: int
    id_types: dict[str, Literal["integer", "string"]]
    numeric_properties: list[str] = Field(description="properties that `filters` may use, most frequent first")


class ScorerInfo(BaseModel):
    """The model that scores."""

    wanted: str | None = Field(description="the model of the publication")
    loaded: str | None = Field(description="the model that scores; null: /predict is 503, and nothing is rescored")
    served_as: str | None = Field(description="its serving artifact")
    since: dt.datetime | None = Field(description="when it was taken into service")
    problem: str | None = Field(description="why the wanted model is not loaded")
    factors: FactorsInfo
    sessions: SessionsInfo
    n_users: int | None
    n_items: int | None
    is_calibrated: bool | None = Field(description="false: probabilities are right in their order only")
    features: dict[str, list[int]] = Field(description="user_feats with least and greatest value")
    context: list[str] = Field(description="further user_feats with a field of the model, of any value")
    online: OnlineInfo


class FactorsInfo(BaseModel):
    """The item factors of the publication's ALS, by which new users are folded in."""

    wanted: str | None = Field(description="the ALS model of the publication")
    is_loaded: bool
    problem: str | None = Field(description="why it is not loaded; it is retried")


class SessionsInfo(BaseModel):
    """The publication's index of sessions, which says what follows recent events."""

    wanted: str | None = Field(description="the index of the publication; null: it has none")
    is_loaded: bool
    problem: str | None = Field(description="why it is not loaded; it is retried")


class ConfigInfo(BaseModel):
    """The configuration in use by this worker."""

    config_id: int = Field(description="0: the defaults")
    passed_over: list[int] = Field(description="newer versions that this release cannot read")
    problem: str | None = Field(description="what to do about those")


class OnlineInfo(BaseModel):
    """The updater's changes of the model since the nightly training."""

    update: int = Field(description="number of the update in service; 0: the nightly model")
    chain: str | None = Field(description="checksum over the update and all before it")
    committed_at: dt.datetime | None
    n_applied: int = Field(description="updates that this worker applied")
    n_later_users: int = Field(description="users who got a row of their own since the nightly training")
    n_later_items: int
    problem: str | None = Field(description="why newer updates are not applied")


class ModelInfo(BaseModel):
    success: Literal[True] = True
    service_version: str
    publication: PublicationInfo
    models: dict[str, Any]
    scorer: ScorerInfo
    catalogue: CatalogueInfo
    config: ConfigInfo
