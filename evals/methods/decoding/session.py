"""Greedy decoding and scoring for every method that keeps a state per token, written once.

An adapter implements `_forward`, `_logits` and `_rewind`; `generate` and `score` follow. One that also has fixed steps
(`_fixed_room`, `_fixed_step`) decodes on a GPU as fast as its memory traffic allows.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from evals.methods.base import Query, Session, Stop
from evals.methods.decoding.cuda_graph import FEWEST, LONGEST, FixedStep, Replay

FIXED_ON = frozenset({"cuda"})
"""Devices that decode by fixed steps. On a CPU nothing is gained by them."""
SCORE_ROWS = 1024
"""Rows of logits held at once while scoring: 1024 x 128K vocabulary in float32 is 0.5 GiB."""


class CachedSession(Session):
    """A session over a state that only grows while a query is answered and is then taken back.

    device: where token ids go.
    context_hidden: final hidden state of the last context token, shape (1, hidden), or None where nothing was
        read: what an empty query continues from.
    """

    device: torch.device
    context_hidden: torch.Tensor | None = None
    _replay: Replay | None = None

    @abstractmethod
    def _forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Append `ids` of shape (1, q), q >= 1, to the state; return final hidden states (q, hidden)."""

    @abstractmethod
    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits (rows, vocabulary) of final hidden states (rows, hidden)."""

    @abstractmethod
    def _rewind(self) -> None:
        """Bring the state back to the end of the context."""

    def _fixed_room(self) -> int:
        """Tokens that a fixed step can read from here on; 0 where the next one takes a `_forward`."""
        return 0

    def _fixed_step(self, tokens: int) -> FixedStep:
        """A step behind the state as it is, for `tokens` tokens, at most `_fixed_room()`."""
        raise NotImplementedError

    def _begin(self, query: Query) -> None:
        """Called before a query is read: the place for a search that depends on the question."""

    def _read(self, query: Query) -> torch.Tensor:
        """Hidden state (1, hidden) of the token that the answer continues from."""
        self._begin(query)
        if len(query.ids):
            return self._forward(self._tensor(query.ids))[-1:]
        if self.context_hidden is None:
            raise ValueError("Context and query are both empty: there is nothing to continue.")
        return self.context_hidden

    def _tensor(self, ids: Sequence[int]) -> torch.Tensor:
        return torch.tensor([list(ids)], dtype=torch.long, device=self.device)

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
            logits = self._logits(self._read(query))[0].float()
            while len(new) < max_new_tokens:
                if stop.ids and len(new) < stop.min_new_tokens:
                    logits[list(stop.ids)] = -torch.inf
                token = int(logits.argmax())
                if on_token is not None:
                    on_token(token)
                if token in stop.ids:
                    break
                new.append(token)
                if stop.when is not None and stop.when(new):
                    break
                if len(new) < max_new_tokens:
                    logits = self._after(token, max_new_tokens - len(new))[0].float()
        finally:
            self._replay = None
            self._rewind()
        return new

    def _after(self, token: int, left: int) -> torch.Tensor:
        """Append a token to the state; logits (1, vocabulary) after it. left: tokens that may still be wanted."""
        if self._replay is not None and not self._replay.left:
            self._replay.step.finish()
            self._replay = None
        if self._replay is None and self.device.type in FIXED_ON:
            tokens = min(left, self._fixed_room(), LONGEST)
            self._replay = Replay(self._fixed_step(tokens)) if tokens >= FEWEST else None
        if self._replay is not None:
            return self._replay(token)
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
            for hidden, wanted in zip(rows.split(SCORE_ROWS), targets.split(SCORE_ROWS), strict=True):
                logits = self._logits(hidden).float()
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
