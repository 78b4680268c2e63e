# %% [markdown]
# # Efficiency (figure 3, tables 9 to 12)
#
# At its end you can say how memory and time of each method grow with the length of a text, how many times SharedLLM's
# they are, and which of SharedLLM's settings cost what.
#
# Random weights of the right shape take the same time and memory as trained ones. `FULL = False` shows the cold
# measurements of a run in `results/measured/` (shapes of 7B on one H100) and computes the rest. `FULL = True` measures
# the 7B shapes on one GPU, without a download.

# %%
FULL = False
COST = "../runs/figure3" if FULL else "../results/measured/h100-7b/methods"
OVERHEAD = "../runs/tables9-12/run" if FULL else "../results/measured/h100-7b/overhead"
MODELS = "sharedllm-7b,beacon-7b,streamingllm-7b,cepe-7b,longllama-code-7b,yarn-7b-128k,full-7b"

# %%
import sys

import pandas as pd
from transformers import LlamaConfig

import tools
from evals import load_preset
from sharedllm import SharedLLMConfig
from sharedllm.cost import arithmetic

sys.path.append("../benchmarks")
from paper_overhead import PAPER, REFERENCE, paper_ratio, variants

if FULL:
    tools.run(
        f"sharedllm-eval --task efficiency --random-weights --model {MODELS} "
        f"--length 8k,16k,32k,64k,128k,256k,512k --output {COST}"
    )
tools.origin(COST)

# %% [markdown]
# ## Memory and time against length (figure 3)
#
# Cold requests: nothing is reused, one request warms up, medians of the repeats. Out of memory is a data point. With
# `--task efficiency` each model has a process of its own, and the device's floors are recorded beside the times.

# %%
found = tools.data(COST)
tools.plots(found, "figure3")

# %% [markdown]
# The figure adds reading and writing up, as the paper's does. Apart, with the state that is held for a text:

# %%
tools.plots(found, "efficiency")

# %%
columns = ["model", "length", "status", "ttft_s", "tpot_ms", "peak_gib", "state_gib"]
costs = found.costs[found.costs["ttft_s"].notna()]
costs[columns].round(4)

# %% [markdown]
# Ratios to SharedLLM:

# %%
shared = next(name for name in found.models if name.startswith("sharedllm"))
wide = costs.pivot(index="length", columns="model", values=["ttft_s", "tpot_ms", "state_gib"]).astype(float)
wide.div(wide.xs(shared, axis=1, level="model").reindex(wide.columns, axis=1, level=0)).round(2)

# %% [markdown]
# ## What each part of SharedLLM costs (tables 9 to 12)
#
# Every row is the paper's setting with one change, for LLaMA-2-7B and 8K tokens of context. The table shows FLOPs
# until the first token (`sharedllm.cost`, which the tests compare with torch's counter) relative to one row of each
# table, beside the paper's time relative to the same row. The paper does not say what its seconds comprise; ours are
# FLOPs of reading only.

# %%
base = LlamaConfig(**{k: v for k, v in load_preset("sharedllm-7b").shape.items() if k != "model_type"})
rows = []
for variant in variants([9, 10, 11, 12]):
    config = SharedLLMConfig(base, **PAPER | {"policy": "right"} | variant.settings)
    cost = arithmetic(config, chunks=8, running=64, question=64)
    state = cost.state_bytes / 2**20
    rows.append(
        (variant.table, variant.name, cost.prefill / 1e12, state, paper_ratio(variant.table, variant.name, "time_s"))
    )
overhead = pd.DataFrame(rows, columns=["table", "variant", "prefill TFLOP", "state MiB", "time ratio, paper"])
flop = overhead.set_index(["table", "variant"])["prefill TFLOP"]
overhead["FLOP ratio"] = [value / flop[table, REFERENCE[table]] for (table, _), value in flop.items()]
overhead.round(2)

# %% [markdown]
# Measured on a GPU, each variant in a process of its own. A first token after 8K tokens is bound by kernel launches, so
# all differences except those in memory and of M = 8 and 16 are noise. The policies `right` and `maxsim` ran on
# another machine with the same GPU and a slower host:

# %%
if FULL:
    tools.run("python ../benchmarks/paper_overhead.py --output ../runs/tables9-12")
tools.tables(tools.data(OVERHEAD), "table9", "table10", "table11", "table12")
