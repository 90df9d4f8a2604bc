"""The service's access to Postgres: connection pools, timeouts and failures.

`read_pool.py` has the connections of requests, the timeout of a query, which does not count stalls of the event loop,
and the circuit breaker; `write_pool.py` the few connections that write, one transaction per request; `listener.py`
listens for notifications, `away.py` has the errors of an unavailable Postgres. SQL is in the repository of each
subject. Concurrent requests are batched in `fast_api_service.batching`.
"""
