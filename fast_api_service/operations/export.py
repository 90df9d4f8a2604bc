"""POST /model/export: the model in service as an artifact that others can load."""

from __future__ import annotations

import asyncio
import logging

from fastapi import APIRouter

from fast_api_service.auth.scopes import needs
from fast_api_service.errors import ApiError, documented
from fast_api_service.predict.schemas import ExportAnswer
from fast_api_service.predict.service import in_service
from fast_api_service.runtime.model_loader import capture, export
from fast_api_service.runtime.state import ServiceState
from recsys.api_key import ADMIN
from recsys.errors import RecsysError

log = logging.getLogger(__name__)
_LONGEST = 300  # characters of a reason; where many files fail, its text names each
router = APIRouter(tags=["operations"])


@router.post("/model/export", responses=documented(503), summary="Export the model in service", operation_id="export")
@needs(ADMIN)
async def export_model(state: ServiceState) -> ExportAnswer:
    """Writes `deepfm_export/<version>` under ARTIFACT_ROOT, with the weights as they are now: `network.onnx` with its
    weights beside it, `network.keras`, the feature spec, vocabularies and state with the keys that got rows since the
    night, and a manifest with checksums. What has not changed is exported once."""
    _, model = in_service(state)
    try:
        manifest, path, created = await asyncio.to_thread(export, capture(model), state.models.store)
    except (OSError, RecsysError) as error:
        why = _in_short(error)
        log.error("the model cannot be exported: %s", error)
        raise ApiError(503, "export_failed", f"the model cannot be exported to ARTIFACT_ROOT: {why}", 60) from None
    return ExportAnswer(artifact=manifest.ref, path=path, created=created, model=model.artifact, files=manifest.files)


def _in_short(error: Exception) -> str:
    """Why, in one line: of shutil's list of files that could not be copied, how many and the first."""
    given = error.args[0] if error.args else None
    if isinstance(given, list) and given:
        first = given[0][-1] if isinstance(given[0], tuple) else given[0]
        return f"{len(given)} files could not be copied, the first because {str(first)[:_LONGEST]}"
    text = " ".join(str(error).split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"
