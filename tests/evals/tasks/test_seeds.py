"""Several seeds in one cell: the prompts of as many runs, one cluster a seed."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from evals.errors import UserError
from evals.methods.weights import byte_tokenizer
from evals.run.work import sample_count
from evals.tasks.base import DataSource, Task
from evals.tasks.graphwalks.settings import GraphWalksSettings
from evals.tasks.graphwalks.task import GraphWalks
from evals.tasks.infinitebench.task import InfiniteBench, InfiniteBenchSettings
from evals.tasks.mrcr.settings import MrcrSettings
from evals.tasks.mrcr.task import Mrcr
from evals.tasks.needle.task import Needle, NeedleSettings
from evals.tasks.ruler.task import Ruler, RulerSettings
from evals.tasks.settings.controls import controlled
from evals.tasks.settings.seeds import seeded

TOKENIZER = byte_tokenizer(258)


def tasks(**settings: Any) -> dict[str, Task]:
    data = DataSource()
    return {
        "needle": Needle(None, NeedleSettings(depths=(0, 50), **settings), data),
        "ruler": Ruler("niah_single_1", RulerSettings(**settings), data),
        "graphwalks": GraphWalks("parents", GraphWalksSettings(**settings), data),
        "mrcr": Mrcr("2needle", MrcrSettings(**settings), data),
        "infinitebench": InfiniteBench("passkey", InfiniteBenchSettings(**settings), data),
    }


@pytest.mark.parametrize("name", tasks())
def test_the_prompts_are_those_of_as_many_runs(name: str) -> None:
    found = seeded(tasks(seeds=3)[name], TOKENIZER, 4096, 5, 7)
    alone = {
        seed: list(tasks()[name].instances(TOKENIZER, 4096, share, seed)) for seed, share in ((7, 2), (8, 2), (9, 1))
    }
    order = [(7, 0), (8, 0), (9, 0), (7, 1), (8, 1)]
    assert [i.prompt for i in found] == [alone[seed][at].prompt for seed, at in order]
    assert [i.reference for i in found] == [alone[seed][at].reference for seed, at in order]
    assert [i.group for i in found] == ["seed 7", "seed 8", "seed 9", "seed 7", "seed 8"]
    assert len({i.id for i in found}) == 5
    assert {i.id for i in seeded(tasks(seeds=3)[name], TOKENIZER, 4096, 3, 7)} < {i.id for i in found}


def test_one_seed_is_as_without_the_setting() -> None:
    plain = list(tasks()["needle"].instances(TOKENIZER, 4096, None, 7))
    assert seeded(tasks(seeds=1)["needle"], TOKENIZER, 4096, None, 7) == plain
    assert "seeds" not in NeedleSettings(seeds=1).model_dump(mode="json")
    assert NeedleSettings(seeds=3).model_dump(mode="json")["seeds"] == 3


def test_where_nothing_is_drawn_there_are_no_seeds() -> None:
    classic = Needle(None, NeedleSettings(template="classic", seeds=2), DataSource())
    with pytest.raises(UserError, match="Nothing in needle is drawn, so all seeds give the same samples"):
        seeded(classic, TOKENIZER, 4096, None, 0)
    with pytest.raises(UserError, match="--limit 2 leaves nothing for some of 3 seeds"):
        seeded(tasks(seeds=3)["needle"], TOKENIZER, 4096, 2, 0)


def test_a_context_is_lent_within_a_cluster_too() -> None:
    task = Needle(None, NeedleSettings(depths=(0, 50), seeds=2, context=("own", "other")), DataSource())
    asked = controlled(task, seeded(task, TOKENIZER, 4096, None, 0))
    assert sum(i.control == "other" for i in asked) == 4
    assert {i.group for i in asked} == {"seed 0", "seed 1"}


@pytest.mark.parametrize("name", tasks())
def test_a_larger_limit_keeps_the_contexts_that_others_lend_in_a_smaller_one(name: str) -> None:
    """One sample of each seed is enough to lend."""
    task = tasks(seeds=3, context=("own", "other"))[name]
    found = [
        {i.id: i.prompt.context for i in controlled(task, seeded(task, TOKENIZER, 4096, limit, 7))}
        for limit in (3, 4, 5, 7, 11)
    ]
    assert [len(contexts) for contexts in found] == [6, 8, 10, 14, 22]
    for smaller, larger in pairwise(found):
        assert smaller.items() <= larger.items()


def test_the_plan_counts_every_seed() -> None:
    assert sample_count(tasks(seeds=3)["needle"], None) == 6
    assert sample_count(tasks(seeds=3)["needle"], 4) == 4


def test_a_report_counts_seeds(tiny_presets: Callable[..., Path], command: Callable[..., Any], tmp_path: Path) -> None:
    result = command(
        *("--task", "needle", "--model", tiny_presets("truncated"), "--length", "512", "--no-perf"),
        *("--set", "seeds=3", "--set", "depths=0,100", "--set", "window=128", "--output", tmp_path / "run"),
    )
    (cell,) = result.last["cells"]
    assert (cell["n"], cell["groups"]) == (6, 3)
