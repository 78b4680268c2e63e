"""The example package of `examples/third_party_method`, installed by pip and used through the registry alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import folders
import pytest

ROOT = folders.ROOT
EXAMPLE = ROOT / "examples" / "third_party_method"

USE = """
import json, sys
from evals import registry
from evals.methods import presets
from evals.methods.base import Query, Runtime
preset = presets.load_preset(sys.argv[1]).override({"window": 8})
shape = preset.shape | {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
                        "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 300}
preset = preset.model_copy(update={"shape": shape})
model = registry.method(preset.method).load(preset, Runtime(random_weights=True, offline=True))
session = model.prefill(list(range(40)))
answer = session.generate(Query([7, 8]), 3)
scores, greedy = session.score_greedy(Query([7, 8]), answer)
far, near = (model.prefill(c).score(Query([7, 8]), answer) for c in ([99, *range(1, 40)], [*range(39), 99]))
print(json.dumps({
    "names": sorted(registry.methods()), "answer": answer, "greedy": greedy,
    "forgets": bool((far == scores).all()), "sees": bool((near != scores).any()),
    "state": session.state_bytes == model.cost(40, 2).state_bytes,
}))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package installed in it; pip builds in a copy, the repository stays clean."""
    folder = tmp_path_factory.mktemp("third_party")
    source = shutil.copytree(EXAMPLE, folder / "source")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", folder / "site", source], check=True, capture_output=True, text=True)
    return folder / "site"


def python(*arguments: str | Path, path: Path | None) -> subprocess.CompletedProcess[str]:
    search = os.pathsep.join(map(str, [*([path] if path else []), ROOT]))
    environment = os.environ | {"PYTHONPATH": search, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, cwd=ROOT, check=False
    )


def test_installed_method_runs(installed: Path) -> None:
    done = python("-c", USE, EXAMPLE / "recompute-135m.yaml", path=installed)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert "recompute_window" in result["names"]
    assert "streaming_llm" in result["names"]
    assert len(result["answer"]) == 3
    assert all(result[key] for key in ("greedy", "forgets", "sees", "state"))


def test_without_the_package_the_error_says_so() -> None:
    done = python("-c", USE, EXAMPLE / "recompute-135m.yaml", path=None)
    assert done.returncode != 0
    assert "Unknown method 'recompute_window'" in done.stderr
