"""The model in service: loaded in a thread, warmed up, swapped as a whole, and never in the way of a request."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import hashlib
import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from fast_api_service.metrics import Metrics
from fast_api_service.together import Together
from recsys.artifacts import MANIFEST, ArtifactStore, Manifest, split_ref
from recsys.errors import ArtifactError, NotFoundError, RecsysError
from recsys.features.deepfm_fields import Floats
from recsys.features.deepfm_spec import LATER_ITEMS, LATER_USERS, state_file
from recsys.networks.keras_file import KERAS_FILE, OUTLINE, write_keras_file
from recsys.networks.onnx_files import weight_file
from recsys.serving import fold_in
from recsys.serving.fold_in import FoldIn
from recsys.serving.item_factors import ItemFactors
from recsys.serving.scorer import Scorer
from recsys.serving.snapshot import Snapshot

log = logging.getLogger(__name__)

MODEL = "deepfm"  # its name in `publications.models`
FACTORS = "als"
SERVED_AS = "deepfm_serving"  # kind of the artifact that train_deepfm makes for the service, of the same version
EXPORTED_AS = "deepfm_export"
INLINE = 2000  # pairs that are scored on the event loop, within some milliseconds
_LOOK_S = 0.25
_RETRY_S = 10.0  # after a model that could not be loaded; its artifact may still be on its way


@dataclass(frozen=True)
class LoadedModel:
    """A scorer, and where it is from."""

    artifact: str  # the trained model, as the publication names it
    served_as: str  # the serving artifact that was loaded
    since: dt.datetime
    folder: Path
    scorer: Scorer
    together: Together = field(default_factory=lambda: Together(INLINE))


class Models:
    """Follows the publication in service. `loaded` changes as a whole; a request takes it once."""

    def __init__(self, artifact_root: str, metrics: Metrics) -> None:
        self._root, self._metrics = artifact_root, metrics
        self._store: ArtifactStore | None = None
        self.loaded: LoadedModel | None = None
        self.wanted: str | None = None
        self.problem = "starting: no publication is loaded yet"  # why the wanted model is not in service; or empty
        self._failed_at = -_RETRY_S
        self._factors_of: str | None = None  # the artifact of the factors that were read
        self._factors: tuple[ItemFactors, FoldIn | None] | None = None

    async def follow(
        self, snapshot_now: Callable[[], Snapshot | None], put_factors: Callable[[ItemFactors, FoldIn | None], None]
    ) -> None:
        """Have the model of the publication in service, and the item factors of its ALS, until cancelled.

        One that cannot be loaded is told and tried again; the former one serves on meanwhile.
        """
        while True:
            snapshot = snapshot_now()
            if snapshot is not None:
                await self._look(snapshot)
                factors = await self._factors_for(snapshot.publication.models.get(FACTORS))
                now = snapshot_now()
                if factors is not None and now is not None and now.publication is snapshot.publication:
                    put_factors(*factors)
            await asyncio.sleep(_LOOK_S)

    async def _look(self, snapshot: Snapshot) -> None:
        wanted = snapshot.publication.models.get(MODEL)
        if wanted != self.wanted:
            self.wanted, self._failed_at = wanted, -_RETRY_S
        if wanted is None:
            self.loaded = None
            self.problem = f"publication {snapshot.publication.publication_id} stands on no {MODEL} model"
            self._metrics.model_loaded.set(0)
            return
        if (self.loaded and self.loaded.artifact == wanted) or time.monotonic() < self._failed_at + _RETRY_S:
            return
        try:
            self.loaded = await asyncio.to_thread(self._load, str(wanted), snapshot)
        except Exception as error:  # whatever it is, recommendations go on without the model
            self._tell(str(wanted), error)
            return
        self.problem = ""
        self._metrics.model_loaded.set(1)
        log.info("model %s is in service", self.loaded.served_as)

    async def _factors_for(self, wanted: str | None) -> tuple[ItemFactors, FoldIn | None] | None:
        """Those that cannot be read are told once; items are then alike by their category alone, and nobody new is
        folded in."""
        if wanted != self._factors_of:
            self._factors_of, self._factors = wanted, None
            if wanted is not None:
                try:
                    self._factors = await asyncio.to_thread(lambda: fold_in.read(self.open_artifact(wanted)))
                    await asyncio.to_thread(self._forget_others, wanted)
                except Exception as error:  # whatever it is, the lists are there
                    self._metrics.model_failures.labels(FACTORS).inc()
                    log.error("%s: its item factors cannot be read: %s", wanted, error)
        return self._factors

    def _load(self, artifact: str, snapshot: Snapshot) -> LoadedModel:
        """Read, check, warm up; in a thread."""
        served_as = f"{SERVED_AS}/{split_ref(artifact)[1]}"
        try:
            folder = self.open_artifact(served_as)
        except NotFoundError as error:
            raise NotFoundError(f"{error}; run train_deepfm for its data, or set ARTIFACT_ROOT") from None
        scorer = Scorer(folder)
        scorer.warm_up(category_of(snapshot), time.time() * 1000)
        self._forget_others(served_as)
        return LoadedModel(artifact, served_as, dt.datetime.now(dt.UTC), folder, scorer)

    def _tell(self, artifact: str, error: Exception) -> None:
        self._failed_at = time.monotonic()
        self._metrics.model_failures.labels(MODEL).inc()
        self._metrics.model_loaded.set(0 if self.loaded is None else 1)
        text = str(error) if isinstance(error, RecsysError) else f"{type(error).__name__}: {error}"
        problem = f"{artifact} cannot be loaded: {text}"
        if problem != self.problem:
            log.error("%s", problem)
        self.problem = problem

    def _forget_others(self, ref: str) -> None:
        """Of a kind of artifact in S3 the download of one is enough; files that are mapped stay until they are not."""
        kind, wanted = split_ref(ref)
        self.store.forget(kind, lambda version: version == wanted)

    def open_artifact(self, ref: str) -> Path:
        """The local folder of any artifact, its files checked; it may be downloaded, so call it in a thread.

        Raises NotFoundError and ArtifactError as `ArtifactStore.open` does.
        """
        return self.store.open(ref)[0]

    @property
    def store(self) -> ArtifactStore:
        """The artifacts under ARTIFACT_ROOT; made when first asked for, because boto3 takes long to import."""
        if self._store is None:
            self._store = ArtifactStore(self._root)
        return self._store

    def info(self) -> dict[str, Any]:
        """What /model/info says of it."""
        loaded = self.loaded
        return {
            "wanted": self.wanted,
            "loaded": loaded.artifact if loaded else None,
            "served_as": loaded.served_as if loaded else None,
            "since": loaded.since if loaded else None,
            "problem": self.problem or None,
            "n_users": loaded.scorer.state.n_users if loaded else None,
            "n_items": loaded.scorer.state.n_items if loaded else None,
            "is_calibrated": loaded.scorer.spec.is_calibrated if loaded else None,
            "features": loaded.scorer.spec.request_features if loaded else {},
            "context": loaded.scorer.spec.context if loaded else [],
        }


@dataclass(frozen=True)
class Captured:
    """A model at one moment, with all that it learned since the night."""

    model: LoadedModel
    weights: dict[str, Floats]
    later: dict[str, NDArray[np.int64]]  # keys of users and items that got rows, in the order of these


def capture(model: LoadedModel) -> Captured:
    """The model as it is now. On the event loop, so that no update comes between."""
    state = model.scorer.state
    later = {LATER_USERS: state.rows_of_users.later, LATER_ITEMS: state.rows_of_items.later}
    return Captured(
        model,
        {name: values.copy() for name, values in model.scorer.weights.items()},
        {name: np.array(keys, dtype=np.int64) for name, keys in later.items()},
    )


def export(captured: Captured, store: ArtifactStore) -> tuple[Manifest, str, bool]:
    """Write the model as it was captured: its manifest, where it lies, and whether it is new.

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
            f"{model.served_as} has no {OUTLINE}, because an earlier state of the code made it; make it again: "
            "`recsys train-deepfm --force`"
        ) from None


def category_of(snapshot: Snapshot) -> Callable[[int], tuple[int, int]]:
    """Keys of the category of an item of the catalogue and of that one's parent, -1 for none."""

    def look_up(item_key: int) -> tuple[int, int]:
        category = -1
        with contextlib.suppress(IndexError):  # an item of the model that the catalogue does not have
            category = snapshot.items.category(item_key)
        line = snapshot.categories.lineage(category) if category >= 0 else []
        return category, line[1] if len(line) > 1 else -1

    return look_up
