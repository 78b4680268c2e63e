# %% [markdown]
# # Efficiency (figure 3, tables 9 to 12)
#
# What a method costs does not depend on trained weights: random ones of the right shape take the same time and
# memory. `FULL = False` reads small runs of the 135M shape recorded on a shared CPU: **ratios within a run are
# meaningful, seconds are not**, and on a CPU the peak is that of the whole process. `FULL = True` measures the 7B
# shapes on one GPU, no download needed.

# %%
FULL = False
COST = "../runs/figure3" if FULL else "recorded/efficiency"
OVERHEAD = "../runs/tables9-12" if FULL else "recorded/overhead"
MODELS = "sharedllm-7b,beacon-7b,streamingllm-7b,cepe-7b,longllama-code-7b,yarn-7b-128k,full-7b"

# %%
import pandas as pd

import tools

if FULL:
    tools.run(
        f"sharedllm-eval --task efficiency --random-weights --model {MODELS} "
        f"--length 8k,16k,32k,64k,128k,256k,512k --output {COST}"
    )
tools.origin(COST)

# %% [markdown]
# ## Memory and time against length (figure 3)
#
# Each model was measured in a process of its own, on cold requests: nothing is reused, one request warms up. Out of
# memory is a data point.

# %%
found = tools.data(COST)
tools.plots(found, "efficiency")

# %%
columns = ["model", "length", "status", "ttft_s", "tpot_ms", "peak_gib", "state_gib", "prefill_share", "token_share"]
found.summary[columns].round(4)

# %% [markdown]
# `prefill_share` and `token_share` say how much of the time the arithmetic (for reading) and the bytes that must be
# moved (for a token) explain on this device. At 1 nothing is left to gain without other arithmetic; far below, the
# time goes elsewhere, on small shapes into launching kernels.
#
# ## As a ratio
#
# How many times slower than SharedLLM, and how much more state:

# %%
rows = found.summary.set_index(["length", "model"])[["ttft_s", "state_gib"]]
shared = next(name for name in found.models if name.startswith("sharedllm"))
ratios = rows / rows.xs(shared, level="model").reindex(rows.index, level="length")
ratios.unstack("model").round(2)

# %% [markdown]
# ## What each part of SharedLLM costs (tables 9 to 12)
#
# Every row is the preset with one setting changed. The paper does not say what its seconds comprise, so ratios to
# one row stand beside ratios: measured here, and published (LLaMA-2-7B, 8K tokens).

# %%
if FULL:
    tools.run(f"python ../benchmarks/paper_overhead.py --output {OVERHEAD}")
tools.origin(f"{OVERHEAD}/run")
overhead = pd.read_csv(f"{OVERHEAD}/overhead.csv")
overhead.round(2)

# %%
tools.tables(tools.data(f"{OVERHEAD}/run"), "table9", "table10", "table11", "table12")
