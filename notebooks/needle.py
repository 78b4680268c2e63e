# %% [markdown]
# # Needle in a haystack
#
# At its end you can say up to which length, and where in a text, each method finds a fact, how sure that is, and why
# SharedLLM found or missed a single one.
#
# A fact with a random 7-digit number is inserted at a known depth of a long text and asked for; the answer must match
# exactly. `FULL = False` shows a run of `results/measured/`: four needles per text, four texts per depth.
# `FULL = True` runs more depths, with ten texts per depth and one needle per text.

# %%
FULL = False
RUN = "../runs/needle-full" if FULL else "../results/measured/h100-135m/sweep"
MODELS = "full-135m,truncated-135m,streamingllm-135m,sharedllm-135m"

# %%
from IPython.display import Markdown

import tools
from evals.report.hints import hints

if FULL:
    tools.run(
        f"sharedllm-eval --task needle --model {MODELS} --length 8k,16k,32k,64k,128k "
        f"--set samples=10 depths=0,10,20,30,40,50,60,70,80,90,100 --output {RUN}"
    )
tools.origin(RUN)

# %% [markdown]
# ## By depth and length

# %%
found = tools.data(RUN)
tools.plots(found, "depth")

# %% [markdown]
# `truncated` removes the middle of a context until it fits its window (here 8192 tokens). Beyond that length it can
# find only needles near the ends, and `streamingllm` only those near the last end: a needle test must show this. `full`
# is dense attention, which breaks down beyond this base's window.
#
# ## By length, with intervals
#
# Each point has twenty needles, and the intervals show how few that is. If no method finds anything, or full attention
# finds everything, the task cannot tell methods apart, and the report says so.

# %%
tools.plots(found, "length-needle")
for hint in hints(found):
    print(hint)

# %%
columns = ["model", "length", "n", "exact_match", "exact_match_low", "exact_match_high", "digit_accuracy"]
found.summary.loc[found.summary["task"] == "needle", columns].round(2)

# %% [markdown]
# ## What the search kept
#
# SharedLLM splits every chunk of 1024 tokens into halves and follows the half that matches the question. It keeps the
# last piece in full in the `fine_chunks` chunks that match best. The trace of a sample lists these pieces, and
# `token` is where the needle begins. What is left of a text after its whole chunks is running text, which is read as it
# is, with the question: a needle there needs no search. At 128K tokens:

# %%
run = found.run
rows = [
    "| depth | needle at | chunk | kept in full of it | answer | expected |",
    "| --- | --- | --- | --- | --- | --- |",
]
for cell, record in run.cells.items():
    if (record.model, record.task, record.length) != ("sharedllm-135m", "needle", 131072):
        continue
    for sample in run.scored(cell):
        at = sample.meta["token"]
        pieces = [p for p in sample.trace.get("kept_full", []) if p["chunk"] == at // 1024]
        kept = ", ".join(f"{p['start']} to {p['end']}" for p in pieces) or "nothing: other chunks matched better"
        if at // 1024 == sample.audit["tokens"] // 1024:  # the chunk is not whole
            kept = "all: it is running text"
        answer = sample.output.text.split(".")[0].strip()
        depth = f"{sample.meta['depth']:.0f}"
        rows.append(f"| {depth} | {at} | {at // 1024} | {kept} | {answer} | {sample.reference} |")
Markdown("\n".join(rows))
