"""Every method as a model of the lm-evaluation-harness, by the names of `evals.lm_eval.command`."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate
from typing import Any, TypeVar

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, has_bos_prefix, normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm  # type: ignore[import-untyped]

from evals import registry
from evals.errors import UserError, unknown
from evals.methods import kernels as attention
from evals.methods import presets
from evals.methods.base import Query, Request, Runtime, Session, Stop
from evals.run.spec import Attention, Device, DType, resolve_runtime

log = logging.getLogger(__name__)

Choice = TypeVar("Choice", bound=StrEnum)

GREEDY_ONLY = {"do_sample", "temperature", "top_p", "top_k"}
"""Generation arguments without a meaning in greedy decoding."""


@dataclass(frozen=True)
class Item:
    """A request as token ids. position: place in the list of requests."""

    position: int
    prefix: tuple[int, ...]
    context: tuple[int, ...]
    query: Query


class AnyPreset(TemplateLM):
    """A preset behind lm-eval's interface.

    preset: name or YAML file. query_tokens: at most so many ids at the end of a prompt are running text, the
    rest is the context that the method reads (see `split`). max_length: ids of prompt and answer, cut on the
    left as lm-eval does; by default what the preset was made for. rolling_context: ids before each window of
    `loglikelihood_rolling` that the method reads as context; 1 is lm-eval's own protocol. Further arguments are
    settings of the method. batch_size: generations at once, for methods that can. device: see `on_device`.

    Raises UserError for an argument that cannot be, before weights are loaded.
    """

    method: str | None = None
    """Method that the preset must have; None: any."""

    def __init__(
        self,
        preset: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        attn: str = "auto",
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        query_tokens: int = 512,
        max_length: int | None = None,
        rolling_context: int = 1,
        max_gen_toks: int = 256,
        random_weights: bool = False,
        checkpoint: str | None = None,
        offline: bool = False,
        seed: int = 0,
        **settings: Any,
    ) -> None:
        super().__init__()
        chosen = self._preset(preset).override(settings)
        self.batch_size = _whole("batch_size", batch_size, 1)
        self.query_tokens = _whole("query_tokens", query_tokens, 0)
        self.rolling_context = _whole("rolling_context", rolling_context, 1)
        self.max_gen_toks = _whole("max_gen_toks", max_gen_toks, 1)
        longest = None if max_length is None else _whole("max_length", max_length, 1)
        runtime = Runtime(
            **on_device(device, _choice(DType, "dtype", dtype), _choice(Attention, "attn", attn)),
            random_weights=random_weights,
            offline=offline,
            checkpoint=checkpoint,
            seed=_whole("seed", seed, 0),
        )
        self._kernels = runtime.kernels
        self.model = registry.method(chosen.method).load(chosen, runtime)
        self.tokenizer = self.model.tokenizer
        self.max_length = longest or self.model.max_context
        if self.max_length is not None and self.rolling_context > self.max_length:
            raise UserError(f"rolling_context={self.rolling_context} is more than max_length={self.max_length} holds.")

    def _preset(self, name: str | None) -> presets.Preset:
        known = [n for n in presets.names() if self.method in (None, presets.load_preset(n).method)]
        if name is None:
            raise UserError(f"Name a preset: --model_args preset=NAME, NAME one of {', '.join(known) or 'yours'}.")
        preset = presets.load_preset(name)
        if self.method not in (None, preset.method):
            raise unknown(f"preset of the method {self.method}", name, known)
        return preset

    # --- tokens

    @property
    def eot_token_id(self) -> int:
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else bos

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Ids; the tokenizer's own special tokens unless the text already starts with BOS (a chat template)."""
        if add_special_tokens is None:
            add_special_tokens = not has_bos_prefix(string, self.tokenizer.decode(self.prefix_token_id))
        return self.tokenizer.encode(string, add_special_tokens=add_special_tokens)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        text = self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
        return str(text)

    @property
    def tokenizer_name(self) -> str:
        return self.tokenizer.name_or_path.replace("/", "__")

    def split(self, ids: Sequence[int]) -> tuple[Sequence[int], Sequence[int], Sequence[int]]:
        """Prefix (BOS), context and query of a prompt.

        A prompt of at most `query_tokens` ids is all query: there is nothing long to read. Of a longer one the
        query is what follows the last blank line within the last `query_tokens` ids, usually the question; where
        there is no blank line, it is those ids. So questions after one document share the document's read.
        """
        bos = 1 if ids and ids[0] == self.tokenizer.bos_token_id else 0
        prefix, rest = ids[:bos], ids[bos:]
        if len(rest) <= self.query_tokens:
            return prefix, [], rest
        start = len(rest) - self.query_tokens
        start += self._question_start(rest[start:])
        return prefix, rest[:start], rest[start:]

    def _question_start(self, ids: Sequence[int]) -> int:
        """Index of the first id after the last blank line that text follows; 0 where there is none."""
        pieces = [self._decode([i], special=True) for i in ids]
        blank = "".join(pieces).rstrip().rfind("\n\n")
        if blank < 0:
            return 0
        ends = accumulate(len(piece) for piece in pieces)
        return 1 + next(i for i, end in enumerate(ends) if end >= blank + 2)

    def _item(self, position: int, ids: Sequence[int]) -> Item:
        prefix, context, query = self.split(ids)
        question = (0, len(query)) if context else None
        return Item(position, tuple(prefix), tuple(context), Query(tuple(query), question))

    def _groups(self, items: Iterable[Item], label: str, quiet: bool) -> Iterator[list[Item]]:
        """Items that share a context, the longest context first."""
        groups = defaultdict(list)
        for item in items:
            groups[item.prefix, item.context].append(item)
        with tqdm(total=sum(map(len, groups.values())), desc=label, disable=quiet) as progress:
            for group in sorted(groups.values(), key=lambda group: -len(group[0].context)):
                yield group
                progress.update(len(group))

    def _read(self, group: Sequence[Item]) -> Session:
        """The session of a group. Callers return before the next group is read, which frees it."""
        return self.model.prefill(group[0].context, group[0].prefix)

    # --- requests

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        **_: Any,
    ) -> list[tuple[float, bool]]:
        """Log-probability of each continuation, and whether it is the greedy one."""
        items = []
        for position, (_strings, context, target) in enumerate(requests):
            room = None if self.max_length is None else self.max_length + 1 - len(target)
            if room is not None and room < 1:
                raise UserError(f"A continuation of {len(target)} ids does not fit max_length={self.max_length}.")
            items.append(self._item(position, _last(context, room)))
        results: dict[int, tuple[float, bool]] = {}
        with attention.order(self._kernels):
            for group in self._groups(items, "loglikelihood", disable_tqdm):
                results |= self._score_group(group, requests)
        return [results[i] for i in range(len(requests))]

    def _score_group(
        self, group: Sequence[Item], requests: list[tuple[tuple[str, str], list[int], list[int]]]
    ) -> dict[int, tuple[float, bool]]:
        session = self._read(group)
        results = {}
        for item in group:
            strings, _context, target = requests[item.position]
            logprobs, greedy = session.score_greedy(item.query, target)
            results[item.position] = (float(logprobs.sum()), greedy)
            self.cache_hook.add_partial("loglikelihood", strings, results[item.position])
        return results

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-probability of whole texts, in windows of `max_length` ids.

        Nothing is asked here: the ids before a window are context, the window is scored, and no search runs.
        """
        totals = []
        for (text,) in tqdm([r.args for r in requests], desc="loglikelihood_rolling", disable=disable_tqdm):
            ids = self.tok_encode(text)
            windows = get_rolling_token_windows(
                ids, self.prefix_token_id, self.max_length or max(len(ids), 1), self.rolling_context
            )
            total = 0.0
            with attention.order(self._kernels):
                for before, target in map(make_disjoint_window, windows):
                    total += float(self.model.prefill(before[:-1]).score(Query(before[-1:]), target).sum())
            totals.append(total)
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
        return totals

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Greedy text up to the first stop string, the end of text or `max_gen_toks`."""
        limits = [self._limits(request.args[1]) for request in requests]
        items = []
        for position, request in enumerate(requests):
            room = None if self.max_length is None else self.max_length - limits[position][1]
            if room is not None and room < 1:
                raise UserError(f"max_gen_toks={limits[position][1]} leaves no room in max_length={self.max_length}.")
            items.append(self._item(position, _last(self.tok_encode(request.args[0]), room)))
        texts: dict[int, str] = {}
        waiting: list[tuple[int, Request]] = []
        with attention.order(self._kernels):
            for group in self._groups(items, "generate_until", disable_tqdm):
                waiting += self._ask(group, limits)
                while len(waiting) >= self.batch_size:
                    texts |= self._answer(waiting[: self.batch_size], requests, limits)
                    del waiting[: self.batch_size]
            if waiting:
                texts |= self._answer(waiting, requests, limits)
        return [texts[i] for i in range(len(requests))]

    def _ask(self, group: Sequence[Item], limits: list[tuple[list[str], int]]) -> list[tuple[int, Request]]:
        session = self._read(group)
        asked = []
        for item in group:
            until, new_tokens = limits[item.position]
            asked.append((item.position, Request(session, item.query, new_tokens, self._stop(until))))
        return asked

    def _answer(
        self, waiting: list[tuple[int, Request]], requests: list[Any], limits: list[tuple[list[str], int]]
    ) -> dict[int, str]:
        """Texts of requests by position, cut at their stop strings."""
        new = self.model.generate_batch([request for _, request in waiting])
        texts = {}
        for (position, _), ids in zip(waiting, new, strict=True):
            texts[position] = postprocess_generated_text(self._decode(ids), limits[position][0], None)
            self.cache_hook.add_partial("generate_until", requests[position].args, texts[position])
        return texts

    def _limits(self, arguments: dict[str, Any]) -> tuple[list[str], int]:
        """Stop strings and new tokens of a request. Raises UserError for what greedy decoding cannot do."""
        kwargs = dict(normalize_gen_kwargs(arguments, self.max_gen_toks))
        until = handle_stop_sequences(kwargs.pop("until"), eos=self.tokenizer.decode(self.eot_token_id))
        new_tokens = kwargs.pop("max_gen_toks")
        if kwargs["do_sample"] or (rest := sorted(kwargs.keys() - GREEDY_ONLY)):
            what = "do_sample" if kwargs["do_sample"] else ", ".join(rest)
            raise UserError(f"These models decode greedily: remove {what} from the generation arguments.")
        return until, new_tokens

    def _stop(self, until: list[str]) -> Stop:
        """End of text, or a stop string among the last ids (each id holds at least one byte of text)."""
        longest = max(len(term.encode()) for term in until)

        def found(new: Sequence[int]) -> bool:
            tail = self._decode(new[-longest - 1 :])
            return any(term and term in tail for term in until)

        return Stop(ids=frozenset({self.eot_token_id}), when=found)

    def _decode(self, ids: Sequence[int], special: bool = False) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=not special))


