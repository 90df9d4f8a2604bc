"""The library behind the pipeline and the service: everything that needs neither Airflow nor HTTP."""

__version__ = "0.3.0"
