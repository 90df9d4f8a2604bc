"""All tables outside schema `raw`, by subject. The migrations create them; these name them."""

from __future__ import annotations

from recsys.storage.tables.base import metadata
from recsys.storage.tables.catalogue import (
    XID8,
    catalogue_epoch,
    categories,
    erased_sessions,
    erased_users,
    id_types,
    items,
    users,
)
from recsys.storage.tables.online import (
    EVENT_MEANING,
    event_quarantine,
    event_settings,
    events,
    log_offsets,
    predictions,
    server_identity,
    user_recent,
)
from recsys.storage.tables.operations import api_keys, config_versions, model_updates, training_logs, training_state
from recsys.storage.tables.publishing import (
    ALL_ITEMS_OWNER,
    LIST_KINDS,
    list_versions,
    lists,
    publication_pointer,
    publications,
    training_runs,
)

__all__ = [
    "ALL_ITEMS_OWNER",
    "EVENT_MEANING",
    "LIST_KINDS",
    "XID8",
    "api_keys",
    "catalogue_epoch",
    "categories",
    "config_versions",
    "erased_sessions",
    "erased_users",
    "event_quarantine",
    "event_settings",
    "events",
    "id_types",
    "items",
    "list_versions",
    "lists",
    "log_offsets",
    "metadata",
    "model_updates",
    "predictions",
    "publication_pointer",
    "publications",
    "server_identity",
    "training_logs",
    "training_runs",
    "training_state",
    "user_recent",
    "users",
]