def on_device(device: str, dtype: DType, attn: Attention) -> dict[str, Any]:
    """`resolve_runtime` for a device as lm-eval names it: also `cuda:N`, which becomes torch's current device.

    Without a GPU, `cuda` and `cuda:0` are the CPU, since lm-eval asks for `cuda:0` where the user names no device.
    Raises UserError for another device that this machine does not have.
    """
    if device in ("cuda", "cuda:0") and not torch.cuda.is_available():
        log.warning("There is no CUDA GPU for device=%s (lm-eval's default is cuda:0): running on the CPU.", device)
        device = Device.cpu
    if device in list(Device):
        return resolve_runtime(Device(device), dtype, attn)
    numbered = re.fullmatch(r"cuda:([0-9]+)", device)
    if not numbered:
        raise UserError(f"device={device} is unknown: choose one of {', '.join(Device)}, cuda:N.")
    index, count = int(numbered[1]), torch.cuda.device_count()
    if index >= count:
        raise UserError(f"device={device}: torch finds {count} CUDA GPUs, counted from 0; choose one of them or cpu.")
    torch.cuda.set_device(index)  # streams, graphs and compiled kernels follow the current device
    return resolve_runtime(Device.cuda, dtype, attn) | {"device": f"cuda:{index}"}


def _whole(argument: str, value: Any, least: int) -> int:
    """The value, which lm-eval may hand over as a float or text, as an integer. Raises UserError for any other."""
    number = re.fullmatch(r"([0-9]{1,19})(\.0)?", str(value))
    if not number or not least <= int(number[1]) < 1 << 63:
        raise UserError(f"{argument}={value} is not a whole number from {least} to 2**63 - 1: give one that is.")
    return int(number[1])


def _choice(options: type[Choice], argument: str, value: str) -> Choice:
    """The member of that name. Raises UserError for another one."""
    if value not in list(options):
        raise UserError(f"{argument}={value} is unknown: choose one of {', '.join(options)}.")
    return options(value)


def _last(ids: list[int], room: int | None) -> list[int]:
    """The last `room` ids, at least one: lm-eval cuts long prompts on the left."""
    return ids if room is None else ids[-room:]


class SharedLLM(AnyPreset):
    method = "sharedllm"


class StreamingLLM(AnyPreset):
    method = "streaming_llm"


class YaRN(AnyPreset):
    method = "yarn"


class CEPE(AnyPreset):
    method = "cepe"


class LongLLaMA(AnyPreset):
    method = "longllama"


class ActivationBeacon(AnyPreset):
    method = "activation_beacon"


class FullAttention(AnyPreset):
    method = "full"


class Truncated(AnyPreset):
    method = "truncated"
