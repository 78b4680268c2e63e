"""Names of methods and tasks, resolved to classes only when one is used.

Third parties add to both through the entry-point groups `sharedllm.methods` and `sharedllm.tasks`.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from evals.errors import UserError, unknown
from sharedllm.commands import check_names

if TYPE_CHECKING:
    from evals.methods.base import LongContextModel
    from evals.tasks.base import BaseTask
    from evals.tasks.settings.judged import Judge, JudgeSettings

METHODS = {
    "full": "baselines.dense:FullAttention",
    "truncated": "baselines.truncated:Truncated",
    "window": "baselines.window.adapter:FineTuned",
    "retrieval": "baselines.retrieval.adapter:Retrieval",
    "kvpress": "baselines.kvpress.adapter:KVPress",
    "llmlingua": "baselines.llmlingua.adapter:LLMLingua",
    "streaming_llm": "baselines.streaming_llm.adapter:StreamingLLM",
    "yarn": "baselines.yarn:ScaledRope",
    "cepe": "baselines.cepe.adapter:CEPE",
    "longllama": "baselines.longllama.adapter:LongLLaMA",
    "activation_beacon": "baselines.activation_beacon.adapter:ActivationBeacon",
    "served": "baselines.served.adapter:Served",
    "sharedllm": "evals.methods.sharedllm:SharedLLM",
}

TASKS = {
    "needle": "evals.tasks.needle.task:Needle",
    "perplexity": "evals.tasks.perplexity.task:Perplexity",
    "longbench": "evals.tasks.longbench.task:LongBench",
    "longbench-e": "evals.tasks.longbench.task:LongBenchE",
    "longbench-v2": "evals.tasks.longbench_v2.task:LongBenchV2",
    "infinitebench": "evals.tasks.infinitebench.task:InfiniteBench",
    "aa-lcr": "evals.tasks.aa_lcr.task:AaLcr",
    "leval": "evals.tasks.leval.task:LEval",
    "leval-judged": "evals.tasks.leval.task:LEvalJudged",
    "ruler": "evals.tasks.ruler.task:Ruler",
    "graphwalks": "evals.tasks.graphwalks.task:GraphWalks",
    "mrcr": "evals.tasks.mrcr.task:Mrcr",
    "babilong": "evals.tasks.babilong.task:Babilong",
    "nolima": "evals.tasks.nolima.task:Nolima",
    "longproc": "evals.tasks.longproc.task:LongProc",
    "efficiency": "evals.measure.efficiency:Efficiency",
    "efficiency-maxlen": "evals.measure.efficiency:MaxLength",
}

ABOUT = {
    "needle": "find numbers in sentences that are hidden in a long text",
    "perplexity": "predict a text after its own context, another document's, and none",
    "longbench": "21 data sets: questions, summaries, examples, counting, code; official prompts and scores",
    "longbench-e": "13 of them, with scores by length",
    "longbench-v2": "multiple choice about long texts",
    "infinitebench": "12 tasks beyond 100K tokens",
    "aa-lcr": "questions about several documents; a model judges the answers",
    "leval": "L-Eval's questions that are scored without a judge",
    "leval-judged": "L-Eval's open-ended questions, which a model judges",
    "ruler": "13 generated tasks: needles, tracing variables, counting words, questions among documents",
    "graphwalks": "walk along the edges of a graph",
    "mrcr": "repeat the n-th of several alike answers in a conversation",
    "babilong": "reason about facts that are hidden in a long text",
    "nolima": "find a needle that shares no words with the question",
    "longproc": "write a long answer, row by row, from a long input",
    "efficiency": "time and memory of a request, beside the device's floors",
    "efficiency-maxlen": "the longest context that fits in memory",
}
"""What each built-in task asks: `--list` must not wait for their modules."""

JUDGES = {"served": "baselines.served.judge:Judge"}
"""What asks a model for a verdict."""

TASK_ALIASES = {"infinibench": "infinitebench"}
"""Other spellings of task names; InfiniBench is the paper's."""


def canonical_task(name: str) -> str:
    """A task name, with or without `:subset`, in the spelling that runs record."""
    base, colon, subset = name.partition(":")
    return TASK_ALIASES.get(base, base) + colon + subset


@cache
def _targets(group: str) -> dict[str, str]:
    """Built-in targets and those of installed packages; a built-in name cannot be taken over."""
    builtin = METHODS if group == "sharedllm.methods" else TASKS
    return {**{e.name: e.value for e in entry_points(group=group)}, **builtin}


def methods() -> dict[str, str]:
    """Method names and their `module:class` targets."""
    return _targets("sharedllm.methods")


def tasks() -> dict[str, str]:
    """Task names and their `module:class` targets."""
    return _targets("sharedllm.tasks")


def method(name: str) -> type[LongContextModel]:
    """The class of a method. Raises UserError for an unknown name."""
    return _resolve("method", name, methods())


def task(name: str) -> type[BaseTask]:
    """The class of a task (without its `:subset`). Raises UserError for an unknown name."""
    return _resolve("task", name, tasks())


def judge(settings: JudgeSettings) -> Judge:
    """The judge that settings name. Raises UserError where its key or a package is missing."""
    found: Judge = _resolve("judge", "served", JUDGES).of(  # type: ignore[attr-defined]  # a class known by its name
        settings.judge,
        settings.judge_model,
        settings.judge_key_variable,
        settings.judge_request,
        settings.judge_timeout,
    )
    return found


def _resolve(kind: str, name: str, known: dict[str, str]) -> type:
    if name not in known:
        raise unknown(kind, name, known, "--list" if kind == "task" else None)
    module, _, attribute = known[name].partition(":")
    try:
        found: type = getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        if module.startswith("baselines."):
            check_names("baselines")
        if error.name is None or module.startswith(error.name):
            raise UserError(f"The {kind} '{name}' is declared as {known[name]}, which is not installed.") from error
        raise UserError(f"The {kind} '{name}' needs the package '{error.name}': pip install {error.name}.") from error
    return found
