# %% [markdown]
# # Adding a method
#
# At its end you can bring a method of your own into every comparison, and know that it keeps the rules of one.
#
# A method is a class that reads a context and answers queries, an entry point, and a preset. No fork is needed:
# `examples/third_party_method` is such a package. This notebook installs it into a folder of its own, tries it in
# Python, checks what every method must satisfy, and runs it against full attention.
#
# `FULL = False` uses tiny random weights (scores are at chance level); `FULL = True` uses the 135M base at 8K on a GPU.

# %%
FULL = False

# %%
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import yaml
from IPython.display import Code

import tools

PACKAGE = Path("../examples/third_party_method").resolve()

# %% [markdown]
# ## The class
#
# Sliding window with re-computation: for every new token the base reads the last `window` tokens again. Greedy
# decoding and scoring come from `CachedSession`; the package writes only the state, `load`, `prefill` and the cost.

# %%
source = Path(PACKAGE, "recompute_window.py").read_text()
Code(source[source.index("class WindowSession") :], language="python")

# %% [markdown]
# ## The entry point
#
# A line in `pyproject.toml`, in the group `sharedllm.methods`:

# %%
project = Path(PACKAGE, "pyproject.toml").read_text()
print(project[project.index("[project.entry-points") :].split("\n\n")[0])

# %%
site = Path(tempfile.mkdtemp())
copy = shutil.copytree(PACKAGE, site / "source")
pip = "pip install --quiet --no-deps --no-build-isolation --no-index --target"
subprocess.run([sys.executable, "-m", *pip.split(), site, copy], check=True, capture_output=True)
sys.path.insert(0, str(site))
os.environ["PYTHONPATH"] = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])  # for the commands below

from evals import Query, Runtime, load_preset, method
from evals.registry import methods

sorted(methods())

# %% [markdown]
# ## The preset
#
# A preset names method, weights and settings. Here it is tiny:

# %%
SHAPE = {
    "model_type": "llama",
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "initializer_range": 0.4,
}


def preset(method: str, settings: dict) -> str:
    """The path of a preset file."""
    fields = yaml.safe_load(Path(PACKAGE, "recompute-135m.yaml").read_text())
    fields |= {"name": method, "method": method, "settings": settings, "description": ""}
    if not FULL:
        fields |= {"shape": SHAPE, "weights": {"source": "none"}}
    path = site / f"{method}.yaml"
    path.write_text(yaml.safe_dump(fields))
    return str(path)


ours = preset("recompute_window", {"window": 2048 if FULL else 16})
dense = preset("full", {})

# %% [markdown]
# ## What every method must satisfy
#
# Answers do not depend on earlier questions. The generated tokens are those with the best scores. The state is as
# large as `cost` says. If everything fits the window, the method equals full attention.

# %%
runtime = Runtime(random_weights=not FULL)
window, full = (method(load_preset(path).method).load(load_preset(path), runtime) for path in (ours, dense))
context, query, other = list(range(10, 50)), Query([7, 8]), Query([90])

session = window.prefill(context)
answer = session.generate(query, 5)
session.generate(other, 5)
scores, greedy = session.score_greedy(query, answer)
short = context[:8]
distance = (window.prefill(short).score(query, [1, 2]) - full.prefill(short).score(query, [1, 2])).abs().max()

print("same answer after another question:", session.generate(query, 5) == answer)
print("greedy decoding agrees with the scores:", greedy)
print("state equals the formula:", session.state_bytes == window.cost(len(context), 2).state_bytes)
print("equals full attention within the window:", bool(distance < 1e-4))
print("differs beyond it:", not torch.allclose(scores, full.prefill(context).score(query, answer), atol=1e-2))

# %% [markdown]
# ## Against full attention, by the command
#
# The cost columns show the nature of re-computation: almost no state, and slow tokens.

# %%
options = "--length 8k --limit 20" if FULL else "--length 1k --limit 2 --random-weights --device cpu --set window=64"
os.chdir(site)
result = tools.run(f"sharedllm-eval --task needle --model full.yaml,recompute_window.yaml {options} --output run")

# %% [markdown]
# That is all: intervals, plots, the report, resuming and comparison work as for any other method. For a method in this
# repository, add a case to `tests/evals/methods/method_cases.py`; see `docs/adding_a_method.md`.
