"""The one interface that a trained method implements.

The trainer reads text in windows (`Batch`: chunks of context, then running text), the same tokens in the same order for
every method, and knows nothing else about one. A method brings its model, says which parameters are trained, and makes
a loss of a window.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Self, cast

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn
from transformers import PreTrainedModel

from sharedllm.adapter_files import check_files, check_fixed
from sharedllm.nn.layers import Head, decoder_of, output_head
from sharedllm.trained_adapter import (
    BaseIdentity,
    TrainedRecord,
    lay_over,
    read_for,
    read_of,
    read_trained,
    write_trained,
)
from sharedllm.training.batches import Batch
from sharedllm.training.loss import next_token_loss
from sharedllm.training.methods.card import method_card
from sharedllm.training.methods.groups import Groups, select
from sharedllm.validation import validate


class Options(BaseModel):
    """Options of a method (`--set method={...}`). chunk_size: tokens of a chunk of the windows that are read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    chunk_size: Annotated[int, Field(ge=2, le=2**20)] = 1024


class TrainedMethod(ABC):
    """A method on a base, ready to be trained.

    model: holds everything, base included; what it computes is for `hidden` and `loss` to say.
    """

    name: ClassVar[str]
    """What `--method` and adapters call it."""
    presets: ClassVar[tuple[str, str]]
    """Package and folder in it of the YAML files that `--preset` names."""
    preset: ClassVar[str]
    """The preset that is used where none is named."""
    modes: ClassVar[tuple[str, ...]] = ("lm",)
    """Modes of `TrainSettings` that it can be trained in."""

    model: PreTrainedModel

    @classmethod
    @abstractmethod
    def check(cls, options: Mapping[str, object]) -> None:
        """Raise UserError for options of the wrong name, type or range, before anything is loaded."""

    @classmethod
    @abstractmethod
    def build(cls, base: PreTrainedModel, options: Mapping[str, object], init: Path | None) -> Self:
        """The method over a base; parameters of its own start as the method says, or from the adapter in `init`.

        torch's generator is seeded. Raises UserError for a base of a family that the method cannot read, for options
        that do not fit the base and for an adapter of another method or base.
        """

    @abstractmethod
    def trainable(self, groups: Sequence[str]) -> Groups:
        """Freeze everything but the named groups (`select`); parameters that get `lr`, and those that get `lr_base`."""

    @property
    @abstractmethod
    def chunk_size(self) -> int:
        """Tokens of a chunk of the windows that are read."""

    @abstractmethod
    def hidden(self, batch: Batch) -> torch.Tensor:
        """Final states (B, S, H) of the running text after its context, which may be None."""

    @abstractmethod
    def save(self, folder: Path, base_name: str, shard_bytes: int) -> None:
        """Write the adapter. base_name: what people call the base."""

    @abstractmethod
    def card(self, folder: Path, name: str, data: str, quality: Sequence[Mapping[str, object]]) -> str:
        """Markdown that describes the adapter in `folder`; see `sharedllm.model_card`."""

    def loss(self, batch: Batch, compiled: bool) -> torch.Tensor:
        """Mean nats per target: the running text's labels. A method may learn from other tokens of the window too."""
        return next_token_loss(self.hidden(batch), self.head.weight, batch.labels, batch.weights, batch.rows, compiled)

    @property
    def head(self) -> Head:
        """From final states to logits."""
        return output_head(self.model)

    def check_window(self, what: str, chunks: int, running: int) -> None:  # noqa: B027 - most read any length
        """Raise UserError for windows of so many chunks and running tokens that the method cannot learn from.

        what: the setting, `chunks` or `needles`.
        """

    def tokens(self, batch: Batch) -> int:
        """Tokens of text that the method reads of a batch, context included."""
        return batch.tokens

    def checkpoint_gradients(self) -> None:
        """Recompute activations in the backward pass."""
        self.model.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[no-untyped-call]

    @abstractmethod
    def compile(self) -> None:
        """torch.compile what runs in every step."""


class AdaptedMethod(TrainedMethod):
    """A method whose adapter is what it has trained and its options, with a record of its own (`trained_adapter`)."""

    options_model: ClassVar[type[Options]]
    fixed: ClassVar[tuple[str, ...]] = ()
    """Options that an adapter has for good: they say which parameters there are, how those start that it does not hold,
    or what its own compute. The others say how texts are cut and drawn, which a later stage of training may change."""
    text: ClassVar[str]
    """A sentence for the model card: what the method does, and its source."""

    def __init__(self, model: PreTrainedModel, options: Options, base: BaseIdentity, init: Path | None) -> None:
        """base: taken before the model was made of it. init: the adapter to start from, if any."""
        self.model, self.options, self.base = model, options, base
        self.trained = [] if init is None else read_trained(init).tensors
        if init is not None:
            lay_over(model, init, self.trained)

    @classmethod
    def check(cls, options: Mapping[str, object]) -> None:
        cls.chosen(options)

    @classmethod
    def chosen(
        cls, options: Mapping[str, object], base: PreTrainedModel | None = None, init: Path | None = None
    ) -> Options:
        """The options, on top of those of an adapter over `base`. Raises UserError, for another of `fixed` too."""
        what = f"the method {cls.name}"
        if init is None or base is None:
            return validate(cls.options_model, options, what)
        stored = read_for(cls.name, init, base).options
        own = validate(cls.options_model, stored, f"the adapter in {init}")
        chosen = validate(cls.options_model, {**stored, **options}, what)
        check_fixed(init, dict(own), dict(chosen), cls.fixed)
        return chosen

    @classmethod
    def inspect(cls, folder: Path) -> TrainedRecord:
        """The record of an adapter that `build` would take over its base, as far as no weight says otherwise.

        Raises UserError.
        """
        record = read_of(cls.name, folder)
        validate(cls.options_model, record.options, f"the adapter in {folder}")
        check_files(folder, record.tensors)
        return record

    @abstractmethod
    def groups(self) -> Mapping[str, Callable[[str], bool]]:
        """By name of a group, which parameters it has; `trainable` gives all of them the learning rate `lr`."""

    def trainable(self, groups: Sequence[str]) -> Groups:
        return select(self.model, groups, self.groups())

    @property
    def chunk_size(self) -> int:
        return self.options.chunk_size

    def save(self, folder: Path, base_name: str, shard_bytes: int) -> None:
        parameters = self.model.named_parameters()
        trained = {name: p for name, p in parameters if p.requires_grad or name in self.trained}
        options = self.options.model_dump(mode="json")
        write_trained(folder, self.name, self.base, base_name, options, trained, shard_bytes)

    def card(self, folder: Path, name: str, data: str, quality: Sequence[Mapping[str, object]]) -> str:
        return method_card(read_trained(folder), name, self.text, data, quality)

    def compile(self) -> None:
        for layer in self.layers():
            layer.compile()

    def layers(self) -> Iterable[nn.Module]:
        """Modules that are called once for every window, as `compile` wants them."""
        return [cast(nn.Module, layer) for layer in decoder_of(self.model).layers]
