"""How the service reaches Postgres: connections, limits and failures.

`read_pool.py` has the connections of requests, the limit of a query by a clock that does not count stalls of the event
loop, and the circuit breaker that leaves Postgres alone for a while after failures; `write_pool.py` the few connections
that write, a transaction a request; `listener.py` hears of changes at once, `away.py` says how it
shows that Postgres is away. No statement about a subject is here: those
are in the repository of each subject. Requests of the same moment are put together in `fast_api_service.batching`.
"""
