# Each target makes its own virtual environment if there is none.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: train test lint bench clean

train: $(READY)
	$(BIN)/python examples/image_classifier.py

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	MYPYPATH=$(VENV)/source $(BIN)/mypy -p purefn.functional -p purefn.optim -p purefn.data -p purefn.testing

bench: $(READY)
	$(BIN)/python -m benchmarks.steps
	$(BIN)/python -m benchmarks.dispatch
	$(BIN)/python -m benchmarks.compile_time
	$(BIN)/python -m benchmarks.memory
	$(BIN)/python -m benchmarks.optimizers
	$(BIN)/python -m benchmarks.remat
	$(BIN)/python -m benchmarks.random_numbers
	$(BIN)/python -m benchmarks.per_example

clean:
	rm -rf $(VENV) build dist out .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# mypy does not follow an editable install, so it is shown the packages under their own name.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt \
		--editable ".[vision,examples,test,lint]"
	mkdir -p $(VENV)/source/purefn
	ln -sfn $(CURDIR)/functional $(CURDIR)/optim $(CURDIR)/data $(CURDIR)/testing $(VENV)/source/purefn/
	touch $(READY)
