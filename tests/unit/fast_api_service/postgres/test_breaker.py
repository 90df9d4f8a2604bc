"""The breaker, by a clock of the test's own."""

from fast_api_service.postgres.read_pool import FAILURES_TO_OPEN, REST_S, Breaker


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_it_opens_after_failures_in_a_row_and_lets_one_try() -> None:
    clock = Clock()
    breaker = Breaker(clock)
    for _ in range(FAILURES_TO_OPEN - 1):
        breaker.failed()
    breaker.succeeded()
    for _ in range(FAILURES_TO_OPEN):
        assert breaker.allows()
        breaker.failed()
    assert breaker.is_open
    assert not breaker.allows()
    clock.now += REST_S
    assert [breaker.allows() for _ in range(3)] == [True, False, False]  # one tries, the others wait for it
    breaker.failed()
    assert not breaker.allows()
    clock.now += REST_S
    assert breaker.allows()
    breaker.succeeded()
    assert not breaker.is_open
    assert all(breaker.allows() for _ in range(3))


def test_one_that_never_comes_back_does_not_keep_it_open_for_ever() -> None:
    clock = Clock()
    breaker = Breaker(clock)
    for _ in range(FAILURES_TO_OPEN):
        breaker.failed()
    clock.now += REST_S
    assert breaker.allows()  # and was cancelled before it could say anything
    clock.now += REST_S
    assert breaker.allows()
