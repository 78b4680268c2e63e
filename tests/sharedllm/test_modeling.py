"""SharedLLM as a model: shared storage, no leaks, batches, cached decoding, generation, bases, gradients, devices."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from accelerate.utils import send_to_device
from shapes import BASES, CHUNK, VOCABULARY, base_model, shared_model
from torch import nn
from transformers import StaticCache

from sharedllm import SharedLLMForCausalLM, reading
from sharedllm.compressor import Compressor, LowerModel, lower_layer
from sharedllm.errors import UserError
from sharedllm.outputs import SharedLLMOutput
from sharedllm.search import ask


@pytest.fixture
def running() -> torch.Tensor:
    return torch.randint(1, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(2))


@pytest.fixture
def context() -> torch.Tensor:
    return torch.randint(1, VOCABULARY, (2, 3, CHUNK), generator=torch.Generator().manual_seed(3))


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-5)


# --- self-injection ---------------------------------------------------------------------------------------------


def test_the_lower_model_is_the_bases_bottom_layers() -> None:
    base = base_model()
    model = shared_model(base)
    for lower, layer in zip(model.lower_layers, base.model.layers, strict=False):
        assert [p.data_ptr() for p in lower.parameters()] == [p.data_ptr() for p in layer.parameters()]
    new = {n for n, _ in model.named_parameters() if not n.startswith("base.")}
    parts = ("norm.weight", "q_proj.weight", "o_proj.weight")
    assert new == {f"cross_attention.{i}.{part}" for i in range(2) for part in parts}
    assert sum(p.numel() for n, p in model.named_parameters() if n not in new) == base.num_parameters()


@pytest.mark.parametrize("kind", BASES)
@pytest.mark.parametrize("length", [9, 50])  # 50: longer than the sliding windows
def test_an_untrained_model_equals_its_base(kind: str, length: int, context: torch.Tensor) -> None:
    base = base_model(kind).eval()
    model = SharedLLMForCausalLM.from_base(base, chunk_size=CHUNK, ratios=[4, 2], lower_layers=2)
    text = torch.randint(1, VOCABULARY, (2, length))
    with torch.no_grad():
        expected = base(text).logits
        assert torch.equal(model(text, context, query_length=5).logits, expected)
        assert torch.equal(model(text).logits, expected)


def test_an_own_lower_model_learns_and_a_shared_one_gives_constants(
    running: torch.Tensor, context: torch.Tensor
) -> None:
    own = shared_model(own_lower=True).train()
    own(running, context, labels=running, query_length=5).loss.backward()
    gradients = [p.grad for p in own.lower[0].parameters()]
    assert all(g is not None and g.abs().max() > 0 for g in gradients)
    assert own.lower[0].mlp.up_proj.weight.data_ptr() != own.base.model.layers[0].mlp.up_proj.weight.data_ptr()
    shared = shared_model().train()
    with torch.no_grad():
        compressed = shared.compress(context)
    out = shared(running, context, labels=running, use_cache=False)
    assert not out.context.keys[0].requires_grad
    out.loss.backward()
    first = {n: p.grad.clone() for n, p in shared.named_parameters() if p.grad is not None}
    shared.zero_grad()
    shared(running, context=compressed, labels=running, use_cache=False).loss.backward()
    for name, parameter in shared.named_parameters():
        assert torch.equal(parameter.grad, first[name]), name


# --- what the search may see ------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["last_token", "maxsim"])
def test_the_search_sees_the_question_and_nothing_behind_it(
    policy: str, running: torch.Tensor, context: torch.Tensor
) -> None:
    model = shared_model(policy=policy, ratios=[8, 4, 2])
    changed = running.clone()
    changed[:, 6:] = (changed[:, 6:] + 1) % VOCABULARY
    with torch.no_grad():
        one = model(running, context, query_start=1, query_length=5)
        two = model(changed, context, query_start=1, query_length=5)
    assert torch.equal(one.context.path, two.context.path)
    close(one.logits[:, :6], two.logits[:, :6])
    other = torch.stack([(running + shift) % VOCABULARY for shift in range(8)])
    with torch.no_grad():
        paths = [model(o, context, query_start=1, query_length=5).context.path for o in other]
    assert any(not torch.equal(p, one.context.path) for p in paths), "the question itself must matter"


@pytest.mark.parametrize("policy", ["last_token", "maxsim", "right"])
def test_language_modelling_never_searches(policy: str, running: torch.Tensor, context: torch.Tensor) -> None:
    model = shared_model(policy=policy)
    with torch.no_grad():
        out = model(running, context)
        last = running.clone()
        last[:, -1] = (last[:, -1] + 1) % VOCABULARY
        other = model(last, context)
        right = shared_model(policy="right")(running, context, query_length=5)
    assert out.context.path is None
    assert torch.equal(out.logits[:, :-1], other.logits[:, :-1])
    assert torch.equal(out.logits, right.logits)


def test_each_chunk_is_searched_with_its_own_question(running: torch.Tensor, context: torch.Tensor) -> None:
    model = shared_model(ratios=[8, 4, 2])
    start, length = torch.tensor([[0, 4]] * 2), torch.tensor([[3, 5]] * 2)
    asked = torch.tensor([[0, 1, 0], [1, 1, 0]])
    with torch.no_grad():
        mixed = model(running, context, query_start=start, query_length=length, chunk_question=asked).context.path
        alone = [model(running, context, query_start=s, query_length=n).context.path for s, n in ((0, 3), (4, 5))]
    assert torch.equal(mixed, torch.where(asked[..., None] == 0, alone[0], alone[1]))


@pytest.mark.parametrize(
    ("start", "length", "said"),
    [
        (0, 0, "A question is empty"),
        (0, torch.tensor([0, 3]), "A question is empty"),
        (0, -1, "A question is empty"),
        (7, 3, "span tokens 7 to 10, and the running text has 9"),
        (-2, 3, "span tokens -2 to 1"),
    ],
)
def test_a_question_without_tokens_of_the_text_is_refused(
    start: int, length: int | torch.Tensor, said: str, running: torch.Tensor, context: torch.Tensor
) -> None:
    with pytest.raises(UserError, match=said):
        shared_model()(running, context, query_start=start, query_length=length)


# --- batches, blocks, positions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [CHUNK - 1, CHUNK + 2])
def test_chunks_of_another_size_are_refused(size: int, running: torch.Tensor) -> None:
    """They would be read, at places that no adapter was trained for."""
    model, context = shared_model(), torch.ones(2, 3, size, dtype=torch.long)
    for chunks in (context, context.flatten(1)):
        with pytest.raises(UserError, match=f"not \\(rows, chunks, {CHUNK}\\): cut the context"):
            model(running, chunks)


def test_a_static_cache_is_refused(running: torch.Tensor, context: torch.Tensor) -> None:
    """What it returns ends with empty places, to which the text would attend."""
    model = shared_model().eval()
    cache = StaticCache(config=model.config.base_config, max_cache_len=64)
    with pytest.raises(UserError, match="use a dynamic one"):
        model(running, context, past_key_values=cache)
    with pytest.raises(UserError, match="use a dynamic one"):
        model.generate(running, context_ids=context, max_new_tokens=2, cache_implementation="static")


@pytest.mark.parametrize("policy", ["last_token", "maxsim", "right"])
def test_a_batch_equals_one_by_one(policy: str, context: torch.Tensor) -> None:
    """Rows with different numbers of chunks and lengths of text, padded on the left."""
    model = shared_model(policy=policy)
    chunks, lengths = [3, 1], [9, 6]
    rows = [torch.randint(1, VOCABULARY, (n,)) for n in lengths]
    padded = torch.stack([nn.functional.pad(row, (9 - len(row), 0)) for row in rows])
    mask = torch.stack([nn.functional.pad(torch.ones_like(row), (9 - len(row), 0)) for row in rows])
    start = torch.tensor([9 - n for n in lengths])
    with torch.no_grad():
        batch = model(
            padded,
            context,
            num_chunks=torch.tensor(chunks),
            attention_mask=mask,
            query_start=start,
            query_length=torch.tensor([5, 4]),
        )
        for i, row in enumerate(rows):
            one = model(row[None], context[i : i + 1, : chunks[i]], query_length=5 - i)
            close(batch.logits[i, 9 - len(row) :], one.logits[0])


def test_padding_on_the_right_changes_nothing(running: torch.Tensor, context: torch.Tensor) -> None:
    model = shared_model()
    mask = torch.ones_like(running)
    mask[1, 6:] = 0
    with torch.no_grad():
        batch = model(running, context, attention_mask=mask, query_length=4)
        one = model(running[1:, :6], context[1:], query_length=4)
    close(batch.logits[1, :6], one.logits[0])


@pytest.mark.parametrize("policy", ["last_token", "maxsim", "right"])
@pytest.mark.parametrize("chunk_size", [CHUNK, CHUNK - 1])
def test_blocks_of_chunks_equal_all_at_once(policy: str, chunk_size: int, context: torch.Tensor) -> None:
    model = shared_model(policy=policy, ratios=[8, 4, 2])
    chunks = context.flatten(0, 1)[:, :chunk_size]

    def compressed(block_bytes: int) -> Any:
        parts = model.get_input_embeddings(), model._rope, model.base.model.norm, lower_layer
        compressor = Compressor(LowerModel(model.config, model.lower_layers, *parts, block_bytes=block_bytes))
        hidden = torch.randn(1, 9, 32, generator=torch.Generator().manual_seed(0))
        question = None if policy == "right" else ask(model.base.model.layers[0], hidden, 2, 5, None, len(chunks))
        question = question and question.of(torch.ones(1, len(chunks), dtype=torch.bool))
        return list(compressor.blocks(chunks, question, [0.0] * 3))

    with torch.no_grad():
        (whole,), blocks = compressed(2**31), compressed(2 * chunk_size * 3 * 48 * 4)
    assert [len(block.position) for block in blocks] == [2, 2, 2]
    for name in ("keys", "values"):
        for i, layer in enumerate(getattr(whole, name)):
            close(layer, torch.cat([getattr(block, name)[i] for block in blocks]))
    for name in ("position", "mask", "path"):
        parts = [getattr(block, name) for block in blocks]
        assert (
            parts == [None] * 3 if getattr(whole, name) is None else torch.equal(getattr(whole, name), torch.cat(parts))
        )


@pytest.mark.parametrize("chunks", [[3, 3], [1, 3]])
@pytest.mark.parametrize("policy", ["right", "maxsim"])
def test_a_context_of_several_blocks_is_the_same_and_teaches_the_same(
    policy: str, chunks: list[int], running: torch.Tensor, context: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = shared_model(own_lower=True, policy=policy, ratios=[4, 1], fine_chunks=2)

    def read(train: bool) -> tuple[SharedLLMOutput, list[torch.Tensor]]:
        with torch.set_grad_enabled(train):
            out = model(running, context, num_chunks=torch.tensor(chunks), query_length=5, labels=running)
        gradients = torch.autograd.grad(out.loss, list(model.lower.parameters()), allow_unused=True) if train else []
        return out, [g for g in gradients if g is not None]

    whole = {train: read(train) for train in (False, True)}
    monkeypatch.setattr(reading, "BLOCK_BYTES", 1)  # a chunk each
    for train, (wanted, gradients) in whole.items():
        found, others = read(train)
        close(found.logits, wanted.logits)
        close(torch.stack(found.context.keys), torch.stack(wanted.context.keys))
        assert (found.context.fine is None) == (policy == "right")
        if policy == "maxsim":
            assert torch.equal(found.context.fine, wanted.context.fine)
        assert (len(gradients) > 5) == train
        for a, b in zip(others, gradients, strict=True):
            close(a, b)


def test_gaps_between_chunks_move_keys_and_queries(running: torch.Tensor, context: torch.Tensor) -> None:
    """Chunks at positions 5, 7, 9 differ from 0, 1, 2 by their distances, from 4, 6, 8 by nothing."""
    model = shared_model()
    with torch.no_grad():
        plain, gaps, moved = (
            model(running, context, chunk_index=torch.tensor([index] * 2)).logits
            for index in ([0, 1, 2], [5, 7, 9], [4, 6, 8])
        )
    close(gaps, moved)
    assert (gaps - plain).abs().max() > 1e-2


def test_split_noise_acts_in_training_only(running: torch.Tensor, context: torch.Tensor) -> None:
    noisy, quiet = shared_model(split_noise=0.2, policy="right"), shared_model(policy="right")
    with torch.no_grad():
        expected = quiet(running, context).logits
        assert torch.equal(noisy(running, context).logits, expected)
        noisy.train(), quiet.train()
        torch.manual_seed(0)
        drawn = [noisy(running, context).logits for _ in range(3)]
        torch.manual_seed(0)
        assert torch.equal(noisy(running, context).logits, drawn[0])
        assert torch.equal(quiet(running, context).logits, expected)
    assert not torch.allclose(drawn[0], expected)
    assert not torch.allclose(drawn[0], drawn[1])


# --- decoding and generation ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BASES)
def test_stepwise_decoding_equals_one_forward(kind: str, context: torch.Tensor) -> None:
    model = shared_model(base_model(kind))
    text = torch.randint(1, VOCABULARY, (2, 33))
    with torch.no_grad():
        whole = model(text, context, query_length=5)
        part = model(text[:, :28], context, query_length=5, use_cache=True)
        logits = [part.logits]
        for i in (28, 29, 30):
            part = model(text[:, i : i + 1], context=part.context, past_key_values=part.past_key_values)
            logits.append(part.logits)
        part = model(text[:, 31:], context=part.context, past_key_values=part.past_key_values)
    close(torch.cat([*logits, part.logits], 1), whole.logits)
    assert part.context.keys[0].shape == (2, 2, 3 * (3 + 3 + 3), model.cross_attention[0].head_dim)


def test_generate_is_the_greedy_loop(running: torch.Tensor, context: torch.Tensor) -> None:
    model = shared_model()
    with torch.no_grad():
        out = model(running, context, query_length=5, use_cache=True)
        frozen, tokens = out.context, [out.logits[:, -1].argmax(-1)]
        for _ in range(5):
            text = torch.cat([running, torch.stack(tokens, 1)], 1)
            tokens.append(model(text, context=frozen).logits[:, -1].argmax(-1))
    arguments = {"context_ids": context, "query_length": 5, "max_new_tokens": 6, "do_sample": False}
    made = model.generate(running, **arguments)
    assert made[:, 9:].tolist() == torch.stack(tokens, 1).tolist()
    for i in range(2):
        alone = model.generate(running[i : i + 1], **{**arguments, "context_ids": context[i : i + 1]})
        assert alone[0].tolist() == made[i].tolist()
    assert made.tolist() != model.generate(running, max_new_tokens=6, do_sample=False).tolist()
    again = model.generate(running, context=frozen, max_new_tokens=6, do_sample=False)
    assert again.tolist() == made.tolist()


def test_generate_pads_on_the_left(context: torch.Tensor) -> None:
    model = shared_model()
    text = torch.randint(1, VOCABULARY, (1, 6))
    padded = nn.functional.pad(text, (3, 0))
    usual = {"context_ids": context[:1], "max_new_tokens": 6, "do_sample": False}
    alone = model.generate(text, query_length=4, **usual)
    mask = (padded != 0).long()
    assert model.generate(padded, attention_mask=mask, query_start=3, query_length=4, **usual)[:, 9:].tolist() == (
        alone[:, 6:].tolist()
    )


def test_sampling_and_beams(running: torch.Tensor, context: torch.Tensor) -> None:
    model = shared_model()
    arguments = {"context_ids": context, "query_length": 5, "max_new_tokens": 4}

    def sampled() -> list[list[int]]:
        torch.manual_seed(4)
        return model.generate(running, do_sample=True, num_return_sequences=3, **arguments).tolist()

    first = sampled()
    assert first == sampled()
    assert len(first) == 6
    assert len({tuple(row) for row in first}) > 2
    with torch.no_grad():
        compressed = model(running, context, query_length=5).context
    beams = model.generate(running, do_sample=False, num_beams=2, num_return_sequences=2, **arguments)
    given = model.generate(
        running, context=compressed, do_sample=False, num_beams=2, num_return_sequences=2, max_new_tokens=4
    )
    assert beams.shape == (4, 13)
    assert beams.tolist() == given.tolist()
    scores = [
        model(beams[i : i + 1], context_ids=context[i // 2 : i // 2 + 1], query_length=5)
        .logits[0, 8:12]
        .log_softmax(-1)
        .gather(1, beams[i, 9:, None])
        .sum()
        .item()
        for i in range(4)
    ]
    assert scores[0] >= scores[1] and scores[2] >= scores[3], "the better beam of a row comes first"


# --- training and devices ---------------------------------------------------------------------------------------


def test_gradient_checkpointing_gives_the_same_gradients(running: torch.Tensor, context: torch.Tensor) -> None:
    found = []
    for on in (False, True):
        model = shared_model(own_lower=True).train()
        if on:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model(running, context, query_length=5, labels=running).loss.backward()
        found.append({n: p.grad for n, p in model.named_parameters()})
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient)


def test_rows_without_chunks_learn_and_read_nothing(running: torch.Tensor, context: torch.Tensor) -> None:
    model = shared_model().train()
    out = model(running, context, num_chunks=torch.tensor([0, 2]), query_length=5, labels=running)
    with torch.no_grad():
        close(out.logits[0], model(running[:1]).logits[0])
    out.loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("policy", ["right", "maxsim"])
def test_layers_on_two_devices(policy: str, running: torch.Tensor, context: torch.Tensor) -> None:
    """Every module moves its inputs to its own device, as accelerate's hooks do; `meta` stands for the second GPU."""
    model = shared_model(policy=policy)
    second = ("base.model.layers.1", "base.model.layers.2", "base.model.norm", "base.lm_head", "cross_attention.1")
    for name in second:
        for module in model.get_submodule(name).to("meta").modules():
            module.register_forward_pre_hook(
                lambda _, args, kwargs: (
                    send_to_device(args, "meta"),
                    send_to_device(kwargs, "meta", skip_keys=["past_key_values"]),
                ),
                with_kwargs=True,
            )
    with torch.no_grad():
        out = model(running, context, num_chunks=torch.tensor([3, 2]), query_length=5, use_cache=True)
        step = model(running[:, :1], context=out.context, past_key_values=out.past_key_values)
    assert out.logits.device.type == "meta"
    assert out.logits.shape == (2, 9, VOCABULARY)
    assert step.logits.shape == (2, 1, VOCABULARY)
    assert [k.device.type for k in out.context.keys] == ["cpu", "meta"]


# --- settings ---------------------------------------------------------------------------------------------------
