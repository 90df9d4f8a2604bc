"""Probabilities of user-item pairs, and positions of products in a listing, by the DeepFM in service.

`endpoints.py` has the endpoints, `schemas.py` requests and responses. `service.py` builds the model's input from users,
their events, features and items; it also rescores recommendations. The scorer is `recsys.serving.scorer`, loaded by
`fast_api_service.runtime`.
"""
