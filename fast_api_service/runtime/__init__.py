"""The in-memory state of a worker, and the background tasks that keep it up to date.

`state.py` has the state, which endpoints use; `in_service.py` the publication, catalogue and models of one request,
swapped atomically. `publication_loader.py`, `catalogue_loader.py` and `item_rows.py` read from Postgres over the
connections of `database.py`, `list_loader.py` maps the files of lists, `follower.py` polls, `model_loader.py` (with
`model_slot.py`) loads and warms up models, `model_updates.py` applies the updater's updates. `tasks.py` restarts
background tasks that fail, `watched.py` reads metrics of other processes, `unreadable_rows.py` logs invalid rows.
`workers.py` runs several workers on one port, which share what `siblings.py` has.
"""
