"""Prompts: what is tokenised is the whole text, what is cut is the context alone, and the audit says so."""

from __future__ import annotations

import copy

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, processors
from transformers import PreTrainedTokenizerFast

from evals.errors import UserError
from evals.methods.weights import byte_tokenizer
from evals.tasks.common.prompt import Frame, assemble, kept_ends
from evals.tasks.common.prompt_builder import PromptBuilder, fill

TEXT = st.text(
    st.characters(codec="utf-8", exclude_characters="<\u241e\u241f"), max_size=40
)  # no "<s>": text may spell a special token
CHAT = "{% for m in messages %}{{ '<s>[USER] ' + m['content'] + ' [MODEL]' }}{% endfor %}"


@pytest.fixture(scope="module")
def builder() -> PromptBuilder:
    return PromptBuilder(byte_tokenizer(300))


@pytest.fixture(scope="module")
def sentencepiece() -> PromptBuilder:
    """A Llama-2-like vocabulary: spaces are part of words, a dummy space comes first, bytes as a last resort."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "▁", "c", "a", "t", "ca", "cat", "▁cat"]
    merges = [("c", "a"), ("ca", "t"), ("▁", "cat")]
    model = models.BPE({p: i for i, p in enumerate(pieces)}, merges, unk_token="<unk>", byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.chat_template = CHAT
    return PromptBuilder(fast)


@settings(max_examples=150, deadline=None)
@given(before=TEXT, context=TEXT.filter(bool), after=TEXT)
def test_parts_of_a_prompt_are_the_ids_of_the_whole_text(builder, before, context, after) -> None:
    prompt = builder.build(before, context, after)
    whole = builder.tokenizer(before + context + after)["input_ids"]
    assert prompt.prefix + prompt.context + prompt.query == whole
    assert bytes_of(prompt.context) == context.encode()
    assert prompt.audit.tokens == len(prompt)
    assert prompt.audit.bos == 1
    assert prompt.audit.cut_at is None


@settings(max_examples=150, deadline=None)
@given(
    context=TEXT.filter(lambda text: len(text.encode()) > 3),
    room=st.integers(1, 60),
    side=st.sampled_from(["middle", "left", "right"]),
)
def test_only_the_context_is_cut_and_the_budget_is_kept(builder, context, room, side) -> None:
    before, after = "Read: ", "\nQ?"
    whole = builder.build(before, context, after)
    budget = len(whole) - len(whole.context) + room
    prompt = builder.build(before, context, after, budget=budget, side=side)
    assert (prompt.prefix, prompt.query) == (whole.prefix, whole.query)
    assert budget - 1 <= len(prompt) <= budget or prompt.context == whole.context
    at, cut = prompt.audit.cut_at, prompt.audit.cut_tokens
    assert len(prompt.context) + cut == len(whole.context)
    if cut:
        assert prompt.context == whole.context[:at] + whole.context[at + cut :]
        assert {"left": at == 0, "right": at == len(prompt.context), "middle": True}[side]


@settings(max_examples=200, deadline=None)
@given(before=st.integers(0, 20), tokens=st.integers(1, 80), after=st.integers(0, 20), data=st.data())
def test_middle_truncation_is_the_rule_of_longbench(before, tokens, after, data) -> None:
    budget = data.draw(st.integers(before + after + 1, before + after + tokens))
    ids = list(range(before + tokens + after))
    half = budget // 2
    official = ids[:half] + ids[-half:] if len(ids) > budget else ids
    assume(half >= max(before, after))  # else the official rule cuts into instruction or question
    assume(2 * half > before + after)  # else it leaves no context
    prompt = assemble(
        Frame(ids[:before], ids[before + tokens :], None, 0), ids[before : before + tokens], budget=budget
    )
    assert prompt.prefix + prompt.context + prompt.query == official


def test_kept_ends_never_exceed_the_room() -> None:
    assert kept_ends(10, 12, "middle") == (10, 0)
    assert kept_ends(100, 10, "middle", before=50) == (0, 10)
    assert kept_ends(100, 10, "middle", after=50) == (10, 0)
    assert kept_ends(100, 10, "left") == (0, 10)
    assert kept_ends(100, 10, "right") == (10, 0)


def test_a_token_across_the_border_is_not_context(sentencepiece) -> None:
    prompt = sentencepiece.build("x c", "at cat", " cat")
    ids = sentencepiece.tokenizer.convert_ids_to_tokens
    assert ids(prompt.prefix)[-1] == "▁cat"  # " c" of the instruction and "at" of the context are one token
    assert ids(prompt.context) == ["▁cat"]
    assert ids(prompt.query) == ["▁cat"]
    whole = sentencepiece.tokenizer("x cat cat cat")["input_ids"]
    assert prompt.prefix + prompt.context + prompt.query == whole


def test_ids_behind_a_text_have_no_dummy_space(sentencepiece) -> None:
    tokens = sentencepiece.tokenizer.convert_ids_to_tokens
    assert tokens(sentencepiece.encode("cat")) == ["▁cat"]
    assert tokens(sentencepiece.encode("cat", after=".")) == ["cat"]
    assert tokens(sentencepiece.frame("", " cat").query) == ["▁cat"]


@pytest.mark.parametrize("chat", [False, True])
def test_one_bos_and_never_two(sentencepiece, chat) -> None:
    prompt = sentencepiece.build("a ", "cat cat", " t", chat=chat, answer=" cat")
    ids = [*prompt.prefix, *prompt.context, *prompt.query]
    assert ids.count(1) == 1
    assert ids[0] == 1
    assert prompt.audit.bos == 1
    assert sentencepiece.tokenizer.decode(prompt.query).endswith(" [MODEL] cat" if chat else " t cat")


def test_no_bos_where_the_tokenizer_adds_none(builder) -> None:
    tokenizer = copy.deepcopy(builder.tokenizer)  # has a bos_token, like SmolLM2, and does not put it first
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel()
    prompt = PromptBuilder(tokenizer).build("", "text", "")
    assert prompt.prefix == []
    assert prompt.audit.bos == 0


def test_the_question_is_found_in_the_query(builder) -> None:
    question = "Who sat — the cat?"
    prompt = builder.build("Who sat — the cat?", "The cat.", f"\nQ: {question}\nA:", question=question)
    assert bytes_of(prompt.query[slice(*prompt.question)]).decode() == question
    frame = builder.frame("", f"\nQ: {question}\nA:", question=question)
    assert (frame.query, frame.question) == (prompt.query, prompt.question)


def test_the_audit_knows_whether_the_evidence_was_cut(builder) -> None:
    context = "a" * 20 + "KEY" + "b" * 20
    cases = [("middle", 24, False), ("right", 24, True), ("right", 23, False), ("left", 24, True), ("left", 23, False)]
    for side, budget, survived in cases:
        prompt = builder.build("", context, "", budget=budget, side=side, evidence=(20, 23))
        assert prompt.audit.needle_survived is survived
        assert ("KEY" in builder.tokenizer.decode(prompt.context)) is survived
    assert builder.build("", context, "").audit.needle_survived is None


def test_template_slots_are_filled_and_braces_in_data_are_safe(builder) -> None:
    before, after = fill("Read {context}\nQ: {input}", input="a {b} {context}?")
    assert (before, after) == ("Read ", "\nQ: a {b} {context}?")
    with pytest.raises(ValueError, match="exactly one"):
        fill("no slot")
    digest = builder.build(before, "x", after, template="abc").audit.template_sha256
    assert digest == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_bad_input_is_one_sentence(builder) -> None:
    with pytest.raises(UserError, match="context of a sample is empty"):
        builder.build("a", "", "b")
    with pytest.raises(UserError, match="choose a larger --length"):
        builder.build("instruction", "context", "question", budget=10)
    with pytest.raises(UserError, match="no chat template"):
        builder.build("a", "b", "c", chat=True)


def test_slow_tokenizers_are_refused() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(UserError, match="fast tokenizer"):
        PromptBuilder(Slow())  # type: ignore[arg-type]


def bytes_of(ids: list[int]) -> bytes:
    """What byte tokens stand for, whole characters or not."""
    tokenizer = byte_tokenizer(300)
    alphabet = {c: b for b, c in tokenizer_bytes().items()}
    return bytes(alphabet[token] for token in tokenizer.convert_ids_to_tokens(ids))


def tokenizer_bytes() -> dict[int, str]:
    """Byte -> printable character of byte-level vocabularies (GPT-2's table)."""
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {b: chr(b) for b in keep}
    rest = (b for b in range(256) if b not in table)
    return table | {b: chr(256 + i) for i, b in enumerate(rest)}
