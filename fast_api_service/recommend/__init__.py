"""Recommendations for a user, a guest or anonymously, for many users at once, and similar items.

`endpoints.py` has `POST /recommend` and `GET /similar/{item_id}`, `batch_endpoints.py` the batch, with its schemas in
`batch_schemas.py`; the other schemas are in `fast_api_service.schemas`. `service.py` builds the response,
`repository.py` reads the user and their recent events in one round trip, `exposures.py` writes the exposure log. What
is recommended is decided by `recsys.serving`, which knows neither HTTP nor SQL.
"""
