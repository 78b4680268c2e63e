"""The one interface that a long-context method implements.

A method reads a context once (`prefill`) and then answers any number of queries about it (`Session`). The
harness knows nothing else about a method, and a method knows nothing about tasks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypedDict

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from sharedllm.validation import validate

if TYPE_CHECKING:  # `sharedllm-eval --list` must not wait for torch
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from evals.methods.presets import Preset
    from sharedllm.trained_adapter import AnyAdapter


@dataclass(frozen=True)
class Runtime:
    """Where and how a model runs: everything about a load that is not the method itself.

    attn_fallback: kernel for bases that `attn` does not support; None where a person asked for `attn` by name.

    gpus: over how many GPUs of this machine the weights are spread.

    kernel_order: SDPA's back ends, preferred first (`evals.methods.kernels.kernel_order`); empty: torch's own order.
    """

    device: str = "cpu"
    dtype: str = "float32"
    attn: str = "sdpa"
    attn_fallback: str | None = None
    kernel_order: tuple[str, ...] = ()
    random_weights: bool = False
    offline: bool = False
    checkpoint: str | None = None
    seed: int = 0
    gpus: int = 1

    def devices(self) -> tuple[torch.device, ...]:
        """The devices that a load uses: `device`, or the first `gpus` of its kind."""
        import torch

        first = torch.device(self.device)
        return (first,) if self.gpus == 1 else tuple(torch.device(first.type, i) for i in range(self.gpus))


@dataclass(frozen=True)
class Stop:
    """When generation ends before `max_new_tokens`: at any of `ids`, once `min_new_tokens` were produced.

    The stop token itself is not part of the output. when: called with all new ids after each new one. True ends
    generation and keeps the last id in the output, because stop strings need it.
    """

    ids: frozenset[int] = frozenset()
    min_new_tokens: int = 0
    when: Callable[[Sequence[int]], bool] | None = None


@dataclass(frozen=True)
class Query:
    """The text that follows a context.

    ids: token ids of everything after the context (question, answer stem, ...); may be empty.
    question: half-open span of `ids` that a search over the context may look at. None means that nothing is
        asked (language modelling): a method must not search, since the span would leak what is scored.
    """

    ids: Sequence[int] = ()
    question: tuple[int, int] | None = None


@dataclass(frozen=True)
class Cost:
    """Arithmetic and memory traffic of one request, by formula; the roofline columns divide by these.

    prefill_flops: multiply-adds x 2 until the first token (context and query read).
    decode_flops: the same per further token.
    weight_bytes: parameters as stored on the device.
    state_bytes: what the session keeps between two tokens (KV cache, memories, compressed context).
    decode_bytes: weights and state that each further token must read.
    bus_bytes: of the state, what each further token must first bring from host memory to the device.
    """

    prefill_flops: float
    decode_flops: float
    weight_bytes: int
    state_bytes: int
    decode_bytes: int
    bus_bytes: int = 0


class NotFiniteError(ArithmeticError):
    """The model produced NaN or infinite logits where an answer was due: there is nothing to choose from."""


class NewIds(list[int]):
    """New ids whose number does not say whether the budget ended the answer: a server generated others, of which only
    the text came back. cut: whether it did.
    """

    def __init__(self, ids: Iterable[int] = (), *, cut: bool) -> None:
        super().__init__(ids)
        self.cut = cut


class Session(ABC):
    """A context that has been read. Every call starts from the context anew: calls never see each other."""

    @abstractmethod
    def generate(
        self,
        query: Query,
        max_new_tokens: int,
        stop: Stop | None = None,
        on_token: Callable[[int], None] | None = None,
    ) -> list[int]:
        """Greedy continuation of context + query.

        on_token is called with each new token as soon as it is known on the host: the time of its first call
        is the time to first token. Raises NotFiniteError where logits are NaN or infinite.
        """

    @abstractmethod
    def score(self, query: Query, target_ids: Sequence[int]) -> torch.Tensor:
        """Log-probability of each target token after context + query + the targets before it.

        Returns float32 of shape (len(target_ids),) on the CPU. Never holds (tokens x vocabulary) logits. Values may
        be NaN where the model's logits are; whoever uses them checks.
        """

    def score_greedy(self, query: Query, target_ids: Sequence[int]) -> tuple[torch.Tensor, bool]:
        """`score`, and whether greedy decoding would produce exactly the targets."""
        greedy = self.generate(query, len(target_ids))
        return self.score(query, target_ids), greedy == list(target_ids)

    @property
    @abstractmethod
    def state_bytes(self) -> int:
        """Bytes held for the context between two calls."""

    def trace(self) -> dict[str, Any]:
        """What the method did with the context in the last call, as JSON: for instance which tree nodes it kept."""
        return {}


@dataclass(frozen=True)
class Request:
    """A generation asked of a session: one row of a batch."""

    session: Session
    query: Query
    max_new_tokens: int
    stop: Stop | None = None


MOST = 2**31 - 1
"""Upper bound of settings that count tokens: larger ones overflow somewhere below Python."""


class MethodSettings(BaseModel):
    """Settings of a method, with their defaults and ranges. Unknown keys, NaN and infinity are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    added_later: ClassVar[tuple[str, ...]] = ()
    """Settings that stand in a cell's identity only where they differ from their default: cells recorded before they
    existed keep their ids."""

    @classmethod
    def of(cls, preset: Preset) -> Self:
        """The settings of a preset. Raises UserError that names preset, key and reason."""
        return validate(cls, preset.settings, preset.name)

    @model_serializer(mode="wrap")
    def _without_defaults_added_later(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        dumped: dict[str, Any] = dump(self)
        for name in self.added_later:
            if getattr(self, name) == type(self).model_fields[name].default:
                dumped.pop(name, None)
        return dumped


class ReplayedSettings(MethodSettings):
    """Settings of a method whose reads a GPU may replay. eager_reads: launch them kernel by kernel."""

    added_later: ClassVar[tuple[str, ...]] = ("eager_reads",)

    eager_reads: bool = Field(
        False, description="on a GPU, contexts are read kernel by kernel, not replayed as CUDA graphs"
    )


class CommonFields(TypedDict):
    """The fields that every method has; see `LongContextModel`."""

    name: str
    tokenizer: PreTrainedTokenizerBase
    device: torch.device
    dtype: torch.dtype
    max_context: int | None
    fairness: dict[str, Any]
    spread: tuple[torch.device, ...]


def common_fields(
    preset: Preset,
    runtime: Runtime,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    fairness: dict[str, Any],
    trained: bool,
    decode: str = "eager",
    longest: int | None = None,
) -> CommonFields:
    """Constructor fields that a method takes over from its preset, the runtime and the loaded base.

    fairness: entries of the method's own; kernel, decode, dtype and trained follow them. trained: whether the weights
    were trained for this method. decode: `decode_mode` of a method with CUDA graphs. longest: tokens that the method
    was made for, where the preset does not say.
    """
    kernel = model.config.get_text_config(decoder=True)._attn_implementation
    return CommonFields(
        name=preset.name,
        tokenizer=tokenizer,
        device=model.device,
        dtype=model.dtype,
        max_context=preset.max_context or longest,
        fairness={**fairness, "kernel": kernel, "decode": decode, "dtype": runtime.dtype, "trained": trained},
        spread=runtime.devices() if runtime.gpus > 1 else (),
    )


@dataclass
class LongContextModel(ABC):
    """A loaded method. Subclasses add what they need; the fields below are what the harness reads."""

    settings_model: ClassVar[type[BaseModel] | None] = None
    """Settings that the method declares (`--set`, preset), a `MethodSettings`; None: those that its preset lists."""
    remote: ClassVar[bool] = False
    """Whether a server runs the model: of its weights only the tokenizer is read here, it answers but scores nothing,
    and nobody knows its memory and arithmetic. Its `Session.score` and `cost` raise UserError."""

    spreads: ClassVar[bool] = False
    """Whether the weights may be spread over several GPUs (`Preset.gpus`)."""

    own_class: ClassVar[bool] = False
    """Whether weights without an adapter of `sharedllm-train` are read by a model class of the method's own: it merges
    no PEFT adapter, and transformers need not know their family."""

    name: str
    tokenizer: PreTrainedTokenizerBase
    device: torch.device
    """Where token ids go: with the input embedding."""
    dtype: torch.dtype
    max_context: int | None = None
    """Tokens (context + query + answer) that the method was made for; None where it has no such limit."""
    fairness: dict[str, Any] = field(default_factory=dict)
    """The fairness record: window, sinks, chunk, ratio, factor, kernel, dtype, trained or not, ..."""
    spread: tuple[torch.device, ...] = ()
    """The devices of a model that is spread over several; empty where all of it is on `device`."""

    @property
    def devices(self) -> tuple[torch.device, ...]:
        """All devices that hold a part of the model."""
        return self.spread or (self.device,)

    @classmethod
    @abstractmethod
    def load(cls, preset: Preset, runtime: Runtime) -> LongContextModel:
        """Build the method from its preset. Missing weights are a `UserError` that says how to get them."""

    @classmethod
    def settings_in_force(cls, preset: Preset) -> dict[str, Any]:
        """Settings of a preset that differ from the defaults of `settings_model`, without loading the model."""
        return preset.settings

    @classmethod
    def inspect_adapter(cls, preset: Preset, folder: Path) -> AnyAdapter | None:
        """What the adapter in a folder says of itself, where `sharedllm-train` has made it; None for other methods.

        Nothing is loaded. Raises UserError for an adapter that `load` would refuse, as far as no weight is needed to
        tell.
        """
        return None

    @classmethod  # noqa: B027  # most read any causal model
    def check_checkpoint(cls, folder: Path) -> None:
        """Raises UserError where the config in a folder is not that of a model that the `own_class` reads."""

    @classmethod
    def files(cls, preset: Preset) -> Sequence[Path]:
        """Files and folders beside weights and adapter that decide what the method computes: their bytes are part of
        a cell's id."""
        return []

    @classmethod
    def described(cls, preset: Preset) -> dict[str, Any]:
        """What the server of a `remote` model says of it: part of a cell's id in place of weights, kernel and dtype.
        Raises UserError where the server does not answer."""
        return {}

    @property
    def replays(self) -> bool:
        """Whether a read is replayed from a CUDA graph where one of its shape was read twice before. Memory of a graph
        is taken at the second read, which captures it, and not by a replay."""
        return False

    def forget(self) -> None:  # noqa: B027  # most leave nothing
        """Give back what earlier requests have left to make later ones faster: the next two capture again."""

    def unread_context(
        self, context_ids: Sequence[int], prefix_ids: Sequence[int] = (), query_ids: Sequence[int] = ()
    ) -> Sequence[int]:
        """The context of a request whose time is taken. Models that are loaded here share nothing between two calls
        of `prefill`; a server may keep what it read, so another context of the same length takes the place of this."""
        return context_ids

    @abstractmethod
    def prefill(self, context_ids: Sequence[int], prefix_ids: Sequence[int] = ()) -> Session:
        """Read a context.

        prefix_ids: what stands before the context (BOS, instruction). A method that compresses the context
        keeps the prefix in the running text; all others read prefix + context as one sequence. Either may be
        empty. Work may be deferred until a query is known.
        """

    def generate_batch(self, requests: Sequence[Request]) -> list[list[int]]:
        """New ids of each request, as `Session.generate` gives them. Sessions are of this model and may repeat.

        A method that can decode several requests in one step overrides this.
        """
        return [r.session.generate(r.query, r.max_new_tokens, r.stop) for r in requests]

    @abstractmethod
    def cost(self, context_tokens: int, query_tokens: int) -> Cost:
        """Cost of reading `context_tokens` and a query of `query_tokens`, and of each token after that."""
