"""The processors of a worker: its part of the machine, whole cores, so that workers are never on one core.

Kernels are launched by one thread of each worker. Two such threads on one core, or one that is moved between sockets,
take longer for it, which every answer that the host bounds would show. How much this gains has not been measured.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

TOPOLOGY = Path("/sys/devices/system/cpu")


def share() -> int:
    """Processors for each worker of this node."""
    return max(1, len(os.sched_getaffinity(0)) // (_gpus_of_node() or int(_node().get("CPU") or 1)))


def settle() -> None:
    """Keep all threads of this process, and those to come, to the part of its GPUs; without any it goes where it is
    put."""
    mine = gpus()
    if mine and all(gpu.isdecimal() for gpu in mine):
        part = part_of(list(map(int, mine)), _gpus_of_node(), cores(os.sched_getaffinity(0)))
        for thread in os.listdir("/proc/self/task") if part else ():
            with suppress(OSError):  # it has ended
                os.sched_setaffinity(int(thread), part)


def gpus() -> list[str]:
    """Numbers, or names, of the GPUs that Ray gave this process; none outside of Ray."""
    import ray

    return [str(gpu) for gpu in ray.get_gpu_ids()] if ray.is_initialized() else []


def part_of(places: Sequence[int], count: int, found: Sequence[set[int]]) -> set[int]:
    """The processors of some places among `count` that share cores evenly; none where there is less than a core for
    each, or a place is none of them. found: the processors of each core, neighbours together.
    """
    if len(found) < count or not all(0 <= place < count for place in places):
        return set()
    bounds = [len(found) * place // count for place in range(count + 1)]
    return {cpu for place in places for core in found[bounds[place] : bounds[place + 1]] for cpu in core}


def cores(allowed: set[int], topology: Path = TOPOLOGY) -> list[set[int]]:
    """The cores of processors, those of a socket together; each processor is one where the system does not say."""
    by_core: dict[tuple[str, str, int], set[int]] = {}
    for cpu in sorted(allowed):
        try:
            folder = topology / f"cpu{cpu}" / "topology"
            socket, core = (folder / "physical_package_id").read_text(), (folder / "core_id").read_text()
        except OSError:
            by_core["", "", cpu] = {cpu}
            continue
        by_core.setdefault((socket, core, -1), set()).add(cpu)
    return [by_core[key] for key in sorted(by_core, key=lambda key: (key[0], min(by_core[key])))]


def _gpus_of_node() -> int:
    return int(_node().get("GPU") or 0)


def _node() -> Mapping[str, float]:
    """The resources of this node."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    return next((node["Resources"] for node in ray.nodes() if node["NodeID"] == here), {})
