"""What was shown and what came of it, for people: figures of the exposure log, and the page that draws them.

Endpoints in `endpoints.py`, answers in `schemas.py`, the statements in `queries.py`; `static/` is the page, which holds
no data and asks for a key where one is needed.
"""
