# The two commands of the README, and what CI calls besides. PYTHON chooses the interpreter of the environment.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# the plain torch wheel brings gigabytes of CUDA; the CPU build is enough to export and to test
TORCH ?= torch==2.13.0

.PHONY: demo test lint clean

demo: $(VENV)/.ready
	$(BIN)/trt-var build --drafter random:d4 --refiner random:d2 --vae random:ch32 --out engines/demo --force
	$(BIN)/trt-var run --engines engines/demo --n-draft 8 --labels "golden retriever,otter,volcano,teapot" --seed 0 --out demo.png
	@echo "demo.png: four pictures from random weights, so noise; trained weights need: trt-var build --drafter d30 --refiner d16"

test: $(VENV)/.ready
	$(BIN)/python -m pytest

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build/types && mkdir -p build/types/trt_var
	ln -s $(CURDIR)/runtime/* $(CURDIR)/export $(CURDIR)/training build/types/trt_var/
	$(BIN)/mypy

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -c constraints.txt "$(TORCH)" -e ".[cpu,export,dev]"
	touch $@

clean:
	rm -rf $(VENV) engines/demo demo.png
