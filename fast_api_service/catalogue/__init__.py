"""Items, users and categories as the shop posts them, one by one and up to 1,000 at a time, and the erasure of a user.

Endpoints in `endpoints.py` (single objects, storing many) and `bulk_endpoints.py` (pages, deleting many), what they
take and give in `schemas.py`. `repository.py` and `bulk_repository.py` read and write Postgres, one transaction a
request; `objects.py` holds the rows that a request changes; `erasure.py` removes a user from all tables.
"""
