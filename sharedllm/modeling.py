"""SharedLLM: the upper model, which reads running text and, in some of its layers, the compressed context."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, cast

import torch
import torch.nn.functional as F
from huggingface_hub import CommitInfo
from torch import nn
from transformers import AutoModelForCausalLM, DynamicCache, GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache

from sharedllm.adapter_files import BASE, read_record, read_tensors, settings_over
from sharedllm.base_identity import check_base
from sharedllm.compressor import lower_layer
from sharedllm.configuration import SharedLLMConfig
from sharedllm.context import CompressedContext
from sharedllm.cross_attention import CrossAttention
from sharedllm.errors import UserError
from sharedllm.generation import Generation
from sharedllm.inputs import ContextInputs
from sharedllm.joint_attention import JointAttention
from sharedllm.nn.layers import Rotation, decoder_of, output_head, scaled_embeddings
from sharedllm.nn.masks import Masks
from sharedllm.outputs import Decoded, SharedLLMOutput
from sharedllm.reading import Reading
from sharedllm.search import Question, ask
from sharedllm.settings import check_settings
from sharedllm.sharing import push_adapter
from sharedllm.sources import FOR_BASE, FROM_HUB, OF_AUTO, adapter_folder, base_source, load_base
from sharedllm.upper_layer import attend_to_text, read_context, upper_layer
from sharedllm.whole_tree import WholeTrees

P = ParamSpec("P")


class SharedLLMForCausalLM(Reading, Generation, PreTrainedModel, GenerationMixin):  # type: ignore[no-untyped-call]  # transformers' subclass hook
    """The base LLM with a lower model made of its own bottom layers and cross-attention in M upper layers.

    `base` is the whole base model, `cross_attention` or `joint_attention` (config.attention) holds the new parameters,
    `lower` a trainable copy of the bottom layers where config.own_lower asks for one; otherwise the lower model IS the
    base's bottom layers.
    `adapter_base` is the name of the base that an adapter gave. With `offload_context` compressed contexts stay in host
    memory, and each layer that reads one brings its part to its device, for every token anew: the numbers are the same.
    """

    config: SharedLLMConfig
    adapter_base: str | None = None
    config_class = SharedLLMConfig
    base_model_prefix = "base"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _no_split_modules = [  # noqa: RUF012
        "CrossAttention",
        "JointAttention",
        "LlamaDecoderLayer",
        "MistralDecoderLayer",
        "Qwen2DecoderLayer",
        "Qwen3DecoderLayer",
        "Qwen3MoeDecoderLayer",
        "Phi3DecoderLayer",
        "SmolLM3DecoderLayer",
        "GraniteDecoderLayer",
        "Olmo2DecoderLayer",
        "Gemma3DecoderLayer",
    ]

    def __init__(self, config: SharedLLMConfig, base: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        if base is None:  # transformers initialises or loads it, rotary tables included
            base = cast(PreTrainedModel, AutoModelForCausalLM.from_config(config.base_config))  # type: ignore[no-untyped-call]
        else:
            for module in base.modules():  # weights that are there must not be initialised again
                module._is_hf_initialized = True  # type: ignore[assignment]
        self.base = base
        layers = decoder_of(base).layers
        reading, joint = [layers[i] for i in config.injection_layers], config.attention == "joint"
        self.cross_attention = nn.ModuleList([] if joint else map(CrossAttention, reading))
        self.joint_attention = nn.ModuleList([JointAttention(x, config.rank) for x in reading] if joint else [])
        if config.own_lower:
            self.lower = nn.ModuleList(cast(nn.Module, copy.deepcopy(layer)) for layer in layers[: config.lower_layers])
        self.gradient_checkpointing = False
        self._lower_layer, self._upper_layer = lower_layer, upper_layer
        self._attend_to_text, self._read_context = attend_to_text, read_context
        self.post_init()  # type: ignore[no-untyped-call]  # untyped in transformers

    @classmethod
    def from_base(
        cls, base: PreTrainedModel | str, config: SharedLLMConfig | None = None, **settings: Any
    ) -> SharedLLMForCausalLM:
        """SharedLLM around a base model whose tensors it shares. Cross-attention starts as the identity.

        base: a loaded causal LM, or the name or folder of one. settings: fields of `MethodFields`, instead of or on
        top of `config`, whose base_config is replaced by that of `base`. Raises UserError for one that does not fit.
        """
        if isinstance(base, str):
            base = load_base(base)
        check_settings(settings)
        values = {} if config is None else config.method_settings()
        config = SharedLLMConfig(base_config=base.config, **{**values, **settings})
        model = cls(config, base)
        model.cross_attention.to(dtype=base.dtype)  # each is where its layer is
        model.joint_attention.to(device=base.device, dtype=base.dtype)
        if (places := getattr(base, "hf_device_map", None)) is not None:
            found = {f"{BASE}{name}".rstrip("."): place for name, place in places.items()}
            model.hf_device_map = found  # type: ignore[assignment]  # as accelerate sets it
        if base.generation_config is not None:
            model.generation_config = base.generation_config
        model.train(base.training)
        return model

    @classmethod
    def from_adapter(
        cls, folder: str | Path, base: PreTrainedModel | str | None = None, **settings: Any
    ) -> SharedLLMForCausalLM:
        """The model of an adapter laid over its base, in evaluation mode; only what the adapter holds has gradients.

        base: the loaded base, its name or its folder; by default the name that the adapter gives. settings: fields of
        `MethodFields` to change (policy, ratios, ...), all but those that the weights depend on (`FIXED`); and of
        `FOR_BASE` how a base that is named is loaded.

        Raises UserError for another value of those, and where the base is not the one that the adapter was trained on,
        nor a copy of it in another precision (`check_base`), or files or tensors do not fit.
        """
        folder = Path(folder)
        record = read_record(folder)
        loading = {name: settings.pop(name) for name in FOR_BASE if name in settings}
        check_settings(settings)
        chosen = settings_over(folder, record, settings)
        if not isinstance(base, PreTrainedModel):
            source, revision = base_source(folder, record) if base is None else (base, None)
            base = load_base(source, revision, **loading)
        elif late := [name for name in loading if name not in FROM_HUB]:
            raise UserError(f"The base is loaded already: {', '.join(late)} is for a base that is named.")
        trained = record.trained_base_parameters
        brought = [name.removeprefix(BASE) for name in trained]
        check_base(base, folder, record.base, record.base_fingerprint, record.base_values, brought)
        model = cls.from_base(base, **chosen)
        weights = read_tensors(folder, dict(model.named_parameters()), trained)
        model.load_state_dict(weights, strict=False)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in weights)
        model.train(False)
        model.adapter_base = record.base
        return model

    def push_to_hub(self, repo_id: str, **card: Any) -> CommitInfo:  # type: ignore[override]  # an adapter, not the base
        """Share what was trained, an adapter with a model card, on the hub: `push_adapter`, which names the options."""
        return push_adapter(self, repo_id, **card)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """A full model as in transformers, or an adapter over its base (`from_adapter`).

        An adapter is a folder, the name of one in this package (`smollm2-135m`) or a repository of the hub; `base=`
        may be its base. The Auto classes of transformers come here, too.
        """
        name, from_hub = pretrained_model_name_or_path, {n: kwargs[n] for n in FROM_HUB if n in kwargs}
        folder = adapter_folder(name, from_hub)
        if folder is None:
            return super().from_pretrained(name, *args, **kwargs)
        config = kwargs.get("config")  # the Auto classes have put settings into it
        settings = config.method_settings() if isinstance(config, SharedLLMConfig) else {}
        given = {n: v for n, v in kwargs.items() if n not in OF_AUTO}
        return cls.from_adapter(folder, *args, **{**settings, **given})

    def compile_layers(self, **options: Any) -> None:
        """torch.compile the layers, one graph for all of a kind; inputs should keep their shapes."""
        self._lower_layer = torch.compile(lower_layer, **options)
        self._upper_layer = torch.compile(upper_layer, **options)
        self._attend_to_text = torch.compile(attend_to_text, **options)
        self._read_context = torch.compile(read_context, **options)

    # --- transformers' view -------------------------------------------------------------------------------

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, CrossAttention):
            module.reset_output()
        elif isinstance(module, JointAttention):
            module.reset()

    def get_input_embeddings(self) -> nn.Module:
        return self.base.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.base.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return cast(nn.Module, self.base.get_output_embeddings())  # type: ignore[no-untyped-call]

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.base.set_output_embeddings(new_embeddings)  # type: ignore[no-untyped-call]

    # --- the upper model; the lower one: `Reading` ----------------------------------------------------------

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        context_ids: torch.Tensor | None = None,
        query_length: int | torch.Tensor | None = None,
        query_start: int | torch.Tensor = 0,
        chunk_question: torch.Tensor | None = None,
        num_chunks: torch.Tensor | None = None,
        chunk_index: torch.Tensor | None = None,
        context: CompressedContext | None = None,
        trees: WholeTrees | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Any,
    ) -> SharedLLMOutput:
        """Logits of the running text `input_ids` (B, S) given a context. The other inputs: see `ContextInputs`.

        labels: shifted inside, -100 is ignored. logits_to_keep: as in transformers. The cache that comes back holds
        the running text only, the output's `context` the rest.
        """
        hidden, cache, context = self.decode(
            ContextInputs(
                input_ids=input_ids,
                context_ids=context_ids,
                query_length=query_length,
                query_start=query_start,
                chunk_question=chunk_question,
                num_chunks=num_chunks,
                chunk_index=chunk_index,
                context=context,
                trees=trees,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                inputs_embeds=inputs_embeds,
                use_cache=use_cache,
            )
        )
        rows = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = output_head(self.base)(hidden[:, rows])
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())
        return SharedLLMOutput(loss=loss, logits=logits, past_key_values=cache, context=context)

    def decode(self, inputs: ContextInputs) -> Decoded:
        """`forward` up to the final hidden states, for losses that never hold all logits.

        Raises UserError for inputs without running text, chunks of another size, and a static cache.
        """
        hidden = self._embedded(inputs)
        length = hidden.shape[1]
        cache = inputs.past_key_values
        if cache is not None and cache.is_compileable:
            raise UserError(
                "A static cache returns the room after its tokens as well, which would be read as text: use a dynamic "
                "one, without cache_implementation."
            )
        if cache is None and (not self.training if inputs.use_cache is None else inputs.use_cache):
            cache = DynamicCache(config=self.config.base_config)
        past = cache.get_seq_length() if cache is not None else 0
        positions = inputs.position_ids
        if positions is None:
            positions = torch.arange(past, past + length, device=hidden.device)[None]
        if self.joint_attention and (inputs.context is not None or inputs.has_chunks):
            positions = positions + self.config.chunk_size  # the entries' positions come first
        masks = Masks(self.config.base_config, inputs.attention_mask, cache, length)
        rope = self._rope(hidden, positions)

        context = inputs.context
        searches = inputs.query_length is not None and self.config.policy != "right"
        if context is None and inputs.has_chunks and not searches:
            context = self._compress(inputs, None)
        readers = dict(zip(self.config.injection_layers, enumerate(self._readers), strict=True))
        decoder = decoder_of(self.base)
        for i, layer in enumerate(decoder.layers):
            rotation = rope.of(layer.self_attn)
            asks = i == 0 and context is None and inputs.has_chunks
            number, reader = readers.get(i, (0, None))
            if asks and isinstance(reader, JointAttention):  # the layer waits for the entries that the search chooses
                context = self._compress(inputs, self._question(inputs, self._asking(inputs, hidden, rotation)))
                asks = False
            read = context.layer(number) if reader is not None and context is not None else None
            joint = isinstance(reader, JointAttention) and read is not None
            mask = masks.boolean(i, hidden) if joint else masks(i, hidden)
            if asks:  # the search compares with what the first self-attention makes of the question
                hidden = self._call(self._attend_to_text, layer, hidden, mask, rotation, cache)
                context = self._compress(inputs, self._question(inputs, hidden))
                cross = reader if isinstance(reader, CrossAttention) else None
                read = context.layer(number) if cross is not None else None
                hidden = self._call(self._read_context, layer, cross, hidden, read)
            else:
                hidden = self._call(self._upper_layer, layer, hidden, mask, rotation, cache, reader, read)
            del read  # what was brought from the host makes room for the next layer's
        return Decoded(decoder.norm(hidden), cache, context)

    @property
    def _readers(self) -> list[CrossAttention | JointAttention]:
        """What reads the context, one for each injection layer."""
        return [cast(CrossAttention | JointAttention, x) for x in (*self.cross_attention, *self.joint_attention)]

    @torch.no_grad()
    def _asking(self, inputs: ContextInputs, hidden: torch.Tensor, rotation: Rotation | None) -> torch.Tensor:
        """Embeddings (B, S, H) after the first layer's self-attention to this call's text alone."""
        layer, padding = decoder_of(self.base).layers[0], inputs.attention_mask
        padding = None if padding is None else padding[:, -hidden.shape[1] :]
        masks = Masks(self.config.base_config, padding, None, hidden.shape[1])
        return self._attend_to_text(layer, hidden, masks(0, hidden), rotation, None)

    def _embedded(self, inputs: ContextInputs) -> torch.Tensor:
        """(B, S, H). Raises UserError for inputs without running text."""
        if inputs.inputs_embeds is not None:
            return scaled_embeddings(decoder_of(self.base), inputs.inputs_embeds)
        if inputs.input_ids is None:
            raise ValueError("There is no running text: give input_ids or inputs_embeds.")
        return self._embed(inputs.input_ids)

    def _question(self, inputs: ContextInputs, hidden: torch.Tensor) -> Question:
        """What the search compares with, from the states after the first layer's self-attention (B, S, H)."""
        assert inputs.query_length is not None
        assert inputs.context_ids is not None
        layer, chunks = decoder_of(self.base).layers[0], inputs.context_ids.shape[1]
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.config.own_lower):
            span = inputs.query_start, inputs.query_length
            return ask(layer, hidden, *span, inputs.chunk_question, chunks, inputs.query_limit)

    def _compress(self, inputs: ContextInputs, question: Question | None) -> CompressedContext:
        assert inputs.context_ids is not None
        return self.compress(inputs.context_ids, inputs.num_chunks, question, inputs.chunk_index, inputs.trees)

    def _call(self, function: Callable[P, torch.Tensor], *args: P.args, **kwargs: P.kwargs) -> torch.Tensor:
        """Run a piece of a layer, recomputed in the backward pass under gradient checkpointing."""
        if self.gradient_checkpointing and self.training:
            return cast(torch.Tensor, self._gradient_checkpointing_func(function, *args))
        return function(*args, **kwargs)


AutoModelForCausalLM.register(SharedLLMConfig, SharedLLMForCausalLM, exist_ok=True)
