"""RULER: official texts and formulas, prompts that fill their length, instances that depend on nothing else."""

from __future__ import annotations

import json
import lzma
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from not_empty import not_empty
from transformers import PreTrainedTokenizerFast

from evals.errors import UserError
from evals.methods.weights import byte_tokenizer
from evals.tasks.base import DataSource, Instance, Output
from evals.tasks.common.fitting import fitting_size
from evals.tasks.common.generated import shrinking
from evals.tasks.ruler import templates
from evals.tasks.ruler.niah import Niah, split_sentences
from evals.tasks.ruler.qa import Documents, Question
from evals.tasks.ruler.task import NIAH, Ruler, RulerSettings, score
from evals.tasks.settings.controls import controlled

LENGTH = 16384
"""With a tokenizer of bytes: some 4,000 ordinary tokens."""


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_tokenizer(258)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Essays, SQuAD and HotpotQA in their original forms, small."""
    folder = tmp_path_factory.mktemp("ruler")
    (folder / "PaulGrahamEssays").mkdir()
    for name in ("b", "a"):
        text = " ".join(f"Essay {name} says thing {i}. It is so, isn't it? Yes!\n" for i in range(40))
        (folder / "PaulGrahamEssays" / f"{name}.txt").write_text(text, encoding="utf-8")
    squad = {
        "data": [
            {
                "paragraphs": [
                    {
                        "context": f"Article {a} paragraph {p} says that the answer is {a * 10 + p}.",
                        "qas": [
                            {
                                "question": f"What is the answer of {a} {p}?",
                                "answers": [{"text": str(a * 10 + p)}, {"text": "another"}],
                                "is_impossible": False,
                            },
                            {"question": "Unanswerable?", "answers": [], "is_impossible": True},
                        ],
                    }
                    for p in range(5)
                ]
            }
            for a in range(1, 100)
        ]
    }
    with lzma.open(folder / "squad.json.xz", "wt", encoding="utf-8") as file:
        json.dump(squad, file)
    hotpot = [
        {
            "question": f"Who is {i}?",
            "answer": f"name {i}",
            "context": [[f"Title {i} {t}", ["One sentence. ", f"Two: {i}."]] for t in range(10)],
        }
        for i in range(60)
    ]
    (folder / "hotpotqa.json").write_text(json.dumps(hotpot), encoding="utf-8")
    return folder


def instances(
    task: str,
    tokenizer: PreTrainedTokenizerFast,
    data: Path | None,
    limit: int = 3,
    seed: int = 0,
    length: int = LENGTH,
) -> list[Instance]:
    ruler = Ruler(task, RulerSettings(), DataSource(data_dir=data))
    ruler.check()
    return list(ruler.instances(tokenizer, length, limit, seed))


def context(instance: Instance, tokenizer: PreTrainedTokenizerFast) -> str:
    return tokenizer.decode(instance.prompt.context)


@pytest.mark.parametrize("task", Ruler.subsets)
def test_prompts_fill_their_length(task: str, tokenizer: PreTrainedTokenizerFast, data: Path) -> None:
    found = instances(task, tokenizer, data)
    assert len(found) == 3
    for instance in found:
        total = len(instance.prompt) + instance.max_new_tokens
        assert 0.9 * LENGTH < total <= LENGTH
        assert instance.prompt.prefix.count(tokenizer.bos_token_id) == 1
        assert instance.prompt.audit.cut_tokens == 0
        start, end = instance.prompt.question
        question = tokenizer.decode(instance.prompt.query[start:end])
        assert question.rstrip("?.") in tokenizer.decode(instance.prompt.query)
        assert question.split()[0] in {"What", "Find", "Do", "Who"}


@pytest.mark.parametrize("task", ["niah_single_1", "niah_multikey_3", "niah_multiquery", "vt", "cwe", "fwe", "qa_1"])
def test_an_instance_depends_on_its_index_and_seed_alone(
    task: str, tokenizer: PreTrainedTokenizerFast, data: Path
) -> None:
    few, many = (instances(task, tokenizer, data, limit) for limit in (2, 3))
    assert [i.prompt for i in few] == [i.prompt for i in many[:2]]
    assert [i.reference for i in few] == [i.reference for i in many[:2]]
    assert len({tuple(i.prompt.context) for i in many}) == 3
    assert instances(task, tokenizer, data, 1, seed=1)[0].prompt.context != few[0].prompt.context


class TestNeedles:
    @pytest.mark.parametrize("task", NIAH)
    def test_needles_and_wording(self, task: str, tokenizer: PreTrainedTokenizerFast, data: Path) -> None:
        config = NIAH[task]
        for instance in not_empty(instances(task, tokenizer, data, 2)):
            text, query = context(instance, tokenizer), tokenizer.decode(instance.prompt.query)
            answers = instance.reference
            assert len(answers) == config.values * config.queries
            assert all(text.count(answer) == 1 for answer in answers)
            if config.haystack != "needle":
                assert text.count("One of the special magic") == config.keys * config.values
            kind = config.value
            if len(answers) == 1:
                assert f"What is the special magic {kind[:-1]} for" in query
                assert query.endswith("mentioned in the provided text is")
                assert tokenizer.decode(instance.prompt.prefix).startswith(f"<s>A special magic {kind[:-1]} is hidden")
            else:
                assert "What are all the special magic numbers for" in query
                assert query.endswith("mentioned in the provided text are")
            pattern = {"numbers": r"[1-9]\d{6}", "uuids": r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"}[kind]
            assert all(re.fullmatch(pattern, answer) for answer in answers)

    def test_an_essay_is_kept_word_for_word_around_the_needle(self) -> None:
        essay = ["One", "two", "three.", "Four", "five!", "Six", "seven?", "(Eight)", "nine.)", "Ten."]
        sample = Niah("essay", essay=essay).sample(random.Random(0), 25, 0)
        without = re.sub(r"One of the special magic numbers for \S+ is: \d{7}\. ?", "", sample.context)
        assert without.split() == (essay * 3)[:25]

    def test_needles_lie_between_sentences(self) -> None:
        essay = [word for i in range(50) for word in f"Sentence {i} ends here.".split()]
        for seed in range(20):
            text = Niah("essay", essay=essay, keys=4).sample(random.Random(seed), len(essay), 0).context
            assert len(re.findall(r"(?:^ ?|\. )One of the special magic", text)) == 4

    def test_sentences_split_after_closing_quotes_and_not_in_abbreviated_numbers(self) -> None:
        text = 'He paid 3.5 dollars. "Why?" she asked. (Nobody knew.) The end'
        assert split_sentences(text) == ["He paid 3.5 dollars.", '"Why?" she asked.', "(Nobody knew.)", "The end"]


class TestQuestions:
    def documents(self, text: str) -> list[str]:
        return re.split(r"(?:^|\n\n)Document \d+:\n", text)[1:]

    def test_squad(self, tokenizer: PreTrainedTokenizerFast, data: Path) -> None:
        for instance in not_empty(instances("qa_1", tokenizer, data, 7)):
            found = self.documents(context(instance, tokenizer))
            question = tokenizer.decode(instance.prompt.query)
            article, paragraph = re.search(r"answer of (\d+) (\d+)\?", question).groups()
            assert sum(d.startswith(f"Article {article} ") for d in found) == 5  # its own article comes first
            assert any(d.startswith(f"Article {article} paragraph {paragraph} ") for d in found)
            assert len(set(found)) == len(found)
            assert question.endswith(" Answer:")
            assert instance.reference == [str(int(article) * 10 + int(paragraph)), "another"]

    def test_hotpotqa(self, tokenizer: PreTrainedTokenizerFast, data: Path) -> None:
        for i, instance in enumerate(not_empty(instances("qa_2", tokenizer, data, 3))):
            found = self.documents(context(instance, tokenizer))
            assert sum(d.startswith(f"Title {i} ") for d in found) == 10
            assert f"Title {i} 0\nOne sentence. Two: {i}." in found
            assert instance.reference == [f"name {i}"]

    @given(st.sets(st.integers(0, 59), min_size=1), st.integers(0, 59), st.randoms(use_true_random=False))
    def test_distractors_are_drawn_from_all_documents_but_its_own(
        self, own: set[int], wanted: int, rng: random.Random
    ) -> None:
        gold, *near = sorted(own, reverse=True)
        documents = Documents([Question("Who?", ["Ann"], [gold], near)], [f"text {i}" for i in range(60)])
        others = [i for i in range(60) if i not in own]
        count = min(wanted, len(near) + len(others))
        state = rng.getstate()
        found = documents._distractors(rng, documents.questions[0], count)
        rng.setstate(state)
        assert found == (near + rng.sample(others, count - len(near)) if count > len(near) else rng.sample(near, count))

    def test_one_question_that_does_not_fit_is_cut_and_says_so(
        self, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
    ) -> None:
        rows = [
            {
                "question": f"Who is {i}?",
                "answer": "Ann",
                "context": [["Title", [f"Sentence {i}. " * (400 if i == 1 else 9)]]],
            }
            for i in range(3)
        ]
        (tmp_path / "hotpotqa.json").write_text(json.dumps(rows), encoding="utf-8")
        fits, cut, again = instances("qa_2", tokenizer, tmp_path, 3, length=2048)
        assert (fits.prompt.audit.cut_tokens, again.prompt.audit.cut_tokens) == (0, 0)
        assert cut.prompt.audit.cut_tokens > 2000
        assert cut.prompt.audit.cut_query == 0
        assert 2040 < len(cut.prompt) + cut.max_new_tokens <= 2048

    def test_there_are_no_more_instances_than_questions(self, tokenizer: PreTrainedTokenizerFast, data: Path) -> None:
        assert len(instances("qa_2", tokenizer, data, 100, length=4096)) == 60


class TestScores:
    @settings(deadline=None)  # the first example imports lm-eval
    @given(
        text=st.text(alphabet="aAbB \n\x00", max_size=12),
        answers=st.lists(st.text(alphabet="aAbB ", min_size=1, max_size=2), min_size=1, max_size=4),
    )
    def test_string_match_against_lm_eval(self, text: str, answers: list[str]) -> None:
        from lm_eval.tasks.ruler.common_utils import postprocess_pred, string_match_all

        expected = string_match_all(postprocess_pred([text]), [answers])
        assert score("vt", text, answers) == pytest.approx(expected)
        assert score("qa_1", text, answers) == float(expected > 0)  # any reference, unlike lm-eval's mean

    def test_evaluate(self, tokenizer: PreTrainedTokenizerFast) -> None:
        task = Ruler("vt", RulerSettings(), DataSource())
        (instance,) = task.instances(tokenizer, LENGTH, 1, 0)
        text = " ".join(instance.reference[:3]).lower()
        assert task.evaluate(instance, Output(text=text)) == {"score": pytest.approx(0.6)}


class TestSizes:
    @settings(max_examples=50)
    @given(
        base=st.integers(0, 50),
        unit=st.floats(0.5, 30),
        smallest=st.integers(1, 9),
        length=st.integers(60, 5000),
        largest=st.none() | st.integers(10, 300),
    )
    def test_the_largest_that_fits(
        self, base: int, unit: float, smallest: int, length: int, largest: int | None
    ) -> None:
        def tokens(size: int) -> int:
            assert largest is None or size <= largest
            return base + int(unit * size)

        size = fitting_size(tokens, length, smallest, largest)
        assert size == smallest or tokens(size) <= length
        assert size == largest or tokens(size + 1) > length

    def test_a_128k_prompt_is_built_few_times(self) -> None:
        built = []
        fitting_size(lambda size: built.append(size) or 300 + int(23.4 * size), 131072, 1, None)
        assert sum(built) < 8 * 131072 / 23.4

    def test_shrinking_ends_at_the_smallest(self) -> None:
        assert list(shrinking(3, 1)) == [3, 2, 1]
        assert list(shrinking(1, 5)) == [5]
        assert list(shrinking(1000, 100))[:2] == [1000, 980]


class TestMistakes:
    @pytest.mark.parametrize("task", ["niah_single_2", "qa_1", "qa_2"])
    def test_missing_data(self, task: str, tmp_path: Path) -> None:
        for folder in (None, tmp_path):
            with pytest.raises(UserError, match="--data-dir"):
                Ruler(task, RulerSettings(), DataSource(data_dir=folder)).check()

    def test_broken_data(self, tmp_path: Path) -> None:
        (tmp_path / "squad.json").write_text('{"data": [', encoding="utf-8")
        with pytest.raises(UserError, match=r"squad\.json is not JSON"):
            Ruler("qa_1", RulerSettings(), DataSource(data_dir=tmp_path)).check()

    @pytest.mark.parametrize(
        ("task", "name", "content", "message"),
        [
            ("niah_single_2", "PaulGrahamEssays/a.txt", b"\xff", r"a\.txt is not UTF-8 \(byte 0\)"),
            ("niah_single_2", "PaulGrahamEssays/a.txt", b" \n", r"a\.txt is empty"),
            ("niah_single_2", "PaulGrahamEssays.json", b'["text"]', r"PaulGrahamEssays\.json: the row does not fit"),
            ("qa_1", "squad.json", b'{"data": 5}', r"squad\.json: data does not fit"),
            ("qa_1", "squad.json", b'{"data": []}', r"squad\.json has no question with an answer"),
            ("qa_1", "squad.json", b'{"data": [{"paragraphs": [{"context": "x"}]}]}', r"data\.0\.paragraphs\.0\.qas"),
            ("qa_1", "squad.json", b"[" * 100_000, r"squad\.json has too long a number or too deep"),
            ("qa_1", "squad.json.xz", lzma.compress(b'{"data": []}')[:-8], r"squad\.json\.xz is broken"),
            ("qa_2", "hotpotqa.json", b'[{"a": 1}]', r"hotpotqa\.json: 0\.question does not fit"),
            ("qa_2", "hotpotqa.json", b'{"a": 1}', r"hotpotqa\.json: the row does not fit"),
            ("qa_2", "hotpotqa.json", b"[]", r"hotpotqa\.json has no question with an answer"),
        ],
    )
    def test_malformed_data(self, task: str, name: str, content: bytes, message: str, tmp_path: Path) -> None:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=message):
            Ruler(task, RulerSettings(), DataSource(data_dir=tmp_path)).check()

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"answers": [{"text": " "}]}, r"answers\.0\.text does not fit \(it is empty or blank\)"),
            ({"answers": []}, r"qas\.0 does not fit \(answers is empty\)"),
        ],
    )
    def test_a_question_without_an_answer(self, fields: dict[str, Any], message: str, tmp_path: Path) -> None:
        asked = {"question": "Who?", "is_impossible": False, **fields}
        squad = {"data": [{"paragraphs": [{"context": "Ann sings.", "qas": [asked]}]}]}
        (tmp_path / "squad.json").write_text(json.dumps(squad), encoding="utf-8")
        with pytest.raises(UserError, match=message):
            Ruler("qa_1", RulerSettings(), DataSource(data_dir=tmp_path)).check()

    def test_a_task_reads_the_files_that_it_names(self, data: Path) -> None:
        read = {
            task: [path.name for path in Ruler(task, RulerSettings(), DataSource(data_dir=data)).files()]
            for task in ("niah_single_1", "niah_single_2", "vt", "qa_1", "qa_2")
        }
        assert read == {
            "niah_single_1": [], "niah_single_2": ["PaulGrahamEssays"], "vt": [], "qa_1": ["squad.json.xz"],
            "qa_2": ["hotpotqa.json"],
        }  # fmt: skip
        assert Ruler("qa_1", RulerSettings(), DataSource(data_dir=data / "PaulGrahamEssays")).files() == []

    def test_a_length_without_room(self, tokenizer: PreTrainedTokenizerFast) -> None:
        with pytest.raises(UserError, match="512 tokens cannot hold vt"):
            instances("vt", tokenizer, None, length=512)

    def test_another_text_in_lm_eval(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(templates, "_READERS", {"vt": lambda: templates._Text("{context} Other?", " Answer:")})
        templates.template.cache_clear()
        with pytest.raises(UserError, match="not the official one"):
            templates.template("vt")
        templates.template.cache_clear()


def test_end_to_end(command: Callable[..., Any], tiny_presets: Callable[..., Path], tmp_path: Path) -> None:
    preset = tiny_presets("full", shape=None, max_context=4096)
    run = command(
        *["--task", "ruler:niah_single_1,ruler:niah_multikey_2", "--model", preset, "--length", "1k"],
        *["--limit", 2, "--output", tmp_path / "run", "--device", "cpu"],
    )
    assert run.code == 0, run.err
    assert [(cell["task"], cell["n"]) for cell in run.last["cells"]] == [
        ("ruler:niah_single_1", 2),
        ("ruler:niah_multikey_2", 2),
    ]
    assert all(0 <= cell["metrics"]["score"] <= 1 for cell in run.last["cells"])


@pytest.mark.parametrize("subset", ["qa_1", "qa_2"])
def test_another_context_of_a_question_never_has_its_answer(tokenizer, data, subset) -> None:
    task = Ruler(subset, RulerSettings(context=("own", "other")), DataSource(data_dir=data))
    made = not_empty(task.instances(tokenizer, 2048, 3, 0))
    for own, other in zip(made, controlled(task, made)[1::2], strict=True):
        text = tokenizer.decode(other.prompt.context)
        assert len(other.prompt) == len(own.prompt)
        assert other.control == "other"
        gold = task._documents.questions[int(own.id)].gold
        assert not any(task._documents.documents[d][:60] in text for d in gold)
        assert all(task._documents.documents[d][:60] in tokenizer.decode(own.prompt.context) for d in not_empty(gold))
