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
from evals.errors import UserError, unknown
from sharedllm.errors import reason

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

    from evals.lm_eval.data import named_data

    register()
    setup_logging()
    cli = HarnessCLI()
    try:
        chosen = cli.parse_args()
        _check(chosen)
        with named_data():
            cli.execute(chosen)
    except UserError as error:
        print(f"sharedllm-lm-eval: {error}", file=sys.stderr)
        sys.exit(2)
    except ConnectionError as error:  # of a metric, or of a model that is not ours
        print(
            f"sharedllm-lm-eval: the hub could not be reached ({reason(error)}): run it once online, or let HF_HOME "
            "name a cache that holds what it needs.",
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
    name = getattr(chosen, "model", None)
    if name is None:
        return
    target = models().get(str(name))
    if target is None:
        _check_name(str(name))
        return
    from evals.lm_eval import arguments

    method = target.partition(":")[2]
    given: dict[str, Any] = {**(chosen.model_args or {})}
    for option in ("device", "batch_size", "max_batch_size"):
        if (value := getattr(chosen, option, None)) is not None:
            given.setdefault(option, value)
    arguments.check(None if method == "AnyPreset" else method, **given)


def _check_name(name: str) -> None:
    """Raises UserError for a model that lm-eval does not have; a preset of ours has the right spelling in it."""
    import lm_eval.models  # noqa: F401  # registers lm-eval's own, by name

    from evals.methods import presets

    if name in model_registry:
        return
    if name in presets.names() or name.endswith((".yaml", ".yml")):
        raise UserError(
            f"{name} is a preset, not a model of lm-eval: write --model sharedllm-eval --model_args preset={name}."
        )
    raise unknown("model of lm-eval", name, model_registry.keys())
