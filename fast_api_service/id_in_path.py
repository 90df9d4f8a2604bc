"""`{user_id:id}` in a path: the rest of it, whatever characters it holds.

Starlette's `path` ends before a line end, so that `/users/3925%0A` would be user 3925.
"""

from __future__ import annotations

from starlette.convertors import Convertor, register_url_convertor


class _Id(Convertor[str]):
    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("id", _Id())
