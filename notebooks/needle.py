# %% [markdown]
# # Needle in a haystack
#
# A fact with a random 7-digit number is put at a known depth of a long text and asked for; the answer is compared
# exactly. `FULL = False` reads a small run recorded on a CPU: short texts with one needle each, which is easy.
# `FULL = True` runs up to 128K tokens, ten texts for each depth. What longer texts with several needles do to the
# shipped adapter is in `results/measured/README.md`.

# %%
FULL = False
RUN = "../runs/needle-full" if FULL else "recorded/needle"
MODELS = "full-135m,truncated-135m,streamingllm-135m,sharedllm-135m"

# %%
from IPython.display import Markdown

import tools
from evals.report.tables import hints

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
# `truncated` cuts the middle of a context out until it fits its window (here 1024 tokens): at 1024 it reads all but
# a little, beyond that it can only find what lies near the ends. That is what a needle test must show, whatever
# else it shows.
#
# ## By length, with intervals
#
# Five needles a point: the intervals say how little that is. Where full attention is near 1 or 0 the task cannot
# tell methods apart, and the report says so.

# %%
tools.plots(found, "length-needle")
for hint in hints(found):
    print(hint)

# %%
columns = ["model", "length", "n", "exact_match", "exact_match_low", "exact_match_high", "digit_accuracy"]
found.summary[columns].round(2)

# %% [markdown]
# ## What the search kept
#
# SharedLLM splits every chunk of 1024 tokens in halves, follows the half that matches the question, and keeps the
# last piece in full. The trace of a sample says which piece that was, and `token` where the needle begins.

# %%
run = found.run
rows = [
    "| length | depth | needle at | chunk | kept in full | answer | expected |",
    "| --- | --- | --- | --- | --- | --- | --- |",
]
for cell, record in run.cells.items():
    if record["model"] != "sharedllm-135m":
        continue
    for sample in run.scored(cell):
        at = sample["meta"]["token"]
        for piece in sample["trace"].get("kept_full", []):
            if piece["start"] // 1024 == at // 1024:
                kept, answer = f"{piece['start']} to {piece['end']}", sample["output"]["text"].split(".")[0].strip()
                rows.append(
                    f"| {record['length']} | {sample['meta']['depth']:.0f} | {at} | {piece['chunk']} | {kept} "
                    f"| {answer} | {sample['reference']} |"
                )
Markdown("\n".join(rows))
