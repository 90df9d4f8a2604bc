"""Airflow writes a configuration into AIRFLOW_HOME when it is imported: give it a folder of its own."""

from __future__ import annotations

import os
import tempfile

os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="recsys-airflow-home-")
