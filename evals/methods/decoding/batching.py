"""Greedy decoding of several dense requests at once.

All requests take each step together, because a step of one request leaves most of a GPU idle. The tokens are those of
decoding one request at a time: the same sums in another order, exact in float32 up to ties.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

import torch
from transformers import PreTrainedModel

from evals.methods.base import Request
from evals.methods.decoding import session as decoding
from evals.methods.decoding.batch_answers import Answers
from evals.methods.decoding.batch_step import replayed_choices
from evals.methods.decoding.padded_batch import padded_choices
from evals.methods.decoding.static_decoder import supports_static_decoding
from sharedllm.nn.base_config import windows


@torch.inference_mode()
def generate_together(model: PreTrainedModel, requests: Sequence[Request]) -> list[list[int]]:
    """New ids of each request. The sessions, all dense sessions of `model`, may repeat."""
    answers = Answers(requests)
    with closing((replayed_choices if _replays(model) else padded_choices)(model, requests)) as steps:
        while answers.running:
            answers.take(next(steps))
    return answers.new


def _replays(model: PreTrainedModel) -> bool:
    """Whether batches are decoded with static steps."""
    everywhere = set(windows(model.config)) == {None}
    return everywhere and model.device.type in decoding.GRAPH_DEVICES and supports_static_decoding(model)
