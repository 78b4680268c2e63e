"""Generation over a compressed context: answers to questions, and what each step hands to the next."""

from __future__ import annotations

from itertools import chain
from typing import Any, cast

import torch
from transformers import GenerationMixin, PreTrainedTokenizerBase
from transformers.utils.generic import ModelOutput

from sharedllm.configuration import SharedLLMConfig
from sharedllm.context import CompressedContext
from sharedllm.errors import UserError
from sharedllm.inputs import RAW, ids_tensor
from sharedllm.prompt import TEMPLATE, ask_about


class Generation(GenerationMixin):
    """What transformers' generation needs to know of a context that is compressed once and read by every step."""

    config: SharedLLMConfig
    device: torch.device

    def answer(
        self,
        tokenizer: PreTrainedTokenizerBase,
        context: str,
        question: str,
        max_new_tokens: int = 64,
        *,
        template: str = TEMPLATE,
        answer_start: str = "",
        **generation: Any,
    ) -> str:
        """The answer to a question about a text, greedy unless `generation` says otherwise (as `generate` takes it).

        Whole chunks of the text are compressed, searched for the question alone; the rest is running text.
        template: how the question follows the text. answer_start: words that the answer goes on from; the search
        does not see them. Raises UserError as `ask_about`.
        """
        prompt = ask_about(tokenizer, context, question, self.config.chunk_size, template, answer_start)
        chunks = ids_tensor([*chain.from_iterable(prompt.chunks)], self.device)
        running = ids_tensor(prompt.running, self.device)
        start, end = prompt.question
        new: torch.Tensor = self.generate(  # type: ignore[assignment,misc]  # a mixin that is not typed
            running,
            attention_mask=torch.ones_like(running),
            context_ids=chunks.view(1, -1, self.config.chunk_size),
            query_start=start,
            query_length=end - start,
            max_new_tokens=max_new_tokens,
            **{"do_sample": False, "tokenizer": tokenizer, **generation},
        )
        return cast(str, tokenizer.decode(new[0, running.shape[1] :], skip_special_tokens=True))

    def prepare_inputs_for_generation(self, input_ids: Any, *args: Any, **kwargs: Any) -> dict[str, object]:
        """transformers' inputs; after the first step the compressed context replaces the raw one."""
        inputs: dict[str, object] = super().prepare_inputs_for_generation(input_ids, *args, **kwargs)  # type: ignore[misc]
        if inputs.get("context") is not None:
            for name in RAW:
                inputs.pop(name, None)
        return inputs

    def _expand_inputs_for_generation(  # type: ignore[override]  # the model's own inputs are among kwargs
        self, expand_size: int = 1, *, context: CompressedContext | None = None, **kwargs: object
    ) -> tuple[torch.Tensor, dict[str, object]]:
        """transformers' copies of every row for beams and samples, of a context that was compressed before too.

        Raises UserError for copies of whole trees.
        """
        if expand_size > 1 and kwargs.get("trees") is not None:
            raise UserError("Trees that were read before give one answer a row: leave them out for beams and samples.")
        if context is not None:
            kwargs["context"] = context.repeat(expand_size) if expand_size > 1 else context
        return super()._expand_inputs_for_generation(expand_size=expand_size, **kwargs)  # type: ignore[misc,arg-type]

    def _update_model_kwargs_for_generation(
        self, outputs: ModelOutput, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        model_kwargs = super()._update_model_kwargs_for_generation(outputs, model_kwargs, *args, **kwargs)
        if (context := getattr(outputs, "context", None)) is not None:
            model_kwargs["context"] = context
        return model_kwargs
