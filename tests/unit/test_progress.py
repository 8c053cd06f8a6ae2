"""The time that is left: expected times first, then the pace of the steps that are done."""

from __future__ import annotations

import pytest

from sandglass.core.progress import TimeLeft, duration_text


class Clock:
    """A clock that is set."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_stage_goes_on_at_its_own_pace() -> None:
    """Expected times count until a step is done."""
    clock = Clock()
    left = TimeLeft(clock)
    left.expect("layers", 4, seconds=10)
    left.expect("times", 1, seconds=6)
    assert left.seconds() == 46
    clock.now += 2
    assert left.seconds() == 44
    left.step("layers")
    assert left.seconds() == 3 * 2 + 6
    clock.now += 4
    left.step("layers")
    assert left.seconds() == 2 * 3 + 6
    left.step("times")
    assert left.seconds() == 6


def test_runs_have_to_be_measured_first() -> None:
    """There is no estimate while a stage is unknown, and none before a stage is expected."""
    left = TimeLeft(Clock())
    assert left.seconds() is None
    left.expect("layers", 4, runs=20)
    left.expect("times", 1, seconds=6)
    assert left.seconds() is None
    left.measured(0.5)
    assert left.seconds() == 4 * 20 * 0.5 + 6


def test_a_stage_may_end_early_or_go_on_for_longer() -> None:
    """Steps that are not needed take no time; extra steps are not counted."""
    clock = Clock()
    left = TimeLeft(clock)
    left.expect("choices", 36, seconds=1)
    clock.now += 1
    left.step("choices")
    assert left.seconds() == 35
    left.end("choices")
    assert left.seconds() == 0
    for _ in range(3):
        left.step("choices")
    assert left.seconds() == 0


def test_it_is_said_with_each_line() -> None:
    """Each line has the estimate, while there is one."""
    lines: list[str] = []
    left = TimeLeft(Clock())
    say = left.saying(lines.append)
    say("one")
    left.expect("layers", 4, seconds=10)
    say("two")
    left.end("layers")
    say("three")
    assert lines == ["one", "two (about 40 s left)", "three"]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(1, "about 5 s"), (12, "about 10 s"), (88, "about 90 s"), (95, "about 2 min"), (610, "about 10 min")],
)
def test_words_are_rough(seconds: float, words: str) -> None:
    """To five seconds, or to the minute."""
    assert duration_text(seconds) == words
