"""One sample: the request, its answer, what is written down about both, and the rules that its prompt must keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from evals.methods.base import LongContextModel, NewIds, Request, Session
from evals.records.models import OVER_LENGTH, Answer, PromptEnds, SampleRecord
from evals.run.grid import Cell
from evals.tasks.base import Instance, Output, Task
from evals.tasks.common.normalised import normalised
from evals.tasks.common.thinking import read_answer

HEAD_TOKENS, TAIL_TOKENS = 120, 240
"""How much of each end of a prompt is kept as text, for people."""

NORMALISED = "normalised"
"""Name of the second score of a sample."""


class AuditError(Exception):
    """A prompt broke a rule that every result rests on: a bug of its task, so the whole run stops."""


@dataclass(frozen=True)
class Asked:
    """A request whose context was read. read_s: what the read took, 0 where another request had paid for it."""

    instance: Instance
    session: Session
    read_s: float


def answered(cell: Cell) -> Task:
    """The task of a cell whose samples a model answers (the cells of measured tasks never come here)."""
    task = cell.task.task
    assert isinstance(task, Task)
    return task


def answer(model: LongContextModel, batch: Sequence[Asked]) -> list[Output]:
    """Answer one request, or several generations: log-probabilities of the target, or new ids and their text."""
    instance, session = batch[0].instance, batch[0].session
    if instance.target is not None:
        return [Output(logprobs=session.score(instance.prompt.as_query(), instance.target).tolist())]
    requests = [
        Request(a.session, a.instance.prompt.as_query(), a.instance.max_new_tokens, a.instance.stop) for a in batch
    ]
    if len(requests) == 1:
        answers = [session.generate(requests[0].query, requests[0].max_new_tokens, requests[0].stop)]
    else:
        answers = model.generate_batch(requests)
    return [_output(model, asked.instance, ids) for asked, ids in zip(batch, answers, strict=True)]


def _output(model: LongContextModel, instance: Instance, ids: list[int]) -> Output:
    read = read_answer(model.tokenizer, ids, instance.thinking)
    return Output(ids=ids, text=read.text, thinking_tokens=read.thinking_tokens, unfinished_thinking=read.unfinished)


def score(task: Task, instance: Instance, output: Output) -> dict[str, float]:
    """The task's metrics of one sample, and of a generated answer also:

    normalised: the first metric of the answer as it is or without differences of form, whichever is better.
    thinking_tokens, unfinished_thinking: where there was thinking, how much, and whether the answer ended there.
    """
    metrics = task.evaluate(instance, output)
    if instance.target is None and task.higher_is_better and task.metric in metrics:
        metrics = {**metrics, NORMALISED: _normalised(task, instance, output, metrics[task.metric])}
    if output.thinking_tokens:
        metrics = {
            **metrics,
            "thinking_tokens": output.thinking_tokens,
            "unfinished_thinking": float(output.unfinished_thinking),
        }
    return metrics


def _normalised(task: Task, instance: Instance, output: Output, official: float) -> float:
    text = normalised(output.text, instance.reference)
    if text == output.text:
        return official
    found = task.evaluate(instance, replace(output, text=text)).get(task.metric, official)
    return max(official, found)


def _hit_limit(instance: Instance, output: Output) -> bool | None:
    """Whether an answer was cut off by its budget; None where given tokens were scored."""
    if instance.target is not None:
        return None
    if isinstance(output.ids, NewIds):
        return output.ids.cut
    stopped = instance.stop.when is not None and instance.stop.when(output.ids)
    return len(output.ids) >= instance.max_new_tokens and not stopped


def record(
    model: LongContextModel,
    cell: Cell,
    asked: Asked,
    output: Output,
    metrics: dict[str, float],
    answer_s: float,
    fault: str | None = None,
) -> SampleRecord:
    """What is written down about a request and its answer. answer_s: seconds that the answer took. fault: why it has
    no score.
    """
    instance, prompt = asked.instance, asked.instance.prompt
    head = [*prompt.prefix, *prompt.context[:HEAD_TOKENS]][:HEAD_TOKENS]
    tail = [*prompt.context[-TAIL_TOKENS:], *prompt.query][-TAIL_TOKENS:]
    return SampleRecord(
        cell=cell.id,
        sample=instance.id,
        status="failed" if fault else "ok",
        error=fault,
        metrics={} if fault else metrics,
        output=Answer(
            text=output.text,
            tokens=len(output.ids) or len(output.logprobs),
            hit_limit=_hit_limit(instance, output),
        ),
        reference=instance.reference,
        group=instance.group or prompt.context_key,
        meta=instance.meta,
        audit=prompt.audit.as_dict(),
        prompt=PromptEnds(head=str(model.tokenizer.decode(head)), tail=str(model.tokenizer.decode(tail))),
        trace=asked.session.trace(),
        seconds={"read": asked.read_s, "answer": answer_s},
        control=instance.control,
    )


def refused(cell: Cell, instance: Instance, reason: str) -> SampleRecord:
    """What is written down about a request that cannot be asked."""
    return SampleRecord(
        cell=cell.id,
        sample=instance.id,
        status="failed",
        error=reason,
        metrics={},
        output=Answer(text="", tokens=0),
        reference=instance.reference,
        group=instance.group,
        meta=instance.meta,
    )


def too_long(instances: Sequence[Instance]) -> tuple[int, int]:
    """Of the instances of a cell with their own contexts: how many were cut to their budget, how many skipped."""
    own = [instance for instance in instances if instance.control == "own"]
    skipped = sum(OVER_LENGTH in i.meta for i in own if i.refused is not None)
    return sum(i.prompt.audit.uncut > i.prompt.audit.tokens for i in own if i.refused is None), skipped


def audit(instance: Instance, cell: Cell) -> None:
    """Raises AuditError where a prompt has two BOS, miscounts its tokens or is longer than its budget."""
    prompt, where = instance.prompt, f"{cell.task.name}, sample {instance.id}"
    if prompt.audit.bos > 1:
        raise AuditError(f"{where}: {prompt.audit.bos} BOS tokens in one prompt; the most allowed is one.")
    if prompt.audit.tokens != len(prompt):
        raise AuditError(f"{where}: the audit counts {prompt.audit.tokens} tokens, there are {len(prompt)}.")
    if cell.length is not None and len(prompt) > cell.length:
        raise AuditError(f"{where}: the prompt has {len(prompt)} tokens, its budget is {cell.length}.")
