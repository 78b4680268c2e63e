"""Jobs onto machines: the bounds that the longest-first rule keeps."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from evals.run.packing import Job, longest_first, pack, wall_seconds

SECONDS = st.lists(st.floats(0, 1000), min_size=1, max_size=30)


@settings(deadline=None)
@given(SECONDS, st.integers(1, 9))
def test_every_job_is_done_once_and_within_the_bound_of_the_rule(seconds: list[float], machines: int) -> None:
    """Graham 1969: at most 4/3 of the optimum, which is at least the mean load and the longest job."""
    packed = pack([Job(value) for value in seconds], machines)
    assert sorted(at for machine in packed for at in machine.jobs) == list(range(len(seconds)))
    least = max(sum(seconds) / machines, max(seconds))
    wall = wall_seconds([Job(value) for value in seconds], machines)
    assert least - 1e-6 <= wall <= sum(seconds) / machines + max(seconds) + 1e-6


def test_a_model_that_takes_long_to_load_stays_on_its_machine() -> None:
    jobs = [Job(10, "a", 100), Job(10, "b", 100), Job(9, "a", 100), Job(9, "b", 100)]
    assert [machine.jobs for machine in pack(jobs, 2)] == [[0, 2], [1, 3]]
    assert wall_seconds(jobs, 2) == 119
    without = [Job(10, "a"), Job(10, "b"), Job(30, "a")]
    assert [machine.jobs for machine in pack(without, 2)] == [[2], [0, 1]]


def test_of_equal_jobs_the_earlier_one_comes_first() -> None:
    assert longest_first([Job(1), Job(2), Job(1), Job(2)]) == [1, 3, 0, 2]


def test_a_job_over_several_machines_takes_all_of_them_until_it_ends() -> None:
    jobs = [Job(30), Job(10, "big", 5, width=2), Job(4, "big", 5, width=2), Job(6)]
    assert [(machine.jobs, machine.seconds) for machine in pack(jobs, 2)] == [([1, 2, 0], 49), ([1, 2, 3], 25)]
    assert [machine.jobs for machine in pack(jobs, 4)] == [[1], [1], [2, 0], [2, 3]]
