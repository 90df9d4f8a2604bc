"""Authentication and authorization: API keys, and the scopes that each route requires.

`keys.py` has the keys as last read from Postgres, verifies one without a query, and limits its rate; it also has the
security headers of pages. `scopes.py` has what endpoints declare their scopes with; a route without is refused. Keys
are created by `recsys keys create`; the package writes nothing.
"""
