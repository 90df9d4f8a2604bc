"""The state in service at one moment: replaced atomically, and read once per request."""

from __future__ import annotations

from typing import Any, NamedTuple

from fast_api_service.runtime.model_loader import MODEL, LoadedModel
from recsys.events.names import EventNames
from recsys.serving.config import ServingConfig
from recsys.serving.snapshot import Snapshot


class InService(NamedTuple):
    """What one request uses from its start to its end, whatever is switched meanwhile."""

    snapshot: Snapshot
    model: LoadedModel | None
    config: ServingConfig
    config_id: int
    names: EventNames  # of event types
    origins: dict[str, Any]  # by tier, what provenances have in common; made when it is needed first

    @property
    def is_own_model(self) -> bool:
        """Whether the model is the publication's own; the previous one is kept until that is loaded."""
        return self.model is not None and self.model.artifact == self.snapshot.publication.models.get(MODEL)
