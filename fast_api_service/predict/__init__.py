"""Probabilities of pairs of user and item, and positions of products in a listing, by the DeepFM in service.

Endpoints in `endpoints.py`, requests and answers in `schemas.py`. `service.py` brings together who asks, with which
events and features, and for which items; it also rescores recommendations. The network's scorer is
`recsys.serving.scorer`, and `fast_api_service.runtime` loads it.
"""
