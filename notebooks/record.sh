#!/bin/sh
# The small runs that the notebooks show with FULL = False, recorded on a CPU. Run in this folder. The same command
# resumes, so delete a folder to measure it again.
set -eu

sharedllm-eval --task needle --length 2k --device cpu --no-perf --output recorded/ablations \
  --model variants/maxsim.yaml,variants/last-token.yaml,variants/right.yaml,variants/halving-ratios.yaml,variants/node-positions.yaml
python sample_rows.py ../runs/standins
longbench=$(ls ../runs/standins/longbench | sed "s/\(.*\).jsonl/longbench:\1/" | paste -sd,)
sharedllm-eval --task "$longbench" --model full-135m,sharedllm-135m --limit 1 --data-dir ../runs/standins \
  --device cpu --no-perf --output recorded/longbench
sharedllm-eval --task infinitebench:math_find,infinitebench:longbook_choice_eng,infinitebench:number_string \
  --model full-135m,sharedllm-135m --length 2k --limit 2 --data-dir ../runs/standins \
  --device cpu --no-perf --output recorded/infinitebench
