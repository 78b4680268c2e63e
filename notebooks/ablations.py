# %% [markdown]
# # Ablations (table 5)
#
# What is each part of SharedLLM worth? The paper trains every variant; `benchmarks/ablations.py` does so on a small
# base, every variant with the same budget. Before that, **one trained adapter is read with one setting changed**
# and not trained again, so a loss may also mean that the adapter is not used to the setting (variants are preset
# files in `variants/`). `FULL = False` reads a small run recorded on a CPU (five needles at 2K) and what
# `results/measured/` has; `FULL = True` runs more needles at more lengths, perplexity, and the training, with texts
# from the folder `TEXTS`.

# %%
FULL = False
RUN = "../runs/ablations-full" if FULL else "recorded/ablations"
TRAINED = "../runs/ablations-trained" if FULL else "../results/measured"
BASE, TEXTS = "HuggingFaceTB/SmolLM2-135M-Instruct", "texts"
VARIANTS = ["maxsim", "last-token", "right", "halving-ratios", "node-positions"]

# %%
from pathlib import Path

from IPython.display import Markdown, display

import tools
from evals.report import published

if FULL:
    tools.run(
        f"sharedllm-eval --task needle,perplexity --model {','.join(f'variants/{v}.yaml' for v in VARIANTS)} "
        f"--length 8k,32k --set samples=10 --output {RUN}"
    )
tools.origin(RUN)

# %% [markdown]
# ## The variants
#
# `maxsim` is the setting that the adapter was trained with: each question token looks for its best match in a half.
# `last_token` is the paper's search, `right` does not search at all, `halving-ratios` keeps a fourth of the leaves
# instead of all, `node-positions` puts compressed keys at their place inside the node instead of at their chunk's.

# %%
found = tools.data(RUN)
tools.tables(found, "table5")

# %%
tools.plots(found, "ablation")

# %% [markdown]
# ## Compared with the first, sample by sample

# %%
for variant in VARIANTS[1:3]:
    tools.run(f"sharedllm-report compare {RUN} --model maxsim,{variant}")
    print()

# %% [markdown]
# ## Trained variants
#
# All start from the base and see the same batches. `use` is the use of context, the loss with another document's
# context minus that with the own one.

# %%
if FULL:
    tools.run(
        f"python ../benchmarks/ablations.py --base {BASE} --data {TEXTS}/train.jsonl --heldout {TEXTS}/heldout.jsonl "
        f"--steps 100 --jobs 4 --output {TRAINED}"
    )
recorded = sorted(Path(TRAINED).rglob("ablation.md"))
for table in recorded:
    display(Markdown(table.read_text()))
print(f"{len(recorded)} in {TRAINED}")

# %% [markdown]
# ## What the paper found
#
# Trained variants of LLaMA-2-7B; perplexity on Arxiv at 32K (lower is better), and multi-document questions of
# LongBench.

# %%
table = published.table(5)
table.pivot_table(index="variant", columns="column", values="value", sort=False, aggfunc="first")
