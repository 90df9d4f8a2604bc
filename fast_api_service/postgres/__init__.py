"""How the service reaches Postgres: connections, batching of what comes at the same moment, limits and failures.

`read_pool.py` has the connections of requests, `write_pool.py` the few that write, a transaction a request.
`breaker.py` leaves a source that fails alone for a while, `time_limit.py` bounds a query by a clock that does not count
stalls of the event loop, `listener.py` hears of changes at once. No statement about a subject is here: those are in the
subjects' `repository.py`.
"""
