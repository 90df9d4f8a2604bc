"""The HTTP service: serves the published lists in milliseconds. Run it by `python -m fast_api_service`."""

import os

# Before NumPy is loaded: its products here are small, and threads that wait for a busy machine take 50 times as long.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from fast_api_service import id_in_path  # noqa: F401 - before any route is declared: registers `{…:id}` for their paths
