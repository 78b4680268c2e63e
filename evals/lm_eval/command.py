"""The command `sharedllm-lm-eval`: the command line of lm-evaluation-harness, which then knows our models.

    sharedllm-lm-eval run --model sharedllm --model_args preset=sharedllm-135m --tasks ...

lm-eval 0.4.13 reads no entry points, hence the command; later versions find the models through the group
`lm_eval.models`.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from lm_eval.api.registry import model_registry

from evals import registry
from evals.errors import UserError

ALIASES = {"full": "full-attention", "streaming_llm": "streamingllm"}
"""lm-eval names that are not the method's own name with hyphens."""


def models() -> dict[str, str]:
    """lm-eval names of our models and where their classes are. pyproject.toml repeats the built-in ones."""
    names = {ALIASES.get(m, m.replace("_", "-")): f"evals.lm_eval.models:{m}" for m in registry.methods()}
    return {"sharedllm-eval": "evals.lm_eval.model:AnyPreset", **names}


def register() -> None:
    """Make our models known to lm-eval. Nothing is imported until one of them is used."""
    for name, target in models().items():
        if name not in model_registry:
            model_registry.register(name, target=target)


def main() -> None:
    """The command `sharedllm-lm-eval`: lm-eval's own command line, after `register`."""
    from lm_eval._cli.harness import HarnessCLI
    from lm_eval.utils import setup_logging

    register()
    setup_logging()
    cli = HarnessCLI()
    try:
        chosen = cli.parse_args()
        _check(chosen)
        cli.execute(chosen)
    except UserError as error:
        print(f"sharedllm-lm-eval: {error}", file=sys.stderr)
        sys.exit(2)
    except ConnectionError as error:  # what `datasets` raises where the hub cannot be reached
        reason = " ".join(str(error).split())
        print(
            f"sharedllm-lm-eval: the data of a task could not be fetched ({reason}): run it once online, or let "
            "HF_HOME name a cache that holds the data.",
            file=sys.stderr,
        )
        sys.exit(2)
    except ValueError as error:
        if str(error).startswith("Invalid JSON"):  # of --model_args {...}, read by lm-eval
            print(f"sharedllm-lm-eval: {error}", file=sys.stderr)
            sys.exit(2)
        if not str(error).startswith("Tasks not found"):  # lm-eval's only word for it
            raise
        print(f"sharedllm-lm-eval: {error}: `sharedllm-lm-eval ls tasks` shows all.", file=sys.stderr)
        sys.exit(2)


def _check(chosen: argparse.Namespace) -> None:
    """Check the arguments of one of our models before lm-eval indexes its tasks, which takes ten seconds."""
    target = models().get(str(getattr(chosen, "model", None)))
    if target is None:
        return
    from evals.lm_eval import arguments

    method = target.partition(":")[2]
    given: dict[str, Any] = {**(chosen.model_args or {})}
    for option in ("device", "batch_size", "max_batch_size"):
        if (value := getattr(chosen, option, None)) is not None:
            given.setdefault(option, value)
    arguments.check(None if method == "AnyPreset" else method, **given)
