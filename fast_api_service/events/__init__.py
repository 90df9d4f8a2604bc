"""Events that clients post, and the event log as they see it.

`POST /online/data/add` and `GET /online/events/{user_id}` are in `endpoints.py`, with what they take in `schemas.py`
and, for the usual ones by columns, `plain_samples.py`; `/online/streaming` is in `streaming_endpoints.py` and
`streaming_schemas.py`. `appends.py` puts batches of the same moment into the log as one, `warnings.py` names what of an
event cannot be used, `log_watch.py` feeds the metrics of Kafka's relay and sink. What an event means, and the logs
themselves, are in `recsys.events`.
"""
