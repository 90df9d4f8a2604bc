"""Work of one turn of the event loop is done in one call."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from fast_api_service.postgres.together import Together

ONE, OTHER = object(), object()


def test_what_comes_in_one_turn_is_worked_on_together_each_with_its_own_answer() -> None:
    async def scene() -> None:
        calls: list[list[int]] = []

        def work(batch: Sequence[int]) -> list[int]:
            calls.append(list(batch))
            return [one * 10 for one in batch]

        together = Together(max_size=4)
        assert await asyncio.gather(*(together.get(ONE, 1, n, work) for n in range(6))) == [0, 10, 20, 30, 40, 50]
        assert calls == [[0, 1, 2, 3], [4, 5]]
        kinds = [ONE, ONE, OTHER, ONE]
        await asyncio.gather(*(together.get(kind, 1, n, work) for n, kind in enumerate(kinds)))
        assert calls[2:] == [[0, 1], [2], [3]]
        assert await together.get(ONE, 100, 7, work) == 70  # larger than all that goes together

    asyncio.run(scene())


def test_an_error_reaches_all_of_its_call_and_nobody_else() -> None:
    async def scene() -> None:
        def work(batch: Sequence[int]) -> list[int]:
            if 1 in batch:
                raise ValueError("one")
            return list(batch)

        together = Together(max_size=2)
        found = await asyncio.gather(*(together.get(ONE, 1, n, work) for n in range(4)), return_exceptions=True)
        assert [isinstance(one, ValueError) for one in found] == [True, True, False, False]

    asyncio.run(scene())


def test_who_has_gone_is_not_worked_for() -> None:
    async def scene() -> None:
        calls: list[list[int]] = []

        def work(batch: Sequence[int]) -> list[int]:
            calls.append(list(batch))
            return list(batch)

        together = Together(max_size=9)
        gone, stays = (asyncio.ensure_future(together.get(ONE, 1, n, work)) for n in range(2))
        asyncio.get_running_loop().call_soon(gone.cancel)
        assert await stays == 1
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert calls == [[1]]

    asyncio.run(scene())
