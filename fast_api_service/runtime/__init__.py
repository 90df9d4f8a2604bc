"""What a worker serves from, in memory, and the tasks that keep it fresh.

`state.py` holds it and is what endpoints are given; `in_service.py` swaps publication, catalogue and models as one.
`publication_loader.py`, `catalogue_loader.py` and `item_rows.py` read from Postgres over the connections of
`database.py`, `list_loader.py` maps the files of lists, `follower.py` looks again and again, `model_loader.py` (with
`model_slot.py`) loads and warms up models, `model_updates.py` takes over what the updater has learned. `tasks.py`
begins a background task again when it fails, `watched.py` looks at the processes around for the metrics,
`unreadable_rows.py` names rows that cost themselves.
"""
