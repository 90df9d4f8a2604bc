"""What happens to every request before its subject is reached, and after.

`gate.py` is passed by all: request id, key, place, whole body, timing, no stack trace in an answer. `concurrency.py`:
how many requests of a kind are under way, how long a request may take to arrive, how large it may be. `hosts.py`: while
no key is needed, only pages of this machine may call. `protocol.py`: HTTP on the socket.
"""
