"""How many threads a program gets: by the times that it took, not by one of them."""

from __future__ import annotations

import weakref

from backlit.executors.native.threads import Choice, Pool


def run(choice, times, runs):
    """The numbers of threads of so many runs that take `times`, by number."""
    found = []
    for _ in range(runs):
        found.append(choice.next()[0])
        choice.learn(found[-1], times[found[-1]])
    return found


def test_both_are_tried_and_the_faster_is_kept():
    assert run(Choice(4), {4: 1.0, 1: 2.0}, 10) == [4, 4, 1, 1, *[4] * 6]
    assert run(Choice(4), {4: 3.0, 1: 2.0}, 9) == [4, 4, 1, 1, *[1] * 5]


def test_one_thread_is_not_tried_where_several_surely_are_faster():
    assert run(Choice(4, alone=4.0), {4: 1.5, 1: 3.0}, 100) == [4] * 100
    assert 1 in run(Choice(4, alone=4.0), {4: 2.5, 1: 3.0}, 5)


def test_helpers_that_lose_their_processors_are_noticed():
    choice = Choice(4, alone=4.0)
    run(choice, {4: 1.5, 1: 3.0}, 50)
    assert run(choice, {4: 6.0, 1: 3.0}, 15)[-3:] == [1, 1, 1]


def test_runs_of_one_thread_are_short_while_it_is_only_tried():
    choice = Choice(2)
    lasting = []
    for _ in range(80):
        count, most = choice.next()
        lasting.append((count, most < 1))
        choice.learn(count, {2: 1.0, 1: 1.5}[count])
    assert lasting[:5] == [(2, False), (2, False), (1, True), (1, True), (2, False)]
    assert all(short == (count == 1) for count, short in lasting)


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


def test_what_was_worked_on_is_given_up():
    class Held:
        pass

    held = Held()
    gone, seen = weakref.ref(held), []

    def work(number, count, held=held):
        seen.append((number, count))

    Pool().run(2, work)
    assert sorted(seen) == [(0, 2), (1, 2)]
    del held, work
    assert gone() is None
