"""Greedy decoding and scoring for every method that keeps a state per token, written once.

An adapter implements `_forward` and `_rewind`; `generate` and `score` follow. A `GraphSession` also has
static steps and so decodes on a GPU as fast as its memory traffic allows.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Collection, Sequence
from typing import Generic, TypeVar

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from evals.methods.base import NotFiniteError, Query, Session, Stop
from evals.methods.decoding.cuda_graph import FEWEST, LONGEST, GraphRunner, StaticStep, likeliest
from sharedllm.inputs import ids_tensor
from sharedllm.nn.layers import output_head

M = TypeVar("M", bound=PreTrainedModel)
GRAPH_DEVICES = frozenset({"cuda"})
"""Devices that decode with static steps. A CPU gains nothing from them."""
NOT_FINITE = "The model's logits are NaN or infinite: try --dtype float32 (or bfloat16), or check the weights."
NOTHING = "Context and query are both empty: there is nothing to continue."
SCORE_ROWS = 1024
"""Rows of logits held at once while scoring: 1024 x 128K vocabulary in float32 is 0.5 GiB."""


class CachedSession(Session, Generic[M]):
    """A session over a state that only grows while a query is answered and is then rewound.

    device: where token ids go, with the input embedding. Hidden states and logits may be on another one, where the
        model is spread over several.
    context_hidden: final hidden state of the last context token, shape (1, hidden), or None where nothing was
        read: what an empty query continues from.
    """

    device: torch.device
    context_hidden: torch.Tensor | None = None

    def __init__(self, model: M) -> None:
        self._model = model
        self.device = model.device

    @abstractmethod
    def _forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Append `ids` of shape (1, q), q >= 1, to the state; return final hidden states (q, hidden)."""

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits (rows, vocabulary) of final hidden states (rows, hidden)."""
        return output_head(self._model)(hidden)

    @abstractmethod
    def _rewind(self) -> None:
        """Bring the state back to the end of the context."""

    def _begin(self, query: Query) -> None:
        """Called before a query is read: the place for a search that depends on the question."""

    def _read(self, query: Query) -> torch.Tensor:
        """Hidden state (1, hidden) of the token that the answer continues from."""
        self._begin(query)
        if len(query.ids):
            return self._forward(self._tensor(query.ids))[-1:]
        if self.context_hidden is None:
            raise ValueError(NOTHING)
        return self.context_hidden

    def _tensor(self, ids: Sequence[int]) -> torch.Tensor:
        return ids_tensor(ids, self.device)

    @torch.inference_mode()
    def generate(
        self,
        query: Query,
        max_new_tokens: int,
        stop: Stop | None = None,
        on_token: Callable[[int], None] | None = None,
    ) -> list[int]:
        stop = stop or Stop()
        new: list[int] = []
        try:
            logits = self._logits(self._read(query))
            while len(new) < max_new_tokens:
                barred = stop.ids if len(new) < stop.min_new_tokens else frozenset()
                if new:
                    token = self._next(new[-1], max_new_tokens - len(new), barred)
                else:
                    token = greedy_token(logits[0], barred)
                if on_token is not None:
                    on_token(token)
                if token in stop.ids:
                    break
                new.append(token)
                if stop.when is not None and stop.when(new):
                    break
        finally:
            self._rewind()
        return new

    def _next(self, token: int, left: int, barred: Collection[int]) -> int:
        """Append a token to the state; the likeliest token after it that is not barred. left: tokens that may still be
        wanted."""
        return greedy_token(self._after(token, left)[0], barred)

    def _after(self, token: int, left: int) -> torch.Tensor:
        """Append a token to the state; logits (1, vocabulary) after it."""
        return self._logits(self._forward(self._tensor([token])))

    def score(self, query: Query, target_ids: Sequence[int]) -> torch.Tensor:
        return self.score_greedy(query, target_ids)[0]

    @torch.inference_mode()
    def score_greedy(self, query: Query, target_ids: Sequence[int]) -> tuple[torch.Tensor, bool]:
        if not len(target_ids):
            return torch.empty(0), True
        try:
            self._begin(query)
            ids = self._tensor([*query.ids, *target_ids])
            rows = self._hidden_before_targets(ids, len(target_ids))
            targets = ids[0, -len(target_ids) :]
            parts, greedy = [], []
            for hidden, ids_wanted in zip(torch.split(rows, SCORE_ROWS), torch.split(targets, SCORE_ROWS), strict=True):
                logits = self._logits(hidden).float()
                wanted = ids_wanted.to(logits.device)
                parts.append(-F.cross_entropy(logits, wanted, reduction="none"))
                greedy.append((logits.argmax(dim=-1) == wanted).all())
        finally:
            self._rewind()
        return torch.cat(parts).cpu(), bool(torch.stack(greedy).all())

    def _hidden_before_targets(self, ids: torch.Tensor, targets: int) -> torch.Tensor:
        """Hidden states (targets, hidden) of the token before each target. The last target is never read."""
        before = ids[:, :-1]
        hidden = self._forward(before) if before.shape[1] else None
        if ids.shape[1] > targets:  # the query's last token stands before the first target
            assert hidden is not None
            return hidden[-targets:]
        if self.context_hidden is None:
            raise ValueError("Context and query are both empty: the first target token follows nothing.")
        return self.context_hidden if hidden is None else torch.cat([self.context_hidden, hidden])


class GraphSession(CachedSession[M]):
    """A cached session that can also decode with static steps, which a GPU replays as CUDA graphs."""

    _graph_runner: GraphRunner | None = None

    @abstractmethod
    def _graph_room(self) -> int:
        """Tokens that a static step can read from here on; 0 where the next token takes a `_forward`."""

    @abstractmethod
    def _graph_step(self, tokens: int) -> StaticStep:
        """A step on top of the present state, for `tokens` tokens, at most `_graph_room()`."""

    def generate(
        self,
        query: Query,
        max_new_tokens: int,
        stop: Stop | None = None,
        on_token: Callable[[int], None] | None = None,
    ) -> list[int]:
        try:
            return super().generate(query, max_new_tokens, stop, on_token)
        finally:
            if self._graph_runner is not None:
                self._graph_runner.wait()
            self._graph_runner = None

    def _next(self, token: int, left: int, barred: Collection[int]) -> int:
        runner = None if barred else self._runner(left)
        if runner is None:
            return super()._next(token, left, barred)
        return finite_token(*runner.greedy(token))

    def _after(self, token: int, left: int) -> torch.Tensor:
        runner = self._runner(left)
        return super()._after(token, left) if runner is None else runner(token)

    def _runner(self, left: int) -> GraphRunner | None:
        """What reads the next token; None where a `_forward` does."""
        if self._graph_runner is not None and not self._graph_runner.left:
            self._graph_runner.step.finish()
            self._graph_runner = None
        if self._graph_runner is None and self.device.type in GRAPH_DEVICES:
            tokens = min(left, self._graph_room(), LONGEST)
            self._graph_runner = GraphRunner(self._graph_step(tokens)) if tokens >= FEWEST else None
        return self._graph_runner


def greedy_token(logits: torch.Tensor, barred: Collection[int] = ()) -> int:
    """The likeliest token of logits (vocabulary,) that is not barred. Raises NotFiniteError as `finite_token` does."""
    logits = logits.float()
    if barred:
        logits[list(barred)] = -torch.inf
    return finite_token(*likeliest(logits).tolist())


def finite_token(best: float, token: float) -> int:
    """The likeliest token as an integer. Raises NotFiniteError where its logit `best` is NaN or infinite, which it is
    wherever any is NaN."""
    if not math.isfinite(best):
        raise NotFiniteError(NOT_FINITE)
    return int(token)
