"""The answers of a batch as they grow, and the stop ids that requests still hold back."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from evals.methods.base import NotFiniteError, Request, Stop
from evals.methods.decoding.session import NOT_FINITE


class Answers:
    """New ids of each request, on the host."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self._requests = requests
        self._running = [request.max_new_tokens > 0 for request in requests]
        self.new: list[list[int]] = [[] for _ in requests]

    @property
    def running(self) -> bool:
        """Whether any request wants another token."""
        return any(self._running)

    def take(self, chosen: Sequence[float]) -> None:
        """Add a step. chosen: the largest logit of each row, then the id of each.

        Raises NotFiniteError where a request that is still running has a logit that is NaN or infinite.
        """
        rows = len(self.new)
        for row, (best, token) in enumerate(zip(chosen[:rows], chosen[rows:], strict=True)):
            if self._running[row]:
                if not math.isfinite(best):  # the largest is NaN where any is
                    raise NotFiniteError(NOT_FINITE)
                self._running[row] = self._take(row, int(token))

    def _take(self, row: int, token: int) -> bool:
        """Add a token to the answer of a row; whether the request continues."""
        request, new = self._requests[row], self.new[row]
        stop = request.stop or Stop()
        if token in stop.ids:
            return False
        new.append(token)
        stopped = stop.when is not None and stop.when(new)
        return not stopped and len(new) < request.max_new_tokens


class HeldBack:
    """Stop ids that rows may not choose before they have `min_new_tokens`: the same operations at every step."""

    def __init__(self, requests: Sequence[Request], device: torch.device) -> None:
        stops = [request.stop or Stop() for request in requests]
        ids = [sorted(stop.ids) if stop.min_new_tokens > 0 else [] for stop in stops]
        width = max(map(len, ids))
        self._some = width > 0
        # rows are as long as the longest: their first id, or one that nothing holds back, stands in for what is missing
        padded = [own + (own or [0])[:1] * (width - len(own)) for own in ids]
        self._ids = torch.tensor(padded, dtype=torch.long, device=device)
        least = [stop.min_new_tokens if own else 0 for stop, own in zip(stops, ids, strict=True)]
        self._least = torch.tensor(least, device=device)[:, None]

    def __call__(self, logits: torch.Tensor, count: int | torch.Tensor) -> torch.Tensor:
        """Logits (B, vocabulary) of rows that have `count` new tokens, those of ids held back at -inf."""
        if not self._some:
            return logits
        ids, held = self._ids.to(logits.device), (count < self._least).to(logits.device)
        return logits.scatter(1, ids, logits.gather(1, ids).masked_fill(held, -torch.inf))
