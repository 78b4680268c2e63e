# %% [markdown]
# # Ablations (table 5)
#
# What is each part of SharedLLM worth? The paper trains every variant. Here **one trained adapter is read with one
# setting changed** and not trained again, so a loss may also mean that the adapter is not used to the setting.
# Variants are preset files in `variants/`. `FULL = False` reads a small run recorded on a CPU (five needles at 2K);
# `FULL = True` runs more needles at more lengths, and perplexity.

# %%
FULL = False
RUN = "../runs/ablations-full" if FULL else "recorded/ablations"
VARIANTS = ["maxsim", "last-token", "right", "halving-ratios", "node-positions"]

# %%
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
# ## What the paper found
#
# Trained variants of LLaMA-2-7B; perplexity on Arxiv at 32K (lower is better), and multi-document questions of
# LongBench.

# %%
table = published.table(5)
table.pivot_table(index="variant", columns="column", values="value", sort=False, aggfunc="first")
