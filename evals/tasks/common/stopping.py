"""Where an answer ends: one rule for every task and for the lm-eval plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evals.methods.base import Stop
from evals.tasks.common.chat import end_of_turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def stop_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Every token that ends an answer; empty where the tokenizer and its checkpoint name none.

    The tokenizer's EOS, all of the checkpoint's `generation_config.eos_token_id` (which loading puts on the tokenizer
    as `generation_stop_ids`), and what the chat template writes after a message of the assistant. Chat models often
    end a turn with a token that is not their EOS (Gemma, Phi-3, Llama 3).
    """
    found = {tokenizer.eos_token_id, end_of_turn(tokenizer), *getattr(tokenizer, "generation_stop_ids", ())}
    return frozenset(token for token in found if token is not None)


def stop_at_end(tokenizer: PreTrainedTokenizerBase) -> Stop:
    """Stop where an answer ends, and nowhere else."""
    return Stop(ids=stop_ids(tokenizer))
