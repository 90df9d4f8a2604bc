"""What a worker serves from, in memory, and the tasks that keep it fresh.

`state.py` holds it and is what endpoints are given; `in_service.py` swaps publication, catalogue and models as one.
`publication_loader.py` and `catalogue_loader.py` read from Postgres, `model_loader.py` loads and warms up models,
`model_updates.py` takes over what the updater has learned. `tasks.py` begins a background task again when it fails.
"""
