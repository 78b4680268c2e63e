"""Which processors a worker keeps to."""

from __future__ import annotations

from pathlib import Path

import pytest

from evals.run.cluster.processors import cores, part_of


def machine(folder: Path, sockets: int, cores_each: int) -> Path:
    """A description of a machine with two threads a core, the second ones numbered after all first ones."""
    physical = sockets * cores_each
    for cpu in range(2 * physical):
        place = folder / f"cpu{cpu}" / "topology"
        place.mkdir(parents=True)
        (place / "physical_package_id").write_text(f"{cpu % physical // cores_each}\n")
        (place / "core_id").write_text(f"{cpu % cores_each}\n")
    return folder


def test_threads_of_a_core_stay_together_and_cores_of_a_socket_side_by_side(tmp_path: Path) -> None:
    found = cores(set(range(16)), machine(tmp_path, sockets=2, cores_each=4))
    assert found == [{cpu, cpu + 8} for cpu in range(8)]
    assert part_of([0], 2, found) == {0, 1, 2, 3, 8, 9, 10, 11}
    assert part_of([1], 2, found) == {4, 5, 6, 7, 12, 13, 14, 15}


def test_only_processors_that_the_process_may_use_count(tmp_path: Path) -> None:
    assert cores({1, 9, 6}, machine(tmp_path, sockets=2, cores_each=4)) == [{1, 9}, {6}]


def test_where_the_system_does_not_say_each_processor_is_a_core(tmp_path: Path) -> None:
    assert cores({3, 1}, tmp_path / "nothing") == [{1}, {3}]


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_the_parts_of_all_workers_are_the_machine(count: int) -> None:
    found = [{cpu} for cpu in range(8)]
    parts = [part_of([place], count, found) for place in range(count)]
    assert sorted(cpu for part in parts for cpu in part) == list(range(8))
    assert part_of(range(count), count, found) == set(range(8))


def test_a_worker_without_a_core_or_a_place_of_its_own_goes_where_it_is_put() -> None:
    found = [{0}, {1}]
    assert part_of([0], 3, found) == set()
    assert part_of([4], 2, found) == set()
