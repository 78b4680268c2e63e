"""GraphWalks: the right nodes are asked for, prompts fit, answers are read and scored as published."""

from __future__ import annotations

import random
import re
from itertools import pairwise, permutations
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from not_empty import not_empty
from prompt_text import text

from evals.errors import UserError
from evals.tasks.base import DataSource, Output
from evals.tasks.graphwalks.generated import MOST_NODES
from evals.tasks.graphwalks.graph import at_depth, children, draw, nodes_of, parents
from evals.tasks.graphwalks.scores import parse, set_f1
from evals.tasks.graphwalks.settings import GraphWalksSettings
from evals.tasks.graphwalks.task import GraphWalks
from sharedllm.validation import validate


def task(kind: str = "bfs", **settings) -> GraphWalks:
    return GraphWalks(kind, GraphWalksSettings(**settings), DataSource())


def shortest(edges: set[tuple[str, str]], start: str, end: str) -> int | None:
    """Edges of the shortest path, by trying all paths."""
    others = [node for node in nodes_of(edges) if node not in (start, end)]
    for between in range(len(others) + 1):
        for path in permutations(others, between):
            if all(step in edges for step in pairwise((start, *path, end))):
                return between + 1
    return None


@pytest.mark.parametrize("seed", range(5))
def test_breadth_first_search_agrees_with_all_paths(seed: int) -> None:
    edges = draw(random.Random(seed), 9)
    assert len(set(edges)) == 9
    assert all(start != end for start, end in edges)
    nodes = nodes_of(edges)
    for start in not_empty(nodes):
        for depth in range(1, 5):
            expected = {end for end in nodes if end != start and shortest(set(edges), start, end) == depth}
            assert at_depth(children(edges), start, depth) == expected


@pytest.mark.parametrize(("kind", "depth"), [("parents", 1), ("bfs", 1), ("bfs", 2), ("bfs", 4)])
@pytest.mark.parametrize("length", [1500, 4096])
def test_the_reference_follows_from_the_prompt_and_scores_1(tokenizer, kind: str, depth: int, length: int) -> None:
    made = task(kind, depth=depth)
    for instance in not_empty(made.instances(tokenizer, length, 3, 0)):
        prompt = text(tokenizer, instance)
        edges = re.findall(r"^(\w{10}) -> (\w{10})$", prompt, re.MULTILINE)
        assert len(edges) == instance.meta["edges"]
        node = re.search(r"(?:of|from) node (\w{10})[?,]", prompt)[1]
        expected = parents(edges)[node] if kind == "parents" else at_depth(children(edges), node, depth)
        assert set(instance.reference) == expected
        assert 1 <= len(expected) <= MOST_NODES
        right = Output(text=", ".join(instance.reference) + "]\nand more")
        assert len(right.text) <= instance.max_new_tokens
        assert made.evaluate(instance, right) == {
            "f1": 1,
            "parsed": 1,
            "chance": len(expected) / (instance.meta["nodes"] - 1),
        }
        assert made.evaluate(instance, Output(text=f"{node}]"))["f1"] == 0
        assert made.evaluate(instance, Output(text=", ".join(instance.reference)))["f1"] == 0  # never closed
        used = len(instance.prompt) + instance.max_new_tokens
        assert length * 0.95 < used <= length
        assert instance.prompt.audit.cut_tokens == 0


def test_instances_depend_on_the_arguments_alone(tokenizer) -> None:
    ten, two = list(task().instances(tokenizer, 1500, 5, 0)), list(task().instances(tokenizer, 1500, 2, 0))
    assert two == ten[:2]
    assert len({text(tokenizer, instance) for instance in ten}) == 5
    assert next(task().instances(tokenizer, 1500, 1, 1)).prompt != ten[0].prompt


def test_a_length_without_room_is_one_sentence(tokenizer) -> None:
    with pytest.raises(UserError, match="cannot hold graphwalks bfs: choose a larger --length"):
        list(task().instances(tokenizer, 500, 1, 0))


