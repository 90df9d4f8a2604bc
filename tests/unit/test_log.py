from __future__ import annotations

import io
import json
import logging

import pytest

from recsys import log
from recsys.errors import InputError
from recsys.log import JsonLines, stack


def logged(*args: object, **options: object) -> str:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    logger = logging.Logger("shop")
    logger.addHandler(handler)
    logger.error(*args, **options)  # type: ignore[arg-type]
    return stream.getvalue()


def test_an_entry_is_one_json_object_with_its_fields() -> None:
    text = logged("request %s\nfailed", "a-1", extra={"request_id": "a-1"})
    assert text.count("\n") == 1
    entry = json.loads(text)
    assert entry.pop("at").endswith("+00:00")
    assert entry == {"level": "ERROR", "logger": "shop", "message": "request a-1\nfailed", "request_id": "a-1"}


def test_an_exception_is_a_field() -> None:
    try:
        raise KeyError("ключ")
    except KeyError:
        entry = json.loads(logged("no", exc_info=True))
    assert entry["exception"].startswith("Traceback")
    assert "KeyError: 'ключ'" in entry["exception"]


def test_a_stack_names_places_and_types_but_no_values() -> None:
    who = "".join(["user", "-501"])  # so that no line of this file holds it

    def find() -> None:
        raise KeyError(who)

    try:
        try:
            find()
        except KeyError as error:
            raise ValueError(who) from error
    except ValueError as error:
        text = stack(error)
    assert "in find" in text
    assert text.index("builtins.KeyError at") < text.index("builtins.ValueError at")
    assert who not in text
    hidden: ValueError | None = None
    try:
        try:
            find()
        except KeyError:
            raise ValueError from None
    except ValueError as error:
        hidden = error
    assert hidden is not None
    assert "KeyError" not in stack(hidden)


def test_migrations_say_nothing_of_their_own_workings() -> None:
    logger = logging.getLogger("alembic")
    before = logger.level
    try:
        log.setup("INFO", "text")
        assert not logging.getLogger("alembic.runtime.migration").isEnabledFor(logging.INFO)
        assert logging.getLogger("alembic.runtime.migration").isEnabledFor(logging.WARNING)
    finally:
        logger.setLevel(before)


def test_a_level_that_there_is_not_is_refused() -> None:
    with pytest.raises(InputError, match="RECSYS_LOG_LEVEL=LOUD"):
        log.setup("loud", "text")
