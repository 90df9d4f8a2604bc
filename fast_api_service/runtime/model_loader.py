"""The models in service: loaded and warmed up in a thread, off the request path; switched with their publication."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from fast_api_service.batching import MicroBatcher
from fast_api_service.metrics import Metrics
from fast_api_service.runtime.model_slot import ModelSlot
from recsys.artifacts import DEEPFM_SERVING, MANIFEST, ArtifactStore, Manifest, split_ref
from recsys.errors import ArtifactError, NotFoundError
from recsys.features.deepfm_fields import Floats
from recsys.features.deepfm_spec import LATER_ITEMS, LATER_USERS, state_file
from recsys.networks.keras_file import KERAS_FILE, OUTLINE, write_keras_file
from recsys.networks.onnx_files import weight_file
from recsys.serving import fold_in
from recsys.serving.catalogue import NO_CATEGORY
from recsys.serving.fold_in import FoldIn
from recsys.serving.item_factors import ItemFactors
from recsys.serving.scorer import Scorer
from recsys.serving.snapshot import Publication, Snapshot
from recsys.session_index import KIND as SESSIONS
from recsys.session_index import SessionIndex

log = logging.getLogger(__name__)

MODEL = "deepfm"  # its name in `publications.models`
FACTORS = "als"

EXPORTED_AS = "deepfm_export"
INLINE = 2000  # pairs scored on the event loop, within a few milliseconds


@dataclass
class LoadedModel:
    """A scorer and its artifacts. Updates change the scorer in place, or replace it atomically."""

    artifact: str  # the trained model, as in the publication
    served_as: str  # the serving artifact that was loaded
    since: dt.datetime
    folder: Path
    scorer: Scorer
    batcher: MicroBatcher[Any, Any] | None = None  # of its requests, see predict.service


class Factors(NamedTuple):
    """Derived from the publication's ALS."""

    of_items: ItemFactors
    fold_in: FoldIn | None  # None where the model has no data for it


class Served(NamedTuple):
    """What snapshots need of a publication's artifacts, each None while it is not loaded."""

    factors: Factors | None
    sessions: SessionIndex | None


class Models:
    """The models of the publication in service, and of the next one.

    `loaded` and the factors change only in `serve`, which the caller calls together with the switch of the publication.
    """

    def __init__(self, artifact_root: str, metrics: Metrics, changed: Callable[[], None] = lambda: None) -> None:
        """`changed` is called when a wanted model is loaded, or cannot be."""
        self._root, self._metrics, self.changed = artifact_root, metrics, changed
        self._store: ArtifactStore | None = None
        self.loaded: LoadedModel | None = None  # the one that scores; read once per request
        self._served: Publication | None = None
        self._scorers = ModelSlot(MODEL, self._load, metrics, lambda: self.changed())
        self._factors = ModelSlot(FACTORS, self._read_factors, metrics, lambda: self.changed())
        self._sessions = ModelSlot(SESSIONS, self._map_sessions, metrics, lambda: self.changed())

    def want(self, publication: Publication) -> None:
        """Load the models that a publication depends on, unless loaded."""
        self._scorers.want(publication.models.get(MODEL))
        self._factors.want(publication.models.get(FACTORS))
        self._sessions.want(publication.models.get(SESSIONS))

    @property
    def are_loading(self) -> bool:
        """Whether a wanted model is being loaded."""
        return self._scorers.is_loading or self._factors.is_loading or self._sessions.is_loading

    def serve(self, publication: Publication, *, keep_former: bool) -> Served:
        """Take the loaded models of a publication into service; returns what its snapshot needs of them.

        `keep_former`: the previous scorer is kept until the publication's own is loaded; responses have its version.
        """
        wanted = publication.models.get(MODEL)
        found = self._scorers.serve(wanted)
        if found is not None and found is not self.loaded:
            log.info("model %s is in service", found.served_as)
        if wanted is None or found is not None or not keep_former:
            self.loaded = found
        self._served = publication
        self._metrics.model_loaded.set(0 if self.loaded is None else 1)
        models = publication.models
        return Served(self._factors.serve(models.get(FACTORS)), self._sessions.serve(models.get(SESSIONS)))

    def close(self) -> None:
        """Stop loading."""
        self._scorers.close()
        self._factors.close()
        self._sessions.close()

    @property
    def wanted(self) -> str | None:
        """The model of the publication in service."""
        return self._served.models.get(MODEL) if self._served else None

    @property
    def problem(self) -> str:
        """Why the model of the publication in service does not score; empty where it does."""
        if self._served is None:
            return "starting: no publication is loaded yet"
        if self.wanted is None:
            return f"publication {self._served.publication_id} has no {MODEL} model"
        if self._scorers.problem:
            return self._scorers.problem
        is_loaded = self.loaded is not None and self.loaded.artifact == self.wanted
        return "" if is_loaded else f"{self.wanted} is being loaded"

    def _read_factors(self, artifact: str) -> Factors:
        factors = Factors(*fold_in.read(self.open_artifact(artifact)))
        self._forget_others(artifact)
        return factors

    def _map_sessions(self, artifact: str) -> SessionIndex:
        index = SessionIndex.mapped(self.open_artifact(artifact))
        self._forget_others(artifact)
        return index

    def _load(self, artifact: str) -> LoadedModel:
        """Read, check, warm up; in a thread."""
        served_as = f"{DEEPFM_SERVING}/{split_ref(artifact)[1]}"
        try:
            folder = self.open_artifact(served_as)
        except NotFoundError as error:
            raise NotFoundError(f"{error}; run train_deepfm for its data, or set ARTIFACT_ROOT") from None
        scorer = Scorer(folder)
        scorer.warm_up(lambda _: (NO_CATEGORY, NO_CATEGORY), time.time() * 1000)
        self._forget_others(served_as)
        return LoadedModel(artifact, served_as, dt.datetime.now(dt.UTC), folder, scorer)

    def _forget_others(self, ref: str) -> None:
        """Delete downloads of this kind, except this one and the one in service."""
        kind, wanted = split_ref(ref)
        served = self.loaded.served_as if self.loaded else ""
        self.store.forget(kind, lambda version: version == wanted or f"{kind}/{version}" == served)

    def open_artifact(self, ref: str) -> Path:
        """The local folder of an artifact, its files verified; may download it, so call it in a thread.

        Raises NotFoundError and ArtifactError as `ArtifactStore.open` does.
        """
        return self.store.open(ref)[0]

    @property
    def store(self) -> ArtifactStore:
        """The artifacts under ARTIFACT_ROOT; created lazily, because boto3 is slow to import."""
        if self._store is None:
            self._store = ArtifactStore(self._root)
        return self._store

    def info(self) -> dict[str, Any]:
        """The model part of /model/info."""
        loaded = self.loaded
        return {
            "wanted": self.wanted,
            "loaded": loaded.artifact if loaded else None,
            "served_as": loaded.served_as if loaded else None,
            "since": loaded.since if loaded else None,
            "problem": self.problem or None,
            "factors": _state_of(self._factors),
            "sessions": _state_of(self._sessions),
            "n_users": loaded.scorer.state.n_users if loaded else None,
            "n_items": loaded.scorer.state.n_items if loaded else None,
            "is_calibrated": loaded.scorer.spec.is_calibrated if loaded else None,
            "features": loaded.scorer.spec.request_features if loaded else {},
            "context": loaded.scorer.spec.context if loaded else [],
        }


