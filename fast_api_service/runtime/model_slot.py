"""The place of one kind of model: what the publication names is loaded beside what is in service."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from fast_api_service.metrics import Metrics
from recsys.errors import RecsysError

T = TypeVar("T")
log = logging.getLogger(__name__)
_RETRY_S: Final = (
    2.0,
    5.0,
    10.0,
)  # after an artifact that could not be loaded, which may be on its way; the last stays


class ModelSlot(Generic[T]):
    """Loads in a thread the artifact that is wanted, and tries again with longer pauses while it cannot be had.

    For the event loop alone. `tell` is called there whenever there is news.
    """

    def __init__(self, name: str, load: Callable[[str], T], metrics: Metrics, tell: Callable[[], None]) -> None:
        """`load` makes the model of an artifact; it may raise anything."""
        self._name, self._load, self._metrics, self._tell = name, load, metrics, tell
        self._task: asyncio.Task[None] | None = None
        self._found: tuple[str, T] | None = None  # what was loaded last
        self._served: tuple[str, T] | None = None  # what is in service, which may come back
        self.wanted: str | None = None
        self.problem = ""  # why the wanted one is not there; empty while it is, or is loaded for the first time

    @property
    def is_waited_for(self) -> bool:
        """Whether the wanted one is being loaded and may come at any moment: not after it has failed."""
        return self.wanted is not None and self.get(self.wanted) is None and not self.problem

    def want(self, artifact: str | None) -> None:
        """Have this artifact from now on, None for none."""
        if artifact == self.wanted:
            return
        self.close()
        self.wanted, self.problem = artifact, ""
        if artifact is not None and self.get(artifact) is None:
            self._task = asyncio.create_task(self._load_until_there(artifact))

    def get(self, artifact: str | None) -> T | None:
        """The model of an artifact, if that is the one that was loaded last or the one in service."""
        for one in (self._found, self._served):
            if artifact is not None and one is not None and one[0] == artifact:
                return one[1]
        return None

    def serve(self, artifact: str | None) -> T | None:
        """Take the model of an artifact into service, if it is there; else the former one is kept, it may come back."""
        model = self.get(artifact)
        if artifact is None:
            self._served = None
        elif model is not None:
            self._served = artifact, model
        if self._found is not None and self._found[0] != self.wanted:
            self._found = None
        return model

    def close(self) -> None:
        """Load no further."""
        if self._task is not None:
            self._task.cancel()
        self._task = None

    async def _load_until_there(self, artifact: str) -> None:
        n_failed = 0
        while True:
            try:
                self._found = artifact, await asyncio.to_thread(self._load, artifact)
            except Exception as error:  # whatever it is, the service goes on without
                self._failed(artifact, error)
                self._tell()
                await asyncio.sleep(_RETRY_S[min(n_failed, len(_RETRY_S) - 1)])
                n_failed += 1
            else:
                self.problem = ""
                log.info("%s is loaded", artifact)
                self._tell()
                return

    def _failed(self, artifact: str, error: Exception) -> None:
        self._metrics.model_failures.labels(self._name).inc()
        text = str(error) if isinstance(error, RecsysError) else f"{type(error).__name__}: {error}"
        problem = f"{artifact} cannot be loaded: {text}"
        if problem != self.problem:
            log.error("%s", problem)
        self.problem = problem
