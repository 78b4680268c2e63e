"""The connection to Ray: a cluster started on this machine, or one that is there already."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, TypeVar

from evals.errors import UserError
from evals.run.cluster.actor import hire

T = TypeVar("T")
HERE = "local"
"""Address of a cluster that is started for this run on this machine."""
CLIENT = "ray://"
"""How an address begins that Ray's client connects to, from a machine that is no part of the cluster."""
ANSWER_S = 10.0
QUIET = {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0"}
LEAN = {"RAY_prestart_worker_first_driver": "0"}
"""Ray starts a process for every processor of the machine, of which a run on GPUs needs few."""
EVEN = {"RAY_worker_niceness": "0"}
"""Ray gives way with its workers to everything else on the machine (nice 15), which their times would show."""
MOST_RECRUITS = 8
"""Processes that start before it is known how many cells there are."""


@dataclass(frozen=True)
class Cluster:
    """An open connection. most: workers at most; None for as many as there are GPUs, or processors without GPUs.

    recruits: processes that wait to become workers, each with the number of GPUs that it has.
    """

    address: str
    most: int | None
    recruits: list[tuple[Any, int]] = field(default_factory=list)

    @property
    def has_gpus(self) -> bool:
        """Whether any node has a GPU now."""
        return self.most_gpus() >= 1

    def slots(self, gpus: int) -> int:
        """Workers that the nodes of now have room for, each with so many GPUs of one node; 0: with a processor."""
        found = sum(int(node.get("GPU", 0) // gpus if gpus else node.get("CPU", 0)) for node in self._nodes())
        return found if self.most is None else min(found, self.most)

    def most_gpus(self) -> int:
        """GPUs of the node that has most of them."""
        return max((int(node.get("GPU", 0)) for node in self._nodes()), default=0)

    def hosts(self) -> int:
        """Machines in the cluster."""
        return len({node["NodeManagerHostname"] for node in _alive()})

    def recruit(self, gpus: int) -> None:
        """Start processes for workers of `gpus` GPUs each, which import while the run is planned."""
        self.recruits.extend((hire(gpus), gpus) for _ in range(min(self.slots(gpus), MOST_RECRUITS)))

    def _nodes(self) -> list[dict[str, float]]:
        """The resources of every node that is there now."""
        return [node["Resources"] for node in _alive()]

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function where the GPUs are: on another node, if the cluster has GPUs and this machine none."""
        import ray
        import torch

        if torch.cuda.is_available() or not self.has_gpus or self.recruits:  # those are on this machine
            return function(*arguments)
        task = ray.remote(max_retries=0, num_cpus=0, num_gpus=1)(function)
        try:
            return ray.get(task.remote(*arguments))  # type: ignore[no-any-return]
        except ray.exceptions.RayTaskError as error:
            raise (error.cause if isinstance(error.cause, Exception) else error) from None


@contextmanager
def connected(address: str, gpus: bool = True) -> Iterator[Cluster]:
    """Connect to `address`: `local`, a number of workers on this machine, `auto`, HOST:PORT or ray://HOST:PORT.

    gpus: whether workers may use them. A cluster that is started here has its first processes when the block begins.

    Raises UserError where Ray is not installed or there is no cluster.
    """
    try:
        import ray
    except ImportError as error:
        raise UserError("--ray needs Ray: pip install 'sharedllm[ray]'.") from error
    if address.startswith(CLIENT) and find_spec("grpc") is None:
        raise UserError(f"--ray {address} needs Ray's client: pip install 'sharedllm[ray]'.")
    os.environ.update({name: value for name, value in {**QUIET, **LEAN, **EVEN}.items() if name not in os.environ})
    most = int(address) if address.isdecimal() else None
    if most == 0:
        raise UserError("--ray 0 starts no worker: give 1 or more, or leave the number out.")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == HERE or most:
        options |= {"address": HERE, "include_dashboard": False, "num_cpus": most}
    else:
        options |= {"address": address}
    try:
        if "address" in options:
            _knock(options["address"])
        ray.init(**options)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"--ray {address}: no Ray cluster answers there ({str(error).splitlines()[0]}): start one with `ray start "
            "--head`, set RAY_AUTH_MODE=token if it asks for a token, or leave the address out for workers on this "
            "machine."
        ) from error
    try:
        cluster = Cluster(address, most)
        if options["address"] == HERE:  # nobody else waits for its places
            cluster.recruit(int(gpus and cluster.has_gpus))
        yield cluster
    finally:
        ray.shutdown()


def _alive() -> list[dict[str, Any]]:
    """The nodes that are there now. Raises ConnectionError where Ray's client has lost the cluster."""
    import ray

    try:
        nodes = ray.nodes()
    except Exception as error:
        details = getattr(error, "details", None)
        if details is None:
            raise
        raise ConnectionError(details()) from error  # an error of gRPC, which Ray's client lets through
    return [node for node in nodes if node["Alive"]]


def _knock(address: str) -> None:
    """Raises OSError where nothing listens. Ray itself tries for minutes, and then ends the process."""
    host, colon, port = address.removeprefix(CLIENT).rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=ANSWER_S).close()