def test_a_chat_model_writes_the_whole_last_line_itself(tokenizer) -> None:
    tokenizer.chat_template = "{% for m in messages %}[U]{{ m['content'] }}[M]{% endfor %}"
    made = task(chat=True)
    instance = next(made.instances(tokenizer, 2000, 1, 0))
    assert text(tokenizer, instance).endswith("[M]")
    nodes = ", ".join(instance.reference)
    assert made.evaluate(instance, Output(text=f"I search.\nFinal Answer: [{nodes}]"))["f1"] == 1
    assert made.evaluate(instance, Output(text=f"{nodes}]"))["parsed"] == 0


@pytest.mark.parametrize(
    ("answer", "nodes"),
    [
        ("Final Answer: [a, b]", ["a", "b"]),
        ("thought\nFinal Answer:[a,b,]\n", ["a", "b"]),
        ("**Final Answer: [ a ]**", ["a"]),
        ("Final Answer: []", []),
        ("Final Answer: [a]\nI hope this helps", None),
        ("Final Answer: a, b", None),
        ("[a, b]", None),
        ("", None),
    ],
)
def test_the_last_line_is_read(answer: str, nodes: list[str] | None) -> None:
    assert parse(answer) == nodes


@pytest.mark.parametrize(
    ("answer", "truth", "score"),
    [
        ("ab", "ab", 1),
        ("aab", "ba", 1),
        ("a", "ab", 2 / 3),
        ("abcd", "a", 0.4),
        ("c", "a", 0),
        ("", "a", 0),
        ("", "", 1),
    ],
)
def test_sets_are_compared_by_f1(answer: str, truth: str, score: float) -> None:
    assert set_f1(list(answer), list(truth)) == pytest.approx(score)


def test_chance_is_the_mean_f1_of_random_nodes(tokenizer) -> None:
    made, rng = task("parents"), random.Random(0)
    instance = next(made.instances(tokenizer, 1500, 1, 0))
    prompt = text(tokenizer, instance)
    edges = re.findall(r"^(\w{10}) -> (\w{10})$", prompt, re.MULTILINE)
    asked = re.search(r"of node (\w{10})\?", prompt)[1]
    others = [node for node in nodes_of(edges) if node != asked]
    truth = instance.reference
    scores = [set_f1(rng.sample(others, len(truth)), truth) for _ in range(5000)]
    assert sum(scores) / 5000 == pytest.approx(made.evaluate(instance, Output())["chance"], abs=0.02)


PUBLISHED = (
    "You get a graph.\n\nAn example:\nThe graph has the following edges:\nu -> v\nv -> w\n\nOperation:\n\nFind u.\n\n"
    "The graph has the following edges:\n{edges}\nOperation:\n\n{operation}\n\nEnd with `Final Answer: [a, b]`."
)


def published(edges: int, kind: str, answer: list[str]) -> dict[str, object]:
    """A row in the official layout, with an invented prompt."""
    lines = "".join(f"n{i} -> n{i + 1}\n" for i in range(edges))
    operation = "Find the parents of node n3." if kind == "parents" else "Perform a BFS from node n1 with depth 2."
    prompt = PUBLISHED.format(edges=lines, operation=operation)
    chars = len(prompt)
    return {"prompt": prompt, "answer_nodes": answer, "prompt_chars": chars, "problem_type": kind, "date_added": "1"}


def official(folder: Path, rows: list[dict[str, object]], kind: str = "bfs", **settings) -> GraphWalks:
    path = folder / "graphwalks_128k_and_shorter.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return GraphWalks(kind, GraphWalksSettings(source="official", **settings), DataSource(folder, offline=True))


