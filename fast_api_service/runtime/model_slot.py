"""A slot for one kind of model: loads the wanted one beside the one in service."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from fast_api_service.metrics import Metrics
from recsys.errors import RecsysError

T = TypeVar("T")
log = logging.getLogger(__name__)
_RETRY_S: Final = (2.0, 5.0, 10.0)  # after failures to load, for the artifact may be still being written


class ModelSlot(Generic[T]):
    """Loads the wanted artifact in a thread, and retries with backoff while that fails.

    To be used on the event loop only. `notify` is called there after each attempt.
    """

    def __init__(self, name: str, load: Callable[[str], T], metrics: Metrics, notify: Callable[[], None]) -> None:
        """`load` loads the model of an artifact; it may raise any exception."""
        self._name, self._load, self._metrics, self._notify = name, load, metrics, notify
        self._task: asyncio.Task[None] | None = None
        self._found: tuple[str, T] | None = None  # the last loaded
        self._served: tuple[str, T] | None = None  # the one in service
        self.wanted: str | None = None
        self.problem = ""  # why the wanted one is not loaded; empty if it is, or while it is first loading

    @property
    def is_loading(self) -> bool:
        """Whether the wanted one is being loaded, and has not failed."""
        return self.wanted is not None and self.get(self.wanted) is None and not self.problem

    def want(self, artifact: str | None) -> None:
        """Set the wanted artifact, None for none, and load it."""
        if artifact == self.wanted:
            return
        self.close()
        self.wanted, self.problem = artifact, ""
        if artifact is not None and self.get(artifact) is None:
            self._task = asyncio.create_task(self._load_with_retries(artifact))

    def get(self, artifact: str | None) -> T | None:
        """The model of an artifact, if that is the last loaded one or the one in service."""
        for one in (self._found, self._served):
            if artifact is not None and one is not None and one[0] == artifact:
                return one[1]
        return None

    def serve(self, artifact: str | None) -> T | None:
        """Take the model of an artifact into service, if it is loaded; else the previous one is kept."""
        model = self.get(artifact)
        if artifact is None:
            self._served = None
        elif model is not None:
            self._served = artifact, model
        if self._found is not None and self._found[0] != self.wanted:
            self._found = None
        return model

    def close(self) -> None:
        """Stop loading."""
        if self._task is not None:
            self._task.cancel()
        self._task = None

    async def _load_with_retries(self, artifact: str) -> None:
        n_failed = 0
        while True:
            try:
                self._found = artifact, await asyncio.to_thread(self._load, artifact)
            except Exception as error:  # any error: the service continues without the model
                self._failed(artifact, error)
                self._notify()
                await asyncio.sleep(_RETRY_S[min(n_failed, len(_RETRY_S) - 1)])
                n_failed += 1
            else:
                self.problem = ""
                log.info("%s is loaded", artifact)
                self._notify()
                return

    def _failed(self, artifact: str, error: Exception) -> None:
        self._metrics.model_failures.labels(self._name).inc()
        text = str(error) if isinstance(error, RecsysError) else f"{type(error).__name__}: {error}"
        problem = f"{artifact} cannot be loaded: {text}"
        if problem != self.problem:
            log.error("%s", problem)
        self.problem = problem
