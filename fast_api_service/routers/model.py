"""POST /model/export: the model in service as an artifact that others can load."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request

from fast_api_service.errors import ApiError, documented
from fast_api_service.models import capture, export
from fast_api_service.schemas_predict import ExportAnswer
from fast_api_service.scoring import in_service
from fast_api_service.state import State
from recsys.errors import RecsysError

router = APIRouter(tags=["operations"])


@router.post("/model/export", responses=documented(503), summary="Export the model in service", operation_id="export")
async def export_model(request: Request) -> ExportAnswer:
    """Writes `deepfm_export/<version>` under ARTIFACT_ROOT, with the weights as they are now: `network.onnx` with its
    weights beside it, `network.keras`, the feature spec, vocabularies and state with the keys that got rows since the
    night, and a manifest with checksums. What has not changed is exported once."""
    state: State = request.app.state.service
    _, model = in_service(state)
    try:
        manifest, path, created = await asyncio.to_thread(export, capture(model), state.models.store)
    except (OSError, RecsysError) as error:
        raise ApiError(503, "export_failed", f"the model cannot be exported to ARTIFACT_ROOT: {error}", 60) from None
    return ExportAnswer(artifact=manifest.ref, path=path, created=created, model=model.artifact, files=manifest.files)
