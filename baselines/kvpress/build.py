"""A press from its settings."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from baselines.kvpress.library import Press, library, press_classes
from baselines.kvpress.names import MASKING, parse
from baselines.kvpress.settings import KVPressSettings
from evals.errors import UnfitError, unknown
from evals.methods.boundary import reason

WITHOUT_RATIO = ("dms", "perlayercompression")
"""Wrappers that say in another way how much goes, whatever the ratio of the press that they wrap."""
REQUIRED = {"dms": "threshold", "expectedattentionstats": "stats_folder"}
"""Arguments that kvpress has a default for which does not work here: None, and a download by the base's name."""


@dataclass(frozen=True)
class Recipe:
    """What presses are made from: a fresh one for each context, since many keep what they saw.

    arguments: of the constructors, as they go into the fairness record. masks: whether entries are hidden instead of
    dropped. rerotates: whether what stays is moved together, so that positions go on from there. weights: whether
    attention weights are needed, which only the eager kernel returns.
    """

    settings: KVPressSettings
    arguments: dict[str, object] = field(init=False)

    def __post_init__(self) -> None:
        """Raises UserError for a press that is not made so: better at load than at the first context."""
        used: dict[str, object] = {}
        for nest in parse(self.settings.press):
            _make(nest, self.settings, used)
        if unused := self.settings.options.keys() - used.keys():
            known = [name for nest in parse(self.settings.press) for name in _options(nest)]
            raise unknown(f"setting of the press {self.settings.press}", min(unused), known)
        if self.settings.given_ratio is not None and "ratio" not in used:
            raise UnfitError(f"The press {self.settings.press} has no ratio: see --list --model for its own settings.")
        object.__setattr__(self, "arguments", {"press": self.settings.press, **used})

    @property
    def masks(self) -> bool:
        return parse(self.settings.press)[0][0] in MASKING

    @property
    def rerotates(self) -> bool:
        return parse(self.settings.press)[0][0] == "keyrerotation"

    @property
    def weights(self) -> bool:
        return any("observedattention" in nest for nest in parse(self.settings.press))

    def press(self) -> Press:
        """A new press."""
        presses = [_make(nest, self.settings, {}) for nest in parse(self.settings.press)]
        return presses[0] if len(presses) == 1 else cast(Press, library().ComposedPress(presses))


def _make(nest: list[str], settings: KVPressSettings, used: dict[str, object], ratio: bool = True) -> Press:
    """The press of a nest of names; what it takes of the settings is added to `used`."""
    name, *inner = nest
    cls = press_classes()[name]
    parameters = inspect.signature(cls).parameters
    given = {key: value for key, value in settings.options.items() if key in parameters}
    used.update(given)
    if "compression_ratio" in parameters and ratio:
        used["ratio"] = settings.ratio
        given["compression_ratio"] = settings.ratio
    if inner and "press" not in parameters:
        raise UnfitError(f"The press {name} wraps no other: write {name} alone, or a chain with +.")
    if not inner and "press" in parameters:
        raise UnfitError(f"The press {name} wraps another one: write {name}:snapkv, for instance.")
    if inner:
        given["press"] = _make(inner, settings, used, ratio and name not in WITHOUT_RATIO)
    needed = [key for key, parameter in parameters.items() if parameter.default is parameter.empty]
    if missing := [key for key in (*needed, *filter(None, [REQUIRED.get(name)])) if key not in given]:
        raise UnfitError(f"The press {name} needs --set {missing[0]}=...")
    try:
        return cast("Callable[..., Press]", cls)(**given)
    except (AssertionError, ValueError, TypeError) as error:
        raise UnfitError(f"The press {name} cannot be made of these settings: {reason(error)}.") from error


def _options(nest: list[str]) -> list[str]:
    """The settings that the presses of a nest have."""
    known = KVPressSettings.model_fields
    return [key for name in nest for key in inspect.signature(press_classes()[name]).parameters if key in known]
