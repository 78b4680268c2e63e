"""Was it the context? The same questions with another sample's context, and with none (`--context own,other,none`).

Every score of a generation task has a part that needs no context: knowledge, guessing, what the question gives away.
The gain, own minus other, is the part that the context is responsible for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer

from evals.errors import UserError
from evals.records.models import Control
from evals.tasks.base import Instance, TaskSettings
from evals.tasks.common.prompt import Audit, Prompt
from evals.tasks.settings.commas import Commas

if TYPE_CHECKING:
    from evals.tasks.base import Task

CONTROLS: tuple[Control, ...] = ("own", "other", "none")


class ContextSettings(TaskSettings):
    """Whether the questions are asked with other contexts, too."""

    context: Annotated[tuple[Control, ...], Commas] = Field(
        ("own",), description="with whose contexts each question is asked: its own, that of an other sample, none"
    )

    added_later: ClassVar[tuple[str, ...]] = ("context",)
    """Settings that stand in a cell's identity only where they differ from their default: cells recorded before they
    existed keep their ids."""

    @field_validator("context")
    @classmethod
    def _own_first(cls, value: tuple[Control, ...]) -> tuple[Control, ...]:
        if "own" not in value:
            raise ValueError("the controls are compared with `own`: name it too")
        return tuple(control for control in CONTROLS if control in value)

    @model_serializer(mode="wrap")
    def _dump(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        dumped: dict[str, Any] = handler(self)
        for name in self.added_later:
            if getattr(self, name) == type(self).model_fields[name].get_default(call_default_factory=True):
                dumped.pop(name, None)
        return dumped


def controls_of(settings: TaskSettings) -> tuple[Control, ...]:
    """The controls that the settings of a generation task ask for; a task without the setting has its own context."""
    return settings.context if isinstance(settings, ContextSettings) else ("own",)


def readings(settings: TaskSettings) -> int:
    """Contexts that are read for one sample."""
    return sum(control != "none" for control in controls_of(settings))


def one_document(text: str) -> frozenset[str]:
    """`Instance.holds` of a context that is one document, before any truncation."""
    return frozenset([hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]])


def check_controls(task: Task, samples: int | None) -> None:
    """Raises UserError where `--context` asks for what no sample of a task can have, as far as their number tells.

    samples: of a cell, at most; None where only the data know.
    """
    controls = controls_of(task.settings)
    if controls != ("own",) and task.inseparable:
        raise UserError(f"{task.inseparable}: ask it without --context.")
    contexts = None if samples is None else task.contexts(samples)
    if "other" in controls and contexts is not None and contexts < 2:
        raise UserError(_all_the_same(task))


def _all_the_same(task: Task) -> str:
    return (
        f"No sample of {task.full_name} can lend another its context, as all have the same: raise --limit (and the "
        "setting samples, where the task has it), or leave `other` out of --context."
    )


def controlled(task: Task, instances: Sequence[Instance]) -> Sequence[Instance]:
    """The instances of a cell, each followed by its controls as the settings of the task ask for them.

    Raises UserError where the task has no controls (`Task.inseparable`), or no sample another's context.
    """
    controls = controls_of(task.settings)
    if controls == ("own",):
        return instances
    check_controls(task, None)
    others = _others(instances) if "other" in controls else {}
    if "other" in controls and not others:
        raise UserError(_all_the_same(task))
    found = []
    for instance in instances:
        found.append(instance)
        if instance.refused is None:
            if instance.id in others:
                found.append(_with(instance, "other", others[instance.id]))
            if "none" in controls:
                found.append(_with(instance, "none", []))
    return found


def _others(instances: Sequence[Instance]) -> dict[str, list[int]]:
    """By the id of each instance a context of the same number of tokens in which its answer is not.

    It is what the task made for the purpose (`Instance.other`), else the context of the nearest instance before it
    that holds nothing of what its own holds, or after it where there is none before. Looking back first, a larger
    limit changes nothing about the samples of a smaller one. Empty contexts lend nothing, and need none.
    """
    usable = [i for i in instances if i.refused is None and i.prompt.context]
    usable.sort(key=lambda instance: instance.order)
    holds = [instance.holds or frozenset([instance.group or instance.prompt.context_key]) for instance in usable]
    found = {}
    for place, instance in enumerate(usable):
        length = len(instance.prompt.context)
        if instance.other is not None:
            found[instance.id] = _fitted(instance.other(), length)
            continue
        donor = next((i for i in _nearest(place, len(usable)) if holds[i].isdisjoint(holds[place])), None)
        if donor is not None:
            found[instance.id] = _fitted(usable[donor].prompt.context, length)
    return found


def _nearest(place: int, count: int) -> Iterator[int]:
    yield from range(place - 1, -1, -1)
    yield from range(place + 1, count)


def _fitted(context: list[int], tokens: int) -> list[int]:
    """The last `tokens` ids of a context, repeated where it is shorter: so it ends as the contexts of its task do."""
    repeats = -(-tokens // len(context))
    return (context * repeats)[-tokens:]


def _with(instance: Instance, control: Control, context: list[int]) -> Instance:
    own = instance.prompt
    prompt = Prompt(own.prefix, context, own.query, own.question)
    audit = Audit(
        tokens=len(prompt),
        cut_prefix=own.audit.cut_prefix,
        cut_query=own.audit.cut_query,
        bos=own.audit.bos,
        template_sha256=own.audit.template_sha256,
    )
    return replace(
        instance,
        id=f"{instance.id}-{control}",
        prompt=replace(prompt, audit=audit),
        group=instance.group or own.context_key,
        control=control,
    )
