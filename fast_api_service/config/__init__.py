"""How each surface answers: versions of the serving configuration, live in every worker within seconds.

Endpoints in `endpoints.py`, answers in `schemas.py`; the configuration's own schema is `recsys.serving.config`.
`repository.py` finds the newest version that this release can read, for endpoints and followers alike; `warnings.py`
names what of a version can have no effect.
"""
