"""Endpoints to post events, and to read the event log.

`POST /online/data/add` and `GET /online/events/{user_id}` are in `endpoints.py`; `samples.py` validates what is posted,
`schemas.py` documents it. `/online/streaming` is in `streaming_endpoints.py` and
`streaming_schemas.py`. `appends.py` appends concurrent batches to the log together, `warnings.py` reports parts of
events that cannot be used, `log_watch.py` collects the metrics of Kafka's relay and sink. The meaning of events, and
the logs themselves, are in `recsys.events`.
"""
