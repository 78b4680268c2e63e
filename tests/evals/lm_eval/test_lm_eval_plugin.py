"""The lm-eval plugin: equal to lm-eval's own hf model for full attention, one read a context."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from lm_eval.models.huggingface import HFLM

from evals.errors import UserError
from evals.lm_eval import arguments
from evals.lm_eval import model as lm_eval_model
from evals.lm_eval.model import AnyPreset
from evals.lm_eval.models import for_method
from evals.methods import kernels as attention
from evals.methods.base import Query, Stop
from evals.run.spec import Attention, DType

FullAttention = for_method("full")
DOCUMENT = " ".join(f"The {colour} door leads to room {i}." for i, colour in enumerate(["red", "blue", "green"] * 3))


def requests(*arguments: tuple[Any, ...]) -> list[Any]:
    """Requests as lm-eval hands them to a model."""
    return [SimpleNamespace(args=args, task_name="local") for args in arguments]


@pytest.fixture(scope="module")
def full(tiny_presets: Callable[..., Path]) -> AnyPreset:
    return FullAttention(preset=str(tiny_presets("full")), device="cpu", query_tokens=60, max_length=512)


@pytest.fixture(scope="module")
def hf(tiny_llama: Path) -> HFLM:
    return HFLM(pretrained=str(tiny_llama), device="cpu", dtype="float32", max_length=512)


class TestEqualToHf:
    """Full attention through our plugin is lm-eval's own hf model, whatever the split of the prompt."""

    PROMPTS = (
        "short",
        f"{DOCUMENT}\n\nQuestion: where does the red door lead?\nAnswer:",
        f"{DOCUMENT}\n\nQuestion: which door leads to room 4?\nAnswer:",
        f"no blank line {DOCUMENT}",
        f"{DOCUMENT} {DOCUMENT}\n\n{DOCUMENT}\n\nlonger than the window?",
    )

    def test_loglikelihood(self, full: AnyPreset, hf: HFLM) -> None:
        asked = [(prompt, answer) for prompt in self.PROMPTS for answer in (" room 0", " b", " \x05\x06")]
        asked.append(("", "from nothing"))
        ours, theirs = (lm.loglikelihood(requests(*asked), disable_tqdm=True) for lm in (full, hf))
        assert [round(x, 3) for x, _ in ours] == [round(x, 3) for x, _ in theirs]
        assert [g for _, g in ours] == [bool(g) for _, g in theirs]

    def test_greedy_continuation_is_said_to_be_greedy(self, full: AnyPreset, hf: HFLM) -> None:
        ids = full.model.prefill(full.tok_encode(self.PROMPTS[0])[:-1]).generate(
            Query(full.tok_encode(self.PROMPTS[0])[-1:]), 3
        )
        request = [((self.PROMPTS[0], ""), full.tok_encode(self.PROMPTS[0]), ids)]
        assert full._loglikelihood_tokens(request, disable_tqdm=True)[0][1]
        assert hf._loglikelihood_tokens(request, disable_tqdm=True)[0][1]
        request = [((self.PROMPTS[0], ""), full.tok_encode(self.PROMPTS[0]), [*ids[:-1], (ids[-1] + 1) % 256])]
        assert not full._loglikelihood_tokens(request, disable_tqdm=True)[0][1]

    def test_generate_until(self, full: AnyPreset, hf: HFLM) -> None:
        arguments = {"until": ["zz"], "max_gen_toks": 24, "do_sample": False}
        asked = requests(*[(prompt, dict(arguments)) for prompt in self.PROMPTS])
        ours, theirs = (lm.generate_until(asked, disable_tqdm=True) for lm in (full, hf))
        assert ours == theirs
        assert all(ours)

    def test_batches_change_nothing(self, full: AnyPreset, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = requests(*[(prompt, {"until": ["zz"], "max_gen_toks": 9 + i}) for i, prompt in enumerate(self.PROMPTS)])
        one = full.generate_until(asked, disable_tqdm=True)
        rows = []
        generate = full.model.generate_batch
        monkeypatch.setattr(full.model, "generate_batch", lambda batch: rows.append(len(batch)) or generate(batch))
        monkeypatch.setattr(full, "batch_size", 2)
        assert full.generate_until(asked, disable_tqdm=True) == one
        assert rows == [2, 2, 1]

    def test_stop_strings_end_the_text(self, full: AnyPreset, hf: HFLM) -> None:
        plain = full.generate_until(requests(("short", {"until": [], "max_gen_toks": 20})), disable_tqdm=True)[0]
        stop = plain[7:9]
        asked = requests(("short", {"until": ["never there", stop], "max_gen_toks": 20}))
        ours, theirs = (lm.generate_until(asked, disable_tqdm=True) for lm in (full, hf))
        assert ours == theirs == [plain[: plain.index(stop)]]

    def test_a_special_token_named_as_a_stop_string_ends_the_text(
        self, full: AnyPreset, hf: HFLM, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """<s>, which is no end of this tokenizer, after three other ids; it is no part of the text either way."""
        first = full.model.prefill([]).generate(Query(full.tok_encode("short")), 3)
        for model in (full.model.model, hf.model):

            def prefer(head: Any, states: Any, logits: torch.Tensor, model: Any = model) -> torch.Tensor:
                rows = logits.clone()
                model.rows_seen = getattr(model, "rows_seen", 0) + 1
                rows[..., full.tokenizer.bos_token_id] += 1e3 * (model.rows_seen == len(first) + 1)
                return rows

            monkeypatch.setattr(model, "rows_seen", 0, raising=False)
            monkeypatch.setattr(model, "_hook", model.lm_head.register_forward_hook(prefer), raising=False)
        asked = requests(("short", {"until": ["<s>"], "max_gen_toks": 9}))
        ours, theirs = (lm.generate_until(asked, disable_tqdm=True) for lm in (full, hf))
        for model in (full.model.model, hf.model):
            model._hook.remove()
        assert ours == theirs == [full.tokenizer.decode(first)]

    @pytest.mark.parametrize("text", ["a", DOCUMENT, f"{DOCUMENT} {DOCUMENT} {DOCUMENT}"])
    def test_loglikelihood_rolling_has_one_bos(self, full: AnyPreset, tiny_llama: Path, text: str) -> None:
        """hf puts the prefix token before a text that already starts with the tokenizer's BOS, unless told not to."""
        hf = HFLM(pretrained=str(tiny_llama), device="cpu", dtype="float32", max_length=512, add_bos_token=False)
        (ours,) = full.loglikelihood_rolling(requests((text,)), disable_tqdm=True)
        (theirs,) = hf.loglikelihood_rolling(requests((text,)), disable_tqdm=True)
        assert ours == pytest.approx(theirs, rel=1e-4)


class TestSplit:
    def test_the_last_paragraph_is_the_query(self, full: AnyPreset) -> None:
        text = f"{DOCUMENT}\n\nfirst paragraph\n\nQuestion?\nAnswer:\n\n"
        prefix, context, query = full.split(full.tok_encode(text))
        assert prefix == [full.tokenizer.bos_token_id]
        assert full.tokenizer.decode(context) == f"{DOCUMENT}\n\nfirst paragraph\n\n"
        assert full.tokenizer.decode(query) == "Question?\nAnswer:\n\n"

    def test_without_a_blank_line_the_last_tokens(self, full: AnyPreset) -> None:
        _, context, query = full.split(full.tok_encode(DOCUMENT))
        assert full.tokenizer.decode(query) == DOCUMENT[-60:]
        assert full.tokenizer.decode(context) == DOCUMENT[:-60]

    def test_a_short_prompt_is_all_query(self, full: AnyPreset) -> None:
        prefix, context, query = full.split(full.tok_encode("a\n\nb"))
        assert (len(prefix), context, full.tokenizer.decode(query)) == (1, [], "a\n\nb")

    def test_questions_on_one_document_share_one_read(self, full: AnyPreset, monkeypatch: pytest.MonkeyPatch) -> None:
        reads = []
        prefill = full.model.prefill
        monkeypatch.setattr(full.model, "prefill", lambda *ids: reads.append(len(ids[0])) or prefill(*ids))
        asked = [(f"{DOCUMENT}\n\nQuestion {i}", {"max_gen_toks": 1}) for i in range(5)]
        asked.append((f"{DOCUMENT} {DOCUMENT[:40]}\n\nQuestion", {"max_gen_toks": 1}))
        full.generate_until(requests(*asked), disable_tqdm=True)
        assert len(reads) == 2
        assert reads == sorted(reads, reverse=True)

    def test_the_search_sees_the_question_and_never_the_scored_text(
        self, full: AnyPreset, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen = []
        session = full.model.prefill([1])
        monkeypatch.setattr(
            type(session), "_begin", lambda self, query: seen.append((len(query.ids), query.question)), raising=True
        )
        full.loglikelihood(requests((f"{DOCUMENT}\n\nWhere?", " here")), disable_tqdm=True)
        full.loglikelihood_rolling(requests(("some text",)), disable_tqdm=True)
        assert seen == [(len("Where?"), (0, len("Where?"))), (1, None)]


class TestArguments:
    def test_unknown_setting_of_the_method(self, tiny_presets: Callable[..., Path]) -> None:
        with pytest.raises(UserError, match="windo"):
            FullAttention(preset=str(tiny_presets("full")), device="cpu", windo=3)

    def test_preset_of_another_method(self, tiny_presets: Callable[..., Path]) -> None:
        with pytest.raises(UserError, match="streaming_llm"):
            for_method("streaming_llm")(preset=str(tiny_presets("full")), device="cpu")

    def test_a_model_without_a_preset_gets_the_method(self, tiny_llama: Path) -> None:
        lm = for_method("truncated")(preset=str(tiny_llama), device="cpu", window=64)
        assert (lm.model.fairness["window"], lm.model.name) == (64, f"{tiny_llama.name}-truncated")

    def test_the_method_is_no_argument(self, tiny_llama: Path) -> None:
        with pytest.raises(UserError, match="behind --model is the method"):
            AnyPreset(preset=str(tiny_llama), device="cpu", method="truncated")

    def test_without_a_preset_the_known_ones_are_named(self) -> None:
        with pytest.raises(UserError, match=r"preset=NAME.*streamingllm-135m"):
            for_method("streaming_llm")(device="cpu")

    def test_unknown_dtype(self, tiny_presets: Callable[..., Path]) -> None:
        with pytest.raises(UserError, match="dtype=int3"):
            AnyPreset(preset=str(tiny_presets("full")), device="cpu", dtype="int3")

    @pytest.mark.parametrize("argument", ["query_tokens", "rolling_context", "max_gen_toks", "max_length", "seed"])
    @pytest.mark.parametrize("value", ["abc", -1.0, 1.5, 10**23, True])
    def test_a_count_that_is_none_is_refused_before_loading(
        self, tiny_presets: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, argument: str, value: Any
    ) -> None:
        monkeypatch.delattr(lm_eval_model.registry, "method")
        with pytest.raises(UserError, match=f"^{argument}={re.escape(str(value))} is not a whole number"):
            FullAttention(preset=str(tiny_presets("full")), device="cpu", **{argument: value})

    @pytest.mark.parametrize(
        ("argument", "value", "reason"),
        [
            ("prefix_token_id", 258, "the tokenizer has 258 ids"),
            ("think_end_token", 151668, "is no text"),
            ("chat_template_args", "x", "is no object"),
        ],
    )
    def test_an_argument_that_no_answer_could_use_is_refused(
        self, tiny_presets: Callable[..., Path], argument: str, value: Any, reason: str
    ) -> None:
        with pytest.raises(UserError, match=f"^{argument}={value}.* {reason}"):
            FullAttention(preset=str(tiny_presets("full")), device="cpu", **{argument: value})

    @pytest.mark.parametrize("new_tokens", [0, -1])
    def test_a_request_for_no_new_token_is_refused(self, full: AnyPreset, new_tokens: int) -> None:
        with pytest.raises(UserError, match=f"^max_gen_toks={new_tokens} is not a whole number from 1"):
            full.generate_until(requests(("a", {"until": [], "max_gen_toks": new_tokens})), disable_tqdm=True)

    def test_a_batch_size_that_is_none_is_refused(self, tiny_presets: Callable[..., Path]) -> None:
        with pytest.raises(UserError, match="batch_size=many is not a whole number from 1"):
            FullAttention(preset=str(tiny_presets("full")), device="cpu", batch_size="many")

    @pytest.mark.parametrize("value", ["auto", "auto:4"])
    def test_batch_size_auto_is_halved_when_memory_runs_out(
        self, tiny_presets: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, value: str
    ) -> None:
        lm = FullAttention(preset=str(tiny_presets("full")), device="cpu", batch_size=value, max_batch_size=4)
        asked = requests(*[(f"text {i}", {"max_gen_toks": 3}) for i in range(5)])
        plain, generate = lm.generate_until(asked, disable_tqdm=True), lm.model.generate_batch

        def small(batch: Any) -> Any:
            if len(batch) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return generate(batch)

        monkeypatch.setattr(lm.model, "generate_batch", small)
        assert lm.batch_size == 4
        assert lm.generate_until(asked, disable_tqdm=True) == plain
        assert lm.batch_size == 2

    def test_a_count_may_come_as_a_float(self, tiny_presets: Callable[..., Path]) -> None:
        lm = FullAttention(preset=str(tiny_presets("full")), device="cpu", query_tokens=60.0, max_length=512.0)
        assert repr((lm.query_tokens, lm.max_length)) == "(60, 512)"

    def test_sampling_is_refused(self, full: AnyPreset) -> None:
        with pytest.raises(UserError, match="do_sample"):
            full.generate_until(requests(("a", {"do_sample": True, "temperature": 0.7})), disable_tqdm=True)

    def test_the_kernels_of_auto_are_used(
        self, tiny_presets: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(attention, "fastest", lambda device: ("math",))
        lm = FullAttention(preset=str(tiny_presets("full")), device="cpu", max_length=64)
        seen, prefill = [], lm.model.prefill

        def watched(*arguments: Any, **options: Any) -> Any:
            seen.append(torch.backends.cuda.flash_sdp_enabled())
            return prefill(*arguments, **options)

        monkeypatch.setattr(lm.model, "prefill", watched)
        lm.generate_until(requests(("a b", {"max_gen_toks": 2})), disable_tqdm=True)
        lm.loglikelihood(requests(("a", " b")), disable_tqdm=True)
        lm.loglikelihood_rolling(requests(("a b",)), disable_tqdm=True)
        assert len(seen) >= 3
        assert not any(seen)
        assert torch.backends.cuda.flash_sdp_enabled()

    def test_a_continuation_longer_than_the_window_is_scored_in_windows(
        self, tiny_presets: Callable[..., Path], caplog: pytest.LogCaptureFixture
    ) -> None:
        lm = FullAttention(preset=str(tiny_presets("full")), device="cpu", max_length=8)
        target = list(range(40, 60))
        ((total, greedy),) = lm._loglikelihood_tokens([(("", ""), [256], target)], disable_tqdm=True)
        text = lm.tokenizer.decode(target)
        assert lm.tok_encode(text, add_special_tokens=False) == target
        assert total == pytest.approx(lm.loglikelihood_rolling(requests((text,)), disable_tqdm=True)[0], rel=1e-5)
        assert not greedy
        assert "20 tokens is longer than max_length=8" in caplog.text

    def test_a_tokenizer_without_eos_still_generates_and_scores(self, tiny_presets: Callable[..., Path]) -> None:
        lm = FullAttention(preset=str(tiny_presets("full")), device="cpu", max_length=64)
        lm.tokenizer.eos_token = None
        (text,) = lm.generate_until(requests(("a b", {"until": [], "max_gen_toks": 5})), disable_tqdm=True)
        assert text
        assert lm.loglikelihood(requests(("", "b")), disable_tqdm=True)[0][0] < 0
        lm.tokenizer.bos_token = None
        with pytest.raises(UserError, match="neither BOS nor EOS"):
            lm.loglikelihood(requests(("", "b")), disable_tqdm=True)
        lm._prefix_token_id = 7
        assert lm.loglikelihood(requests(("", "b")), disable_tqdm=True)[0][0] < 0

    def test_every_end_that_the_model_names_stops_it(self, tiny_presets: Callable[..., Path]) -> None:
        lm = FullAttention(preset=str(tiny_presets("full")), device="cpu", max_length=64)
        asked = requests(("a b", {"until": [], "max_gen_toks": 6}))
        (plain,) = lm.generate_until(asked, disable_tqdm=True)
        third = lm.model.prefill([]).generate(Query(lm.tok_encode("a b")), 6)[2]
        lm.tokenizer.generation_stop_ids = frozenset({third})
        (stopped,) = lm.generate_until(asked, disable_tqdm=True)
        assert len(stopped) < len(plain)
        assert plain.startswith(stopped)

    def test_template_arguments_and_the_end_of_thinking(self, tiny_presets: Callable[..., Path]) -> None:
        lm = AnyPreset(
            preset=str(tiny_presets("full")), device="cpu", enable_thinking=False, think_end_token="</think>"
        )
        lm.tokenizer.chat_template = "{{ messages[0].content }}{% if enable_thinking %}<think>{% endif %}"
        assert lm.apply_chat_template([{"role": "user", "content": "hello"}]) == "hello"
        answer = lm.tok_encode("hm</think>yes", add_special_tokens=False)
        lm._generate = lambda batch: [answer for _ in batch]
        assert lm.generate_until(requests(("a", {"until": [], "max_gen_toks": 20})), disable_tqdm=True) == ["yes"]

    def test_what_does_not_fit_max_length_is_refused(self, tiny_presets: Callable[..., Path]) -> None:
        preset = str(tiny_presets("full"))
        with pytest.raises(UserError, match="rolling_context=65 is more than max_length=64 holds"):
            FullAttention(preset=preset, device="cpu", max_length=64, rolling_context=65)
        lm = FullAttention(preset=preset, device="cpu", max_length=8)
        ids = list(range(3, 12))
        assert lm._loglikelihood_tokens([(("", ""), ids, ids[:8])], disable_tqdm=True)[0][0] < 0

    def test_chat_template_has_one_bos(self, tiny_presets: Callable[..., Path]) -> None:
        lm = AnyPreset(preset=str(tiny_presets("full")), device="cpu")
        lm.tokenizer.chat_template = (
            "<s>{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
            "{% if add_generation_prompt %}assistant:{% endif %}"
        )
        text = lm.apply_chat_template([{"role": "user", "content": "hello"}])
        assert text == "<s>user: hello\nassistant:"
        assert lm.tok_encode(text).count(lm.tokenizer.bos_token_id) == 1
        assert lm.chat_template(True) == lm.tokenizer.chat_template


class TestDevice:
    """Devices as lm-eval names them, with a GPU or two that are not there."""

    @pytest.fixture
    def current(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """A machine with two GPUs; the devices that became the current one."""
        chosen: list[int] = []
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
        return chosen

    @pytest.mark.parametrize("device", ["cuda:0", "cuda:1"])
    def test_a_number_is_the_current_device(self, current: list[int], device: str) -> None:
        found = arguments.on_device(device, DType.auto, Attention.sdpa)
        assert (found["device"], found["dtype"], current) == (device, "bfloat16", [int(device[-1])])

    def test_without_a_number_nothing_is_chosen(self, current: list[int]) -> None:
        found = [arguments.on_device(name, DType.auto, Attention.sdpa)["device"] for name in ("auto", "cuda", "cpu")]
        assert (found, current) == (["cuda", "cuda", "cpu"], [])

    @pytest.mark.parametrize(
        ("device", "message"),
        [
            ("cuda:2", "finds 2 CUDA GPUs"),
            ("cuda:x", "one of auto, cpu, cuda, cuda:N"),
            ("tpu", "device=tpu is unknown"),
        ],
    )
    def test_others_are_refused(self, current: list[int], device: str, message: str) -> None:
        with pytest.raises(UserError, match=message):
            arguments.on_device(device, DType.auto, Attention.sdpa)
        assert current == []

    @pytest.mark.parametrize("device", ["cuda", "cuda:0"])
    def test_the_default_is_the_cpu_where_there_is_no_gpu(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, device: str
    ) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        found = arguments.on_device(device, DType.auto, Attention.sdpa)
        assert (found["device"], found["dtype"]) == ("cpu", "float32")
        (notice,) = caplog.messages
        assert f"device={device} " in notice
        assert "running on the CPU" in notice

    def test_another_number_is_an_error_where_there_is_no_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
        with pytest.raises(UserError, match="device=cuda:1: torch finds 0 CUDA GPUs"):
            arguments.on_device("cuda:1", DType.auto, Attention.sdpa)


class TestEveryMethod:
    """Methods that do not read one sequence get prefix, context and query as `split` divides them."""

    CASES: ClassVar = {
        "sharedllm": {"chunk_size": 16, "ratios": [4, 2], "lower_layers": 1, "policy": "maxsim"},
        "streaming_llm": {"sinks": 2, "recent": 30, "chunk": 16},
        "truncated": {"window": 128},
    }

    @pytest.fixture(params=CASES)
    def lm(self, request: pytest.FixtureRequest, tiny_presets: Callable[..., Path]) -> AnyPreset:
        preset = tiny_presets(request.param, f"lm-eval-{request.param}", settings=self.CASES[request.param])
        return AnyPreset(str(preset), device="cpu", random_weights=True, query_tokens=60)

    def test_equal_to_the_method_itself(self, lm: AnyPreset) -> None:
        text, answer = f"{DOCUMENT}\n\nWhere?", " there"
        ids, target = lm.tok_encode(text), lm.tok_encode(answer, add_special_tokens=False)
        asked = len("Where?")
        session = lm.model.prefill(ids[1:-asked], ids[:1])
        query = Query(ids[-asked:], (0, asked))
        (scored,) = lm.loglikelihood(requests((text, answer)), disable_tqdm=True)
        assert scored[0] == pytest.approx(float(session.score(query, target).sum()), abs=1e-4)
        (written,) = lm.generate_until(requests((text, {"until": [], "max_gen_toks": 8})), disable_tqdm=True)
        assert written == lm.tokenizer.decode(session.generate(query, 8, Stop(frozenset({257}))))

    def test_rolling_reads_what_stands_before_a_window(self, lm: AnyPreset) -> None:
        lm.max_length, lm.rolling_context = 80, 51
        ids = lm.tok_encode(DOCUMENT, add_special_tokens=False)
        total = lm.model.prefill([]).score(Query([256]), ids[:80]).sum()
        for start in range(80, len(ids), 30):
            end = min(start + 30, len(ids))
            before = ids[end - 81 : start]
            total += lm.model.prefill(before[:-1]).score(Query(before[-1:]), ids[start:end]).sum()
        assert lm.loglikelihood_rolling(requests((DOCUMENT,)), disable_tqdm=True) == [
            pytest.approx(float(total), abs=1e-3)
        ]
