"""Every method as a model of the lm-evaluation-harness, by the names of `evals.lm_eval.command`."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, has_bos_prefix, normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm  # type: ignore[import-untyped]  # it ships no types

from evals import registry
from evals.errors import UserError
from evals.lm_eval.arguments import check, check_texts, whole
from evals.lm_eval.prompts import Item, PromptSplitter, by_context, last
from evals.measure.request import is_out_of_memory
from evals.methods import kernels
from evals.methods.base import Query, Request, Session, Stop
from evals.tasks.common.conversation import written
from evals.tasks.common.stopping import stop_ids

log = logging.getLogger(__name__)

T = TypeVar("T")
Scored = tuple[float, bool]
"""Log-probability of a continuation, and whether it is the greedy one."""
Encoded = tuple[tuple[str, str], list[int], list[int]]
"""A log-likelihood request as lm-eval hands it over: both texts, ids of the context, ids of the continuation."""

GREEDY_ONLY = {"do_sample", "temperature", "top_p", "top_k"}
"""Generation arguments that greedy decoding ignores."""


class AnyPreset(TemplateLM):  # type: ignore[misc]  # lm-eval ships no types
    """A preset as a model of lm-eval.

    Arguments (`--model_args`):
        preset: name or YAML file; or a folder, a GGUF file or a hub repository, with the method's default settings.
        query_tokens: the longest query in ids; what stands before it in a prompt is context (`PromptSplitter`).
        max_length: ids of prompt and answer; longer prompts are cut on the left, as lm-eval does. Default: what the
            preset was made for.
        rolling_context: `loglikelihood_rolling`: ids before each window that the method reads as context; 1 is
            lm-eval's own protocol.
        batch_size: generations decoded together, for methods that can; `auto` halves it when memory runs out.
        prefix_token_id: stands before a text without context. Default: BOS, else EOS.
        enable_thinking, chat_template_args: arguments of the chat template. think_end_token: text after which the
            answer begins.
        device: see `on_device`. Anything else is a setting of the method.

    Raises UserError for an argument that does not fit, before weights are loaded.
    """

    method: str | None = None
    """Method that the preset must have; None: any."""

    def __init__(
        self,
        preset: str | None = None,
        *,
        enable_thinking: bool | None = None,
        chat_template_args: dict[str, Any] | None = None,
        think_end_token: str | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__()
        check_texts(chat_template_args, think_end_token)
        asked = check(self.method, preset=preset, **arguments)
        self.batch_size, self._shrink_batches = asked.batch_size, asked.shrink_batches
        self.query_tokens = asked.query_tokens
        self.rolling_context = asked.rolling_context
        self.max_gen_toks = asked.max_gen_toks
        self._kernels = asked.runtime.kernel_order
        self._prefix_token_id = asked.prefix_token_id
        self._think_end = think_end_token
        thinking = {} if enable_thinking is None else {"enable_thinking": enable_thinking}
        self._template_args = {**thinking, **(chat_template_args or {})}
        self.model = registry.method(asked.preset.method).load(asked.preset, asked.runtime)
        self.tokenizer = self.model.tokenizer
        if asked.prefix_token_id is not None and asked.prefix_token_id >= len(self.tokenizer):
            ids = len(self.tokenizer)
            raise UserError(f"prefix_token_id={asked.prefix_token_id}: the tokenizer has {ids} ids, give one of them.")
        self.max_length = asked.max_length or self.model.max_context
        if self.max_length is not None and self.rolling_context > self.max_length:
            raise UserError(f"rolling_context={self.rolling_context} is more than max_length={self.max_length} holds.")

    # --- tokens

    @property
    def eot_token_id(self) -> int | None:
        found: int | None = self.tokenizer.eos_token_id
        return found

    @property
    def prefix_token_id(self) -> int:
        """What a text without context is conditioned on. Raises UserError where the tokenizer has no such token."""
        candidates = (self._prefix_token_id, self.tokenizer.bos_token_id, self.tokenizer.eos_token_id)
        found = next((i for i in candidates if i is not None), None)
        if found is None:
            raise UserError(
                "This tokenizer has neither BOS nor EOS to stand before a text: add prefix_token_id=N to --model_args."
            )
        return found

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Ids, with the tokenizer's own special tokens unless the text already starts with BOS (a chat template)."""
        if add_special_tokens is None:
            bos = self.tokenizer.bos_token
            add_special_tokens = not (bos and has_bos_prefix(string, bos))
        return list(self.tokenizer.encode(string, add_special_tokens=add_special_tokens))

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return written(
            self.tokenizer,
            chat_history,
            answer_next=add_generation_prompt,
            variables=self._template_args,
            option="--apply_chat_template",
        )

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.name_or_path).replace("/", "__")

    @property
    def _splitter(self) -> PromptSplitter:
        return PromptSplitter(self.tokenizer.bos_token_id, self.query_tokens, lambda i: self._decode([i], special=True))

    def split(self, ids: Sequence[int]) -> tuple[Sequence[int], Sequence[int], Sequence[int]]:
        """Prefix, context and query of a prompt: `PromptSplitter.split`."""
        return self._splitter.split(ids)

    def _read(self, group: Sequence[Item]) -> Session:
        """The session of a group. Callers return before the next group is read, which frees it."""
        return self.model.prefill(group[0].context, group[0].prefix)

    # --- requests

    def _loglikelihood_tokens(self, requests: list[Encoded], disable_tqdm: bool = False, **_: Any) -> list[Scored]:
        """Log-probability of each continuation, and whether it is the greedy one."""
        splitter, results = self._splitter, {}
        items = []
        for position, (_strings, context, target) in enumerate(requests):
            room = None if self.max_length is None else self.max_length + 1 - len(target)
            if room is None or room >= 1:
                items.append(splitter.item(position, last(context, room)))
            else:
                results[position] = self._score_in_windows(context, target)
        with kernels.kernel_order(self._kernels):
            for group in _progress(by_context(items), "loglikelihood", disable_tqdm):
                results |= self._score_group(group, requests)
        return [results[i] for i in range(len(requests))]

    def _score_group(self, group: Sequence[Item], requests: list[Encoded]) -> dict[int, Scored]:
        session = self._read(group)
        results = {}
        for item in group:
            strings, _context, target = requests[item.position]
            logprobs, greedy = session.score_greedy(item.query, target)
            results[item.position] = (float(logprobs.sum()), greedy)
            self.cache_hook.add_partial("loglikelihood", strings, results[item.position])
        return results

    def _score_in_windows(self, context: list[int], target: list[int]) -> Scored:
        """A continuation longer than `max_length`, in windows of it that follow each other, as a rolling text."""
        assert self.max_length is not None
        log.warning(
            "A continuation of %d tokens is longer than max_length=%d: it is scored in windows.",
            len(target),
            self.max_length,
        )
        total, greedy = 0.0, True
        with kernels.kernel_order(self._kernels):
            for before, window in self._windows(target, context[-1] if context else self.prefix_token_id, 1):
                logprobs, same = self.model.prefill([]).score_greedy(Query(before), window)
                total, greedy = total + float(logprobs.sum()), greedy and same
        return total, greedy

    def _windows(self, ids: list[int], first: int, context: int) -> Iterator[tuple[list[int], list[int]]]:
        """Ids before each window of a text, and the window. first: the id that stands before the text."""
        longest = self.max_length or max(len(ids), 1)
        return map(make_disjoint_window, get_rolling_token_windows(ids, first, longest, context))

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-probability of whole texts, in windows of `max_length` ids, after exactly one prefix token.

        Nothing is asked here: the ids before a window are context, the window is scored, and no search runs.
        """
        totals = []
        for (text,) in tqdm([r.args for r in requests], desc="loglikelihood_rolling", disable=disable_tqdm):
            ids = self.tok_encode(text, add_special_tokens=False)
            if ids[:1] == [self.prefix_token_id]:  # the text brings its own
                ids = ids[1:]
            total = 0.0
            with kernels.kernel_order(self._kernels):
                for before, target in self._windows(ids, self.prefix_token_id, self.rolling_context):
                    total += float(self.model.prefill(before[:-1]).score(Query(before[-1:]), target).sum())
            totals.append(total)
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
        return totals

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Greedy text up to the first stop string, the end of text or `max_gen_toks`."""
        limits = [self._limits(request.args[1]) for request in requests]
        ends = stop_ids(self.tokenizer)  # once: with a chat template this takes milliseconds
        splitter, items = self._splitter, []
        for position, request in enumerate(requests):
            room = None if self.max_length is None else self.max_length - limits[position][1]
            if room is not None and room < 1:
                raise UserError(f"max_gen_toks={limits[position][1]} leaves no room in max_length={self.max_length}.")
            items.append(splitter.item(position, last(self.tok_encode(request.args[0]), room)))
        texts: dict[int, str] = {}
        waiting: list[tuple[int, Request]] = []
        with kernels.kernel_order(self._kernels):
            for group in _progress(by_context(items), "generate_until", disable_tqdm):
                waiting += self._ask(group, limits, ends)
                while len(waiting) >= self.batch_size:
                    texts |= self._answer(waiting[: self.batch_size], requests, limits)
                    del waiting[: self.batch_size]
            if waiting:
                texts |= self._answer(waiting, requests, limits)
        return [texts[i] for i in range(len(requests))]

    def _ask(
        self, group: Sequence[Item], limits: list[tuple[list[str], int]], ends: frozenset[int]
    ) -> list[tuple[int, Request]]:
        session = self._read(group)
        asked = []
        for item in group:
            until, new_tokens = limits[item.position]
            asked.append((item.position, Request(session, item.query, new_tokens, self._stop(until, ends))))
        return asked

    def _answer(
        self, waiting: list[tuple[int, Request]], requests: list[Any], limits: list[tuple[list[str], int]]
    ) -> dict[int, str]:
        """Texts of requests by position, cut at their stop strings."""
        new = self._generate([request for _, request in waiting])
        texts = {}
        for (position, _), ids in zip(waiting, new, strict=True):
            texts[position] = postprocess_generated_text(self._decode(ids), limits[position][0], self._think_end)
            self.cache_hook.add_partial("generate_until", requests[position].args, texts[position])
        return texts

    def _generate(self, batch: list[Request]) -> list[list[int]]:
        """New ids of each request. With `batch_size=auto` a batch that runs out of memory is halved."""
        try:
            return self.model.generate_batch(batch)
        except (RuntimeError, MemoryError) as error:
            if not self._shrink_batches or len(batch) == 1 or not is_out_of_memory(error):
                raise
        self.batch_size = len(batch) // 2
        log.warning("Out of memory: batch_size=auto goes on with %d.", self.batch_size)
        return self._generate(batch[: self.batch_size]) + self._generate(batch[self.batch_size :])

    def _limits(self, arguments: dict[str, Any]) -> tuple[list[str], int]:
        """Stop strings and new tokens of a request. Raises UserError for what greedy decoding cannot do, and for less
        than one new token."""
        kwargs = dict(normalize_gen_kwargs(arguments, self.max_gen_toks))
        end = self.tokenizer.eos_token
        until = handle_stop_sequences(kwargs.pop("until"), eos=end)
        new_tokens = whole("max_gen_toks", kwargs.pop("max_gen_toks"), 1)
        if kwargs["do_sample"] or (rest := sorted(kwargs.keys() - GREEDY_ONLY)):
            what = "do_sample" if kwargs["do_sample"] else ", ".join(rest)
            raise UserError(f"These models decode greedily: remove {what} from the generation arguments.")
        return [term for term in until if term], new_tokens

    def _stop(self, until: list[str], ends: frozenset[int]) -> Stop:
        """End of text, or a stop string among the last ids (each id holds at least one byte of text). A special token
        stops by its name, although it is no part of the answer."""
        if not until:
            return Stop(ids=ends)
        longest = max(len(term.encode()) for term in until)

        def found(new: Sequence[int]) -> bool:
            tail = self._decode(new[-longest - 1 :], special=True)
            return any(term in tail for term in until)

        return Stop(ids=ends, when=found)

    def _decode(self, ids: Sequence[int], special: bool = False) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=not special))


def _progress(groups: Sequence[list[T]], label: str, quiet: bool) -> Iterator[list[T]]:
    """The groups, with a bar that counts their members."""
    with tqdm(total=sum(map(len, groups)), desc=label, disable=quiet) as bar:
        for group in groups:
            yield group
            bar.update(len(group))