def _state_of(slot: ModelSlot[Any]) -> dict[str, Any]:
    is_loaded = slot.get(slot.wanted) is not None
    return {"wanted": slot.wanted, "is_loaded": is_loaded, "problem": slot.problem or None}


@dataclass(frozen=True)
class Captured:
    """A copy of a model at one moment, with all updates."""

    model: LoadedModel
    weights: dict[str, Floats]
    later: dict[str, NDArray[np.int64]]  # keys of users and items that got rows, in row order


def capture(model: LoadedModel) -> Captured:
    """Copy the current model. On the event loop, so that no update interleaves."""
    state = model.scorer.state
    later = {LATER_USERS: state.rows_of_users.later, LATER_ITEMS: state.rows_of_items.later}
    return Captured(
        model,
        {name: values.copy() for name, values in model.scorer.weights.items()},
        {name: np.array(keys, dtype=np.int64) for name, keys in later.items()},
    )


def export(captured: Captured, store: ArtifactStore) -> tuple[Manifest, str, bool]:
    """Write a captured model; its manifest, location, and whether it is new.

    Raises OSError and ArtifactError where it cannot be written.
    """
    model, digest = captured.model, hashlib.sha256()
    for name, values in sorted((captured.weights | captured.later).items()):
        digest.update(name.encode() + values.tobytes())
    version = f"{split_ref(model.artifact)[1]}-{digest.hexdigest()[:10]}"

    def make(folder: Path, meta: dict[str, Any]) -> None:
        meta |= {"network": model.scorer.spec.network}
        shutil.copytree(model.folder, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MANIFEST, "weights"))
        (folder / "weights").mkdir()
        for name, values in captured.weights.items():
            np.save(folder / weight_file(name), values, allow_pickle=False)
        for name, keys in captured.later.items():
            np.save(folder / state_file(name), keys, allow_pickle=False)
        write_keras_file(_outline(model), captured.weights, folder / KERAS_FILE)

    inputs = {"model": model.artifact, "served_as": model.served_as}
    manifest, created = store.get_or_make(EXPORTED_AS, version, make, made_by="POST /model/export", inputs=inputs)
    return manifest, f"{store.root}/{manifest.ref}", created


def _outline(model: LoadedModel) -> Any:
    try:
        return orjson.loads((model.folder / OUTLINE).read_bytes())
    except FileNotFoundError:
        raise ArtifactError(
            f"{model.served_as} has no {OUTLINE}, because an earlier release made it; run `recsys train-deepfm --force`"
        ) from None


def category_of(snapshot: Snapshot) -> Callable[[int], tuple[int, int]]:
    """A function: item key → keys of its category and of that one's parent, -1 for none."""

    def look_up(item_key: int) -> tuple[int, int]:
        category = -1
        with contextlib.suppress(IndexError):  # an item of the model that the catalogue does not have
            category = snapshot.items.category(item_key)
        line = snapshot.categories.lineage(category) if category >= 0 else []
        return category, line[1] if len(line) > 1 else -1

    return look_up
