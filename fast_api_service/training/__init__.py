"""The updater over HTTP, wherever it runs: start, stop, status, log, restart policy, and the updates that it made.

Endpoints in `endpoints.py`, requests and answers in `schemas.py`. All of it is read from and written to Postgres; the
process itself is `recsys.updater`.
"""
