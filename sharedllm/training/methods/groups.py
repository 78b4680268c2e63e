"""Groups of parameters that a training run names in `trainable`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from torch import nn

from sharedllm.errors import UserError

Groups = dict[str, list[nn.Parameter]]
"""Parameters by their learning rate: `lr` and `lr_base`."""


def select(
    model: nn.Module,
    chosen: Sequence[str],
    known: Mapping[str, Callable[[str], bool]],
    of_base: Collection[str] = (),
    among: str = "",
) -> Groups:
    """Freeze everything but the chosen groups.

    known: by group, whether a parameter of this name belongs to it. of_base: groups that get `lr_base`. among: what a
    message adds about the model. Raises UserError for an unknown group and for one without parameters.
    """
    names = [name for name, _ in model.named_parameters()]
    for group in chosen:
        if group not in known:
            raise UserError(f"'{group}' cannot be trained: choose from {', '.join(known)}.")
        if not any(map(known[group], names)):
            raise UserError(f"There is nothing to train in '{group}'{among}: leave it out.")
    found: Groups = {"lr": [], "lr_base": []}
    for name, parameter in model.named_parameters():
        own = next((group for group in chosen if known[group](name)), None)
        parameter.requires_grad_(own is not None)
        if own is not None:
            found["lr_base" if own in of_base else "lr"].append(parameter)
    return found
