"""Who may call: API keys and the scope that each route needs.

`keys.py` keeps the keys as last read from Postgres, verifies one without a query, and limits how fast it may call; it
also has the security headers of pages. `scopes.py` says which scope a route needs; a route that it does not know is
refused. Keys are made by `recsys keys create`; nothing here writes.
"""
