# %% [markdown]
# # Ablations (table 5)
#
# At its end you can say which setting of SharedLLM matters for finding a fact, and how little a small run proves.
#
# What is each part of SharedLLM worth? The paper trains every variant. `benchmarks/ablations.py` does so on a small
# base, with the same steps for every variant.
#
# The first part reads **one trained adapter with one setting changed**, without training it again. A worse score may
# then also mean that the adapter is not used to the setting. The variants are preset files in `variants/`.
#
# `FULL = False` shows a small run recorded on a CPU (five needles at 2K) and the runs in `results/measured/`.
# `FULL = True` runs more needles at more lengths, perplexity, and the training, with texts from the folder `TEXTS`.

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
# | variant | change |
# | --- | --- |
# | `maxsim` | none: the adapter was trained with it. Each question token looks for its best match in a half |
# | `last-token` | the paper's search |
# | `right` | no search |
# | `halving-ratios` | keeps a fourth of the leaves instead of all |
# | `node-positions` | compressed keys have their position inside the node instead of their chunk's |

# %%
found = tools.data(RUN)
tools.tables(found, "table5")

# %%
tools.plots(found, "ablation")

# %% [markdown]
# ## Comparison with the first, sample by sample

# %%
for variant in VARIANTS[1:3]:
    tools.run(f"sharedllm-report compare {RUN} --model maxsim,{variant}")
    print()

# %% [markdown]
# ## Trained variants
#
# All variants start from the base and see the same batches. `use` is the use of context: the loss with another
# document's context minus the loss with its own.

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
