"""Which key was given last, in SQL: keys are not given again, because lists and models speak in them."""

from __future__ import annotations

from typing import Final

# `table` and its `key`; 0 where none was given. A trigger notes the keys of rows that somebody removes.
LAST_SQL: Final = "greatest((select max({key}) from {table}), (select last_{key} from catalogue_epoch), 0)"
