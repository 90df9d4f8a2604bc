"""`{user_id:id}` in a path: the rest of it, whatever characters it holds, but no line end behind it.

Starlette's `path` stops at a line end, so that `/users/3925%0A` would be user 3925, and an id with one inside could not
be reached.
"""

from __future__ import annotations

from starlette.convertors import Convertor, register_url_convertor


class _Id(Convertor[str]):
    regex = r"(?s:.*)(?<![\r\n])(?!\n)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("id", _Id())
