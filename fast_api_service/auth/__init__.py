"""Authentication and authorization: API keys, and the scopes that each route requires.

`keys.py` has the keys as last read from Postgres, verifies one without a query, and limits its rate; it also has the
security headers of pages. `scopes.py` maps routes to scopes; an unknown route is refused. Keys are created by
`recsys keys create`; the package writes nothing.
"""
