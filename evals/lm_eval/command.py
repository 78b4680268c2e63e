"""The command `sharedllm-lm-eval`: the command line of lm-evaluation-harness, which then knows our models.

    sharedllm-lm-eval run --model sharedllm --model_args preset=sharedllm-135m --tasks ...

lm-eval 0.4.13 reads no entry points, hence the command; later versions find the models through the group
`lm_eval.models`.
"""

from __future__ import annotations

import sys

from lm_eval.api.registry import model_registry

from evals.errors import UserError

MODELS = {
    "sharedllm-eval": "evals.lm_eval.model:AnyPreset",
    "sharedllm": "evals.lm_eval.model:SharedLLM",
    "streamingllm": "evals.lm_eval.model:StreamingLLM",
    "yarn": "evals.lm_eval.model:YaRN",
    "cepe": "evals.lm_eval.model:CEPE",
    "longllama": "evals.lm_eval.model:LongLLaMA",
    "activation-beacon": "evals.lm_eval.model:ActivationBeacon",
    "full-attention": "evals.lm_eval.model:FullAttention",
    "truncated": "evals.lm_eval.model:Truncated",
}
"""lm-eval names; the entry points of pyproject.toml say the same."""


def register() -> None:
    """Make our models known to lm-eval. Nothing is imported until one of them is used."""
    for name, target in MODELS.items():
        if name not in model_registry:
            model_registry.register(name, target=target)


def main() -> None:
    """The command `sharedllm-lm-eval`: lm-eval's own command line, after `register`."""
    from lm_eval.__main__ import cli_evaluate

    register()
    try:
        cli_evaluate()
    except UserError as error:
        print(f"sharedllm-lm-eval: {error}", file=sys.stderr)
        sys.exit(2)
