"""How many threads a program gets: by the times that it took, not by one of them."""

from __future__ import annotations

from backlit.executors.native.threads import Choice


def run(choice, times, runs):
    """The numbers of threads of so many runs that take `times`, by number."""
    found = []
    for _ in range(runs):
        found.append(choice.next())
        choice.learn(found[-1], times[found[-1]])
    return found


def test_both_are_tried_and_the_faster_is_kept():
    assert run(Choice(4), {4: 1.0, 1: 2.0}, 10) == [4, 1, 4, 1, *[4] * 6]
    assert run(Choice(4), {4: 3.0, 1: 2.0}, 9) == [4, 1, 4, 1, *[1] * 5]


def test_one_slow_run_changes_nothing():
    choice = Choice(2)
    run(choice, {2: 1.0, 1: 1.5}, 10)
    choice.learn(2, 100.0)
    assert run(choice, {2: 1.0, 1: 1.5}, 10) == [2] * 10


def test_it_changes_its_mind_when_the_machine_does():
    choice = Choice(2)
    run(choice, {2: 1.0, 1: 1.5}, 10)
    busy = run(choice, {2: 9.0, 1: 1.5}, 19)
    assert busy[-1] == 1
    assert run(choice, {2: 1.0, 1: 1.5}, 60)[-5:] == [2] * 5
