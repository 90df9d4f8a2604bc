"""Airflow writes a configuration into AIRFLOW_HOME when it is imported: give it a folder of its own."""

from __future__ import annotations

import os

from tests.conftest import open_temporary_folder

os.environ["AIRFLOW_HOME"] = str(open_temporary_folder())
