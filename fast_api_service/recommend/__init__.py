"""Recommendations for a user, a guest or nobody, for many users at once, and neighbours of an item.

`endpoints.py` has `POST /recommend` and `GET /similar/{item_id}`, `batch_endpoints.py` the batch, with its schemas in
`batch_schemas.py`; the other schemas are in `fast_api_service.schemas`. `service.py` makes the answer, `repository.py`
reads who asks and their latest events in one round trip, `exposures.py` writes what was shown. What is recommended is
decided by `recsys.serving`, which knows neither HTTP nor SQL.
"""
