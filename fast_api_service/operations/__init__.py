"""For whoever runs the service: alive, ready, metrics, what is in service, and the export of the model.

`endpoints.py` has `/health`, `/ready`, `/metrics` and `/model/info`; `export.py` has `POST /model/export`, which writes
an artifact. The metrics themselves are in `fast_api_service.metrics`.
"""
