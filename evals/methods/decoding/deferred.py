"""Contexts that are read once a query and the length of its answer are known, because the read depends on them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

import torch

from evals.methods.base import Query, Session, Stop

Plan = TypeVar("Plan", bound=Hashable)


class DeferredSession(Session, Generic[Plan]):
    """Reads its context at the first request, and again only where a later one asks for another plan."""

    plan: Plan | None = None
    """What the last request asked for; None before the first."""
    _session: Session | None = None

    @abstractmethod
    def _plan(self, query: Query, generated: int, scored: int) -> Plan:
        """What the read depends on, given a query and the tokens of its answer. Raises UserError where none fits."""

    @abstractmethod
    def _read(self, plan: Plan) -> Session:
        """The context read by a plan."""

    def generate(
        self,
        query: Query,
        max_new_tokens: int,
        stop: Stop | None = None,
        on_token: Callable[[int], None] | None = None,
    ) -> list[int]:
        session = self._ready(self._plan(query, max_new_tokens, 0))
        return session.generate(query, max_new_tokens, stop, on_token)

    def score(self, query: Query, target_ids: Sequence[int]) -> torch.Tensor:
        return self.score_greedy(query, target_ids)[0]

    def score_greedy(self, query: Query, target_ids: Sequence[int]) -> tuple[torch.Tensor, bool]:
        return self._ready(self._plan(query, 0, len(target_ids))).score_greedy(query, target_ids)

    @property
    def state_bytes(self) -> int:
        return self._session.state_bytes if self._session else 0

    @torch.inference_mode()
    def _ready(self, plan: Plan) -> Session:
        if self._session is None or plan != self.plan:
            self._session = None  # frees the earlier read first
            self.plan = plan
            self._session = self._read(plan)
        return self._session
