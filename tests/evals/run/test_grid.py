"""Ids of cells: everything that decides a sample is in them, and nothing else."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standins import SHAPE, write_preset

from evals.errors import UserError
from evals.methods import presets
from evals.run.checks.inputs import check_unique
from evals.run.grid import plan
from evals.run.identity import digest, digest_of_files
from evals.run.spec import RunSpec, parse_length, split_list
from evals.settings import route
from sharedllm.plain_yaml import assignments

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


def reordered(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: reordered(value[key]) for key in reversed(value)}
    return [reordered(item) for item in value] if isinstance(value, list) else value


@given(JSON)
def test_the_order_of_keys_does_not_matter(value: Any) -> None:
    assert digest(value) == digest(reordered(value))


@given(st.dictionaries(st.text(), JSON, min_size=1, max_size=4), JSON, st.data())
def test_any_other_value_gives_another_digest(value: dict, other: Any, data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(sorted(value)))
    if repr(other) != repr(value[key]):
        assert digest({**value, key: other}) != digest(value)


def only_cell(folder: Path, preset: dict[str, Any] | None = None, **spec: Any) -> str:
    """Id of the cell of a one-cell grid. Without `perf` and the like: they are no part of it."""
    path = write_preset(folder, "toy", **(preset or {}))
    base = {"tasks": ["sum"], "models": [str(path)], "lengths": [64], "random_weights": True}
    [cell] = plan(RunSpec(**{**base, **spec}))
    return cell.id


def test_random_weights_and_a_checkpoint_are_one_too_many(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--random-weights reads no --checkpoint"):
        only_cell(tmp_path, checkpoint=tmp_path)


CHANGES = {
    "task setting": {"settings": {"questions": 5}},
    "model setting": {"settings": {"factor": 3}},
    "length": {"lengths": [65]},
    "seed": {"seed": 1},
    "dtype": {"dtype": "bfloat16"},
    "attention kernel": {"attn": "eager"},
    "preset setting": {"preset": {"settings": {"factor": 2}}},
    "weights": {"preset": {"shape": {**SHAPE, "hidden_size": 32}}},
    "trained part": {"preset": {"adapter": {"source": "elsewhere"}}},
}
NO_CHANGES = {
    "limit": {"limit": 3},
    "reuse": {"reuse": False},
    "cold pass": {"perf": False},
    "device": {"device": "cuda"},
    "a default written out": {"settings": {"factor": 1}},
    "a window that only marks the table": {"preset": {"max_context": 32}},
}


@pytest.mark.usefixtures("standins")
def test_the_id_holds_all_that_decides_a_sample(tmp_path: Path) -> None:
    base = only_cell(tmp_path)
    ids = {name: only_cell(tmp_path, **change) for name, change in CHANGES.items()}
    assert base not in ids.values()
    assert len(set(ids.values())) == len(ids)
    for name, change in NO_CHANGES.items():
        assert only_cell(tmp_path, **change) == base, name


@pytest.mark.usefixtures("standins")
def test_the_task_version_and_the_data_are_in_the_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from standins import Sum

    data = tmp_path / "data"
    data.mkdir()
    (data / "rows.jsonl").write_text("one", encoding="utf-8")
    base, with_data = only_cell(tmp_path), only_cell(tmp_path, data_dir=data)
    (data / "rows.jsonl").write_text("two", encoding="utf-8")
    monkeypatch.setattr(Sum, "version", 2)
    assert len({base, with_data, only_cell(tmp_path, data_dir=data), only_cell(tmp_path)}) == 4


@pytest.mark.usefixtures("standins")
def test_an_adapter_trained_further_gives_another_id(tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    ids = set()
    for content in ("first", "other"):
        (adapter / "adapter.safetensors").write_text(content, encoding="utf-8")
        ids.add(only_cell(tmp_path, preset={"adapter": {"source": str(adapter)}}))
    assert len(ids) == 2


def test_every_byte_of_a_file_counts(tmp_path: Path) -> None:
    content = bytearray(3 << 20)
    found = set()
    for place in (None, 0, 1 << 20, (1 << 20) + 77, len(content) - 1):
        if place is not None:
            content[place] ^= 1
        (tmp_path / "rows.jsonl").write_bytes(content)
        found.add(digest_of_files(tmp_path, [tmp_path]))
    assert len(found) == 5


def test_what_is_not_read_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("one", encoding="utf-8")
    before = digest_of_files(tmp_path, [tmp_path])
    for name in ("run/run.json", "run/samples.jsonl", ".DS_Store", ".cache/x", "README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}", encoding="utf-8")
    assert digest_of_files(tmp_path, [tmp_path]) == before
    (tmp_path / "rows.jsonl").rename(tmp_path / "other.jsonl")
    assert digest_of_files(tmp_path, [tmp_path]) != before


@pytest.mark.usefixtures("standins")
def test_two_names_of_one_model_are_refused(tmp_path: Path) -> None:
    models = [str(write_preset(tmp_path, name)) for name in ("a", "b")]
    cells = plan(RunSpec(tasks=["sum"], models=models, lengths=[64], random_weights=True))
    with pytest.raises(UserError, match="The models a and b have equal settings and weights"):
        check_unique(cells)


@pytest.mark.usefixtures("standins")
def test_a_length_named_twice_is_one_cell(tmp_path: Path) -> None:
    spec = RunSpec(tasks=["sum"], models=[str(write_preset(tmp_path, "a"))], lengths=[64, 64], random_weights=True)
    assert len(plan(spec)) == 1


def test_an_unreadable_file_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, mode: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    (tmp_path / "rows.jsonl").write_text("one", encoding="utf-8")
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match=r"rows\.jsonl cannot be read \(Permission denied\): make it readable"):
        digest_of_files(tmp_path, [tmp_path])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name: \xe9\n", r"a\.yaml is not UTF-8 \(byte 6\): save the file as UTF-8"),
        (b"max_context: 1" + b"0" * 5000, r"a\.yaml cannot be read"),
        (b"[" * 10_000, r"a\.yaml cannot be read: it is"),
    ],
)
def test_a_preset_file_that_cannot_be_read_is_one_sentence(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(UserError, match=message):
        presets.load_preset(str(tmp_path / "a.yaml"))


@pytest.mark.usefixtures("standins")
def test_models_are_outermost_and_default_lengths_are_the_tasks(tmp_path: Path) -> None:
    models = [str(write_preset(tmp_path, name)) for name in ("a", "b")]
    cells = plan(RunSpec(tasks=["sum"], models=models, lengths=[32, 64], random_weights=True))
    assert [(c.model.name, c.length) for c in cells] == [("a", 32), ("a", 64), ("b", 32), ("b", 64)]
    assert [c.length for c in plan(RunSpec(tasks=["sum"], models=models[:1], random_weights=True))] == [64]


@given(st.integers(min_value=1, max_value=16))
def test_lengths_are_read_as_written(tokens: int) -> None:
    assert parse_length(str(tokens)) == tokens
    assert parse_length(f"{tokens}k") == parse_length(f"{tokens}K") == 1024 * tokens
    assert parse_length(f"{tokens}m") == 1024 * 1024 * tokens


@pytest.mark.parametrize("text", ["17m", "16777217", "9999999999999999", "9" * 25, "9" * 300])
def test_a_length_beyond_every_method_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="more than 16,777,216 tokens"):
        parse_length(text)


@pytest.mark.usefixtures("standins")
def test_a_name_too_long_for_the_file_system_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        only_cell(tmp_path, data_dir=Path("x" * 5000))


@pytest.mark.parametrize("text", ["0", "-4k", "8q", "", "k", "1.3", "nan", "inf", "1e400k"])
def test_a_bad_length_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="not a length"):
        parse_length(text)


def test_lists_and_settings_are_read() -> None:
    assert split_list(["a,b", "c", "a"]) == ["a", "b", "c"]
    values = assignments(["depths=3", "ratios=[16, 8]", "name=x=y", "none=null", "rate=0.5"])
    assert values == {"depths": 3, "ratios": [16, 8], "name": "x=y", "none": None, "rate": 0.5}
    for bad in ("depths", "=3", "ratios=[1,"):
        with pytest.raises(UserError):
            assignments([bad])


def test_a_setting_goes_to_the_side_that_declares_it() -> None:
    routed = route({"a": 1, "model.both": 2, "task.both": 3, "b": 4}, ["a", "both"], ["b", "both"])
    assert routed.task == {"a": 1, "both": 3}
    assert routed.model == {"both": 2, "b": 4}
    with pytest.raises(UserError, match=r"task\.both or model\.both"):
        route({"both": 1}, ["both"], ["both"])
    with pytest.raises(UserError, match="did you mean depths"):
        route({"depth": 1}, ["depths"], [])
    with pytest.raises(UserError, match="Unknown setting 'b'"):
        route({"task.b": 1}, ["a"], ["b"])