def test_official_prompts_are_asked_as_they_are(tokenizer, tmp_path: Path) -> None:
    rows = [
        published(100, "bfs", ["n3"]),
        published(100, "parents", ["n2"]),
        published(120, "bfs", []),
        published(400, "bfs", ["n3"]),
        published(100, "bfs", [f"n{i}" for i in range(40)]),
    ]
    made = official(tmp_path, rows)
    made.check_length(2600)
    assert [path.name for path in made.files()] == ["graphwalks_128k_and_shorter.parquet"]
    instances = list(made.instances(tokenizer, 2600, None, 0))
    assert [instance.id for instance in instances] == ["0001", "0003", "0005"]  # the fourth is of another length
    assert [instance.id for instance in made.instances(tokenizer, 2600, 1, 0)] == ["0001"]
    assert [instance.id for instance in made.instances(tokenizer, 10400, None, 0)] == ["0004"]
    one, empty, long = instances
    assert text(tokenizer, one) == f"{rows[0]['prompt']}\nFinal Answer: ["
    context = tokenizer.decode(one.prompt.context)
    assert context.startswith("n0 -> n1\n")
    assert context.endswith("n99 -> n100\n")
    first, last = one.prompt.question
    assert tokenizer.decode(one.prompt.query[first:last]) == "Perform a BFS from node n1 with depth 2."
    assert one.meta == {"source": "official", "edges": 100, "nodes": 101}
    assert made.evaluate(one, Output(text="n3]")) == {"f1": 1, "parsed": 1, "chance": 1 / 100}
    assert made.evaluate(empty, Output(text="]")) == {"f1": 1, "parsed": 1, "chance": 1}
    assert made.evaluate(empty, Output(text="n3]"))["f1"] == 0
    assert long.max_new_tokens > len(", ".join(long.reference)) > 128


def test_official_rows_of_the_other_kind_and_in_chat(tokenizer, tmp_path: Path) -> None:
    tokenizer.chat_template = "{% for m in messages %}[U]{{ m['content'] }}[M]{% endfor %}"
    rows = [published(100, "bfs", ["n3"]), published(100, "parents", ["n2"])]
    (instance,) = official(tmp_path, rows, "parents", chat=True).instances(tokenizer, 2600, None, 0)
    assert (instance.id, instance.reference) == ("0002", ["n2"])
    assert text(tokenizer, instance) == f"[U]{rows[1]['prompt']}[M]"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": "no graph"}, "no line `a -> b`"),
        ({"prompt": "a -> b\nb -> c\n"}, "asks nothing"),
        ({"problem_type": "dfs"}, "problem_type"),
        ({"answer_nodes": [" "]}, "answer_nodes"),
        ({"answer_nodes": None}, "answer_nodes"),
    ],
)
def test_wrong_rows_are_one_sentence(tokenizer, fields: dict[str, object], message: str, tmp_path: Path) -> None:
    made = official(tmp_path, [{**published(100, "bfs", ["n3"]), **fields}])
    with pytest.raises(UserError, match=f"parquet, row 1: .*{message}"):
        list(made.instances(tokenizer, 2600, None, 0))


def test_missing_or_broken_files_are_reported(tokenizer, tmp_path: Path) -> None:
    made = official(tmp_path, [published(100, "bfs", ["n3"])])
    with pytest.raises(UserError, match=r"graphwalks_256k_to_1mil.parquet is not in .*openai/graphwalks there"):
        list(made.instances(tokenizer, 262144, None, 0))
    (tmp_path / "graphwalks_128k_and_shorter.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"cannot be read as Parquet .*download it again"):
        list(made.instances(tokenizer, 2600, None, 0))


def test_the_source_is_no_part_of_the_identity_of_older_cells() -> None:
    assert "source" not in GraphWalksSettings().model_dump()
    assert GraphWalksSettings(source="official").model_dump()["source"] == "official"
    with pytest.raises(UserError, match="depth is a setting of source=generated"):
        validate(GraphWalksSettings, {"source": "official", "depth": 3}, "graphwalks")
