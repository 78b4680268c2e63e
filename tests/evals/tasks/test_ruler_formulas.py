"""RULER's generators follow the official formulas and texts, in both revisions."""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from evals.methods.tokenizers.byte_level import byte_tokenizer
from evals.tasks.ruler import templates
from evals.tasks.ruler.aggregation import CommonWords, FrequentWords
from evals.tasks.ruler.tracking import VariableTracking


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_tokenizer(258)


class TestFormulas:
    """Against lm-eval's port of the official generators, where that can be imported without a download."""

    @pytest.mark.parametrize(("revision", "spelling"), [("2025-06", "assigned"), ("2024-12", "assgined")])
    def test_variable_chain(self, revision: templates.Revision, spelling: str) -> None:
        sample = VariableTracking(revision).sample(random.Random(3), 40, 0)
        value = re.search(r"assigned the value (\d+)", sample.question)[1]
        links = re.findall(r"VAR (\w{5}) = (?:VAR )?(\w+)", sample.context)
        assert links == list(zip(sample.answers, [value, *sample.answers], strict=False))
        assert sample.answer_prefix.endswith(f"5 variables are {spelling} the value {value}, they are: ")
        example, instruction = re.split(r"\n{2,}Memorize and track", sample.before)
        assert re.search(r"they are:  (\w{3} ){4}\w{3}$", example)
        assert instruction.endswith("following text.\n\n")

    def test_the_revision_of_2025_writes_a_line_for_every_link(self) -> None:
        new, old = (VariableTracking(r).sample(random.Random(3), 40, 0) for r in ("2025-06", "2024-12"))
        assert new.context.count("\n") == 44
        assert all(re.fullmatch(r"VAR \w{5} = .*|The grass .* again\.", line) for line in new.context.split("\n"))
        assert "again.\n The grass" in old.context
        assert " VAR " in old.context.replace("\n", "")
        assert re.search(r"[A-Z]\n\nMemorize", new.before)
        assert re.search(r"[A-Z]\n\n\n\nMemorize", old.before)

    @pytest.mark.parametrize("size", [20, 60])
    def test_the_variable_text_of_2024_is_lm_evals(self, size: int) -> None:
        from lm_eval.tasks.ruler.vt_utils import generate_input_output

        text, _ = generate_input_output(size, 1, 4)
        sample = VariableTracking("2024-12").sample(random.Random(3), size, 0)
        ours = sample.context + sample.lead + sample.question + sample.answer_prefix
        theirs = text.split("following text.\n\n")[1]
        pieces = [sorted(re.sub(r"[A-Z]{5}|\d{5}", "X", t).split(" ")) for t in (ours, theirs)]
        assert pieces[0] == pieces[1]

    @pytest.mark.parametrize(("revision", "shown"), [("2025-06", "list are: 1. "), ("2024-12", "list are:1. ")])
    def test_the_worked_example_of_common_words(self, revision: templates.Revision, shown: str) -> None:
        sample = CommonWords(4096, revision).sample(random.Random(1), 40, 0)
        assert sample.before.count(shown) == 1

    @pytest.mark.parametrize(("revision", "words"), [("2025-06", (8192 - 50) // 50), ("2024-12", 8192 // 50)])
    def test_the_vocabulary_of_frequent_words(self, revision: templates.Revision, words: int) -> None:
        sample = FrequentWords(8192, revision).sample(random.Random(0), 10**6, 0)
        assert len(set(sample.context.split())) == words

    @pytest.mark.parametrize(("length", "often", "seldom"), [(2048, 6, 1), (4096, 30, 3)])
    def test_common_words_against_lm_eval(self, length: int, often: int, seldom: int) -> None:
        from lm_eval.tasks.ruler.cwe_utils import generate_input_output

        sample = CommonWords(length).sample(random.Random(1), 40, 0)
        _, theirs, _ = generate_input_output(40, length)
        ours = sample.before.rsplit("\n", 2)[-2] + "\n" + sample.context + sample.lead + sample.question
        words = [re.findall(r"\d+\. ([^\d]+?)(?= \d+\.|\nQuestion)", text) for text in (ours, theirs)]
        assert sorted(Counter(words[0]).values()) == sorted(Counter(words[1]).values())
        shape = [re.sub(r"\d+\. .*", "LIST", text) for text in (ours + sample.answer_prefix, theirs)]
        assert shape[0] == shape[1]
        counts = Counter(words[0])
        assert {counts[word] for word in sample.answers} == {often}
        assert {count for word, count in counts.items() if word not in sample.answers} == {seldom}

    def test_common_words_go_on_past_the_end_of_the_word_list(self) -> None:
        sample = CommonWords(1 << 20).sample(random.Random(0), 9000, 0)
        assert len(set(re.findall(r"\d+\. (\D+?)(?= \d+\.|$)", sample.context))) == 9000

    def test_frequent_words_against_lm_eval(self, tokenizer: PreTrainedTokenizerFast) -> None:
        from lm_eval.tasks.ruler.fwe_utils import generate_input_output

        size, vocabulary = 700, 40
        sample = FrequentWords(50 * vocabulary, "2024-12").sample(random.Random(0), size, 0)
        text, _, _ = generate_input_output(1 << 20, tokenizer, num_words=size, vocab_size=vocabulary)
        theirs = text.split("coded words. ")[1].split("\nQuestion")[0]
        ours, theirs = (Counter(t.split()) for t in (sample.context, theirs))
        assert sorted(ours.values()) == sorted(theirs.values())
        assert ours["..."] == theirs["..."] == max(ours.values())
        assert [word for word, _ in ours.most_common(4)] == ["...", *sample.answers]

    @given(size=st.integers(75, 5000))
    def test_the_three_most_frequent_words_are_unique(self, size: int) -> None:
        from evals.tasks.ruler.aggregation import zeta_count

        first, second, third, fourth, fifth = (zeta_count(size, rank) for rank in range(1, 6))
        assert first > second > third > fourth > fifth
