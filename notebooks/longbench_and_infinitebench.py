# %% [markdown]
# # LongBench and InfiniteBench (tables 3 and 4)
#
# At its end you can say which prompts, cuts and scorers make a score of either benchmark, and run both on your rows.
#
# Both benchmarks run with their official prompts (checked by hash), truncation and scorers. Their data sets are not
# part of this repository, so `FULL = False` shows a recorded run on **stand-in rows**: one invented row per data set,
# in the official format, written by `sample_rows.py` from Python's help texts. It shows the whole path and **says
# nothing about any model's LongBench score**. `FULL = True` runs the official rows, from the hub or from the folder
# `DATA`.

# %%
FULL = False
DATA = ""  # folder with data.zip of LongBench and InfiniteBench's .jsonl files; empty: the hub
MODELS = "full-135m,truncated-135m,streamingllm-135m,sharedllm-135m"
LONGBENCH = "../runs/longbench-full" if FULL else "recorded/longbench"
INFINITEBENCH = "../runs/infinitebench-full" if FULL else "recorded/infinitebench"

# %%
import tools
from evals.tasks.infinitebench import task as infinitebench
from evals.tasks.longbench import task as longbench

if FULL:
    source = f"--data-dir {DATA}" if DATA else ""
    tools.run(f"sharedllm-eval --task longbench --model {MODELS} --length 4k,32k {source} --output {LONGBENCH}")
    tools.run(
        "sharedllm-eval --task infinitebench:math_find,infinitebench:longbook_choice_eng,infinitebench:number_string "
        f"--model {MODELS} --length 128k --set scorer=2024-06 {source} --output {INFINITEBENCH}"
    )
tools.origin(LONGBENCH)
tools.origin(INFINITEBENCH)

# %% [markdown]
# ## LongBench in five categories (table 4)
#
# Means of categories over 14 English and code sets, as SharedLLM and Activation Beacon report them. Averages are
# never mixed, and a view is shown only if all of its sets were run.
#
# With `FULL = False` our rows are one stand-in per set and **cannot be compared with the published row** below them.

# %%
scores = tools.data(LONGBENCH)
tools.tables(scores, "table4", "view-longbench")

# %%
tools.plots(scores, "scores-longbench")

# %% [markdown]
# Every sample stores its prompt and what was cut:

# %%
cell = next(c for c, r in scores.run.cells.items() if r.task == "longbench:qasper")
sample = scores.run.scored(cell)[0]
print(sample.audit)
print("...", sample.prompt.tail[-260:], "->", repr(sample.output.text[:80]))

# %% [markdown]
# ## InfiniteBench (table 3)
#
# Math.Find and Retrieve.Number can be generated at any length, so only the multiple-choice row is a stand-in. All rows
# are 2K long, the published ones 128K.

# %%
tools.tables(tools.data(INFINITEBENCH), "table3", "view-infinitebench")

# %% [markdown]
# ## Scorers are plain functions
#
# They include the official post-processing: for few-shot sets only the first line counts, and InfiniteBench's multiple
# choice was scored differently before and after August 2024.

# %%
print(longbench.score("triviaqa", "Ada Lindqvist\nQuestion: another", ["Ada Lindqvist"]))
print(longbench.score("qasper", "It was Ada Lindqvist.", ["Ada Lindqvist"]))
for scorer in ("2024-06", "2024-08"):
    print(scorer, infinitebench.score("longbook_choice_eng", "I would say B, Paris", ["Paris", "B"], scorer=scorer))
