# %% [markdown]
# # Quick start
#
# At its end you can compare long-context methods with one command, read the table that it prints, and use a method in
# Python. Both run here on SmolLM2-135M, whose weights `sharedllm-eval doctor --fix` has fetched, and on text that every
# Python installation has. Nothing else is downloaded.
#
# `FULL = False` takes about a thousand tokens, one needle and half a minute on a CPU, without measuring time and
# memory. `FULL = True` runs the lengths for which the methods were made, on a GPU.

# %%
FULL = False
SIZE = "--length 8k,16k,32k,64k,128k" if FULL else "--length 512 --limit 1 --device cpu --no-perf"

# %%
import tools
from evals import Query, Runtime, load_preset, method

# %% [markdown]
# ## A comparison in one command
#
# The task hides facts in long text and asks for them. First the plan, which loads nothing:

# %%
COMMAND = f"sharedllm-eval --task needle --model full-135m,sharedllm-135m {SIZE}"
plan = tools.run(f"{COMMAND} --dry-run")

# %% [markdown]
# Then the run. The table shows each score with its interval and, without `--no-perf`, time and memory of a cold
# request. The same command again would find everything finished; a larger `--limit` would add samples.

# %%
result = tools.run(COMMAND)

# %% [markdown]
# The last line of the output is JSON, for scripts:

# %%
for cell in result["cells"]:
    print(cell["model"], cell["task"], cell["length"], cell["status"], cell["metrics"])

# %% [markdown]
# The run folder (default: `runs/` and the beginning of the run's hash; `--output` names another) contains `report.html`
# (one page with tables, plots and every sample), `summary.csv`, `plots/`, and `samples.jsonl` with every answer. At 512
# tokens nothing is compressed, so both models read the same, and one sample says nothing about either. The
# [needle notebook](needle.ipynb) shows more.
#
# ## A method in Python
#
# A preset names a method, weights and settings. A method reads a context once and answers any number of questions.

# %%
preset = load_preset("sharedllm-135m")
model = method(preset.method).load(preset, Runtime(device="cuda" if FULL else "cpu"))
model.fairness

# %%
FILLER = "Leaves lay on the path, and nobody had swept them since the morning. "
FACTS = {"Oslo": "4179392", "Lima": "7400424"}
sentences = [FILLER] * (6000 if FULL else 75)
for place, (city, number) in zip((0.3, 0.7), FACTS.items(), strict=True):
    sentences.insert(int(place * len(sentences)), f"The magic number for {city} is {number}. ")
context = model.tokenizer("".join(sentences))["input_ids"]
session = model.prefill(context)
print(f"{len(context)} tokens of context, {len(context) // 1024} chunks of 1024 compressed")

# %%
for city, number in FACTS.items():
    asked = model.tokenizer(f"\n\nQuestion: What is the magic number for {city}?\nAnswer: ")["input_ids"]
    stem = model.tokenizer(f"The magic number for {city} is")["input_ids"]
    query = Query([*asked, *stem], question=(0, len(asked)))
    answer = session.generate(query, max_new_tokens=10)
    print(f"{city}: {model.tokenizer.decode(answer)!r}, expected {number}")
    print("  kept in full:", [(k["start"], k["end"]) for k in session.trace()["kept_full"]])

# %% [markdown]
# `state_bytes` is what is held for the context between two questions. `cost` gives by formula what is held while a
# question is answered, and the plan above what full attention holds per token in two bytes a number:

# %%
expected = model.cost(len(context), len(query.ids)).state_bytes
dense = plan["cells"][0]["dense_kv_bytes"] / plan["cells"][0]["length"] * len(context) * model.dtype.itemsize / 2
for name, size in (("SharedLLM", session.state_bytes), ("with a question", expected), ("full attention", dense)):
    print(f"{name:16} {size / 2**20:6.1f} MiB")

# %% [markdown]
# Next: [perplexity and length](perplexity_and_length.ipynb), [needle](needle.ipynb), [LongBench and
# InfiniteBench](longbench_and_infinitebench.ipynb), [efficiency](efficiency.ipynb), [ablations](ablations.ipynb),
# [adding a method](adding_a_method.ipynb).
