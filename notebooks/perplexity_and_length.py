# %% [markdown]
# # Perplexity and length (tables 1 and 2)
#
# At its end you can say how much of a lower perplexity is owed to the context, and whether two methods differ.
#
# How well does a method predict the next tokens as the context grows, and was it the context that helped?
# `FULL = False` shows a run of `results/measured/` on eleven documents, so the intervals are wide. `FULL = True` runs
# more documents on one GPU, on texts in the folder `TEXTS`.

# %%
FULL = False
TEXTS = "texts"
RUN = "../runs/perplexity-full" if FULL else "../results/measured/h100-135m/sweep"
MODELS = "full-135m,truncated-135m,streamingllm-135m,sharedllm-135m"

# %%
import tools

if FULL:
    tools.run(
        f"sharedllm-eval --task perplexity --model {MODELS} --length 8k,16k,32k,64k,128k "
        f"--set min_tokens=131072 windows=20 --data-dir {TEXTS} --output {RUN}"
    )
tools.origin(RUN)

# %% [markdown]
# ## The table
#
# The layout is that of the paper's tables 1 and 2. Published rows (LLaMA-2-7B) appear only if a column of ours has the
# same data set and length (`--set dataset=pg19`), so not here. The line under the table is the fairness record: what
# each method was allowed to use.

# %%
found = tools.data(RUN)
tools.tables(found, "table1-2")

# %% [markdown]
# The default protocol scores **the same targets at every length**. Along a row, only the amount of text before the
# targets changes.

# %%
tools.plots(found, "length-perplexity")

# %% [markdown]
# ## Was it the context?
#
# A trained method may predict better because training moved it towards the domain. So every window is also scored after
# the context of **another** document. The difference is the use of context. If it is near 0, a lower perplexity than a
# rival's does not come from the context.

# %%
tools.plots(found, "context_use")

# %%
columns = [
    "model",
    "length",
    "n",
    "ppl",
    "ppl_low",
    "ppl_high",
    "use_of_context",
    "use_of_context_low",
    "use_of_context_high",
]
found.summary.loc[found.summary["ppl"].notna(), columns].round(3)

# %% [markdown]
# ## Is a difference real?
#
# Both models scored the same windows, so the comparison is paired. `detectable` is the true difference that this
# many documents would show four times in five. The verdict is about the scores, not about their cause: a lower
# perplexity may be adaptation to the domain, which the control above reveals.

# %%
verdict = tools.run(f"sharedllm-report compare {RUN} --model streamingllm-135m,sharedllm-135m")
