# %% [markdown]
# # Perplexity and length (tables 1 and 2)
#
# How well does a method predict the next tokens after more and more context, and was it the context that helped?
# `FULL = False` reads a run of `results/measured/`: eleven documents, so the intervals are wide. `FULL = True` runs
# more of them on one GPU, on texts in the folder `TEXTS`.

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
# The layout is that of the paper's tables 1 and 2. Published rows are of LLaMA-2-7B; they appear where a column of
# ours is the same data set at the same length (`--set dataset=pg19`), so not here. The line under the table is the
# fairness record: what each method was allowed to use.

# %%
found = tools.data(RUN)
tools.tables(found, "table1-2")

# %% [markdown]
# The default protocol scores **the same targets at every length**: what changes along a row is how much the method
# could read before them, never the text that is scored.

# %%
tools.plots(found, "length-perplexity")

# %% [markdown]
# ## Was it the context?
#
# A trained method may predict better because it moved towards the domain. So every window is also scored after the
# context of **another** document: the difference is what reading was worth. Where it is near 0, a lower perplexity
# than a rival's does not come from the context.

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
# many documents would have shown four times in five. The verdict is about the scores, not about the reason for
# them: a lower perplexity may be adaptation, which the control above tells apart.

# %%
verdict = tools.run(f"sharedllm-report compare {RUN} --model streamingllm-135m,sharedllm-135m")
