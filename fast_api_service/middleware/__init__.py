"""The layers that every request passes.

`gate.py` is the one around all routes: request id, key, slot, whole body, timing, no stack trace in a response.
`concurrency.py` limits concurrent requests by kind, and the size of bodies. `hosts.py`: while no key is needed, only
pages of this machine may call. `protocol.py`: HTTP on the socket, with timeouts for receiving and sending.
"""
