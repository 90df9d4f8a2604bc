"""The feature spec of an exported DeepFM: what its inputs mean, and what its logits mean as probabilities."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from recsys.errors import ArtifactError
from recsys.features.context import DEVICE, REQUEST_FEATURES
from recsys.features.deepfm_fields import ITEM_FIELDS, USER_FIELDS

SPEC = "spec.json"
FORMAT = 2  # 1 had no fields for parameters of the context
STATE = (
    *("user_vocabulary", "item_vocabulary", "category_vocabulary", "parent_category_vocabulary"),
    *("items", "item_rows", "users", "n_events", "history_start", "history", "history_weight"),
)

LATER_USERS, LATER_ITEMS = "later_users", "later_items"  # keys that got spare rows, in their order; in exports alone
POPULARITY = "popularity"  # of the catalogue's items at the cut, (n_items,): the sum of their events' weights


def state_file(name: str) -> str:
    """Where an array of the state stands."""
    return f"state/{name}.npy"


@dataclass(frozen=True)
class FeatureSpec:
    """`spec.json`. Probability = 1 / (1 + exp(-(scale · logit + offset)))."""

    cut_at: int  # microseconds: the state is as of then
    network: dict[str, Any]  # arguments of `DeepFmNetwork`
    history_length: int
    history_half_life_days: float
    mean_event_weight: float  # by which an event's weight is divided
    scale: float
    offset: float
    prior: float  # the share of observed pairs that the probability starts from
    is_calibrated: bool  # False: no events were held out, and the probabilities keep the order only
    training: dict[str, float] = field(default_factory=dict)  # parameters of DeepFm that hold between two nights, too
    user_fields: list[str] = field(default_factory=lambda: list(USER_FIELDS))
    item_fields: list[str] = field(default_factory=lambda: list(ITEM_FIELDS))
    request_features: dict[str, list[int]] = field(
        default_factory=lambda: {name: list(bounds) for name, bounds in REQUEST_FEATURES.items()}
    )
    context_names: list[str] = field(default_factory=list)  # parameters that own a field, see `features.context`
    format: int = FORMAT

    @property
    def context(self) -> list[str]:
        """Parameters of the context that have a field to themselves."""
        return [DEVICE, *self.context_names]

    def write(self, folder: Path) -> None:
        (folder / SPEC).write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def read(cls, folder: Path) -> FeatureSpec:
        """ArtifactError when the file is missing, or of another format than this code writes."""
        try:
            values = json.loads((folder / SPEC).read_text())
            if values["format"] != FORMAT:
                raise ArtifactError(f"{folder / SPEC} is of format {values['format']}, not {FORMAT}; train it again")
            return cls(**values)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtifactError(f"no feature spec can be read from {folder}: {error}; train it again") from error
