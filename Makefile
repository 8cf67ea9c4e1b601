# The two commands of the README, and what CI calls besides. PYTHON chooses the interpreter of the environment.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# the plain torch wheel brings gigabytes of CUDA; the CPU build is enough to export and to test
TORCH ?= torch==2.13.0
DIGITS := examples/digits/weights
WAITING := tests/runtime/serving tests/runtime/bulk
CONTRACT := $(addprefix tests/runtime/serving/,test_openai.py test_openai_refusals.py test_tritonclient.py test_page.py \
    test_schemathesis.py load/test_served.py ray/test_deploy.py $(addprefix faults/test_,bodies.py forms.py http.py json.py keys.py \
    tensors.py))

.PHONY: demo digits tour test contract rtx lint docs package release clean

demo: $(VENV)/.ready
	$(BIN)/trt-var build --drafter $(DIGITS)/drafter.safetensors --refiner $(DIGITS)/refiner.safetensors \
	    --vae $(DIGITS)/vae.safetensors --out engines/digits --force
	$(BIN)/trt-var run --engines engines/digits --n-draft 4 --labels 0,1,2,3,4,5,6,7,8,9 --out grid.png
	$(BIN)/trt-var demo --out demo.png

# 33 minutes of training on two cores, some ten more for the rest: weights, bundles, docs/quality.*, the model card
digits: $(VENV)/.ready
	$(BIN)/python examples/digits/train.py
	$(BIN)/python examples/digits/build.py
	$(BIN)/python examples/digits/evaluate.py

# the notebook, with what its cells draw
tour: $(VENV)/.ready
	$(BIN)/jupyter execute --inplace --NotebookClient.record_timing=False examples/tour.ipynb

# tests of services and clusters wait more than they compute: they run beside the others; last, what clients see of a service
# is tested once more on Ray Serve
test: $(VENV)/.rtx
	@mkdir -p build
	@{ $(BIN)/python -m pytest $(WAITING); here=$$?; \
	TRT_VAR_SERVE=ray $(BIN)/python -m pytest $(CONTRACT) -m "not starts" && exit $$here; } > build/test-waiting.log 2>&1 & waiting=$$!; \
	$(BIN)/python -m pytest $(addprefix --ignore=,$(WAITING)); others=$$?; \
	echo "== $(WAITING), meanwhile:"; \
	wait $$waiting; status=$$?; cat build/test-waiting.log; \
	exit $$((others ? others : status))

# the same tests of clients, and those that start services of their own, on Ray Serve: six minutes more
contract: $(VENV)/.ready
	TRT_VAR_SERVE=ray $(BIN)/python -m pytest $(CONTRACT)

# TensorRT-RTX builds engines on the CPU: d16 of real size for three GPUs, sizes and times
rtx: $(VENV)/.rtx
	$(BIN)/trt-var build --drafter random:d16 --vae random --precision fp16 --out engines/random-d16 --force
	for target in sm86 sm89 sm120; do \
	    $(BIN)/trt-var engines engines/random-d16 --kind rtx --target $$target --graphs drafter,drafter.final,decoder --force || exit 1; \
	done

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

# the documentation site: strict, so that broken links, stale command lines and undocumented names fail
docs: $(VENV)/.ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# dist/: sdist and wheel, checked, and drawn with in an environment of their own; PYTHONS="python3.10 python3.14": in one of each
package: $(VENV)/.ready
	$(BIN)/python release/distributions.py $(addprefix --python ,$(PYTHONS))

# a version that is ready, after everything that must pass; publishes nothing, says how
release: $(VENV)/.rtx
	$(BIN)/python release/readiness.py
	$(MAKE) lint
	$(MAKE) docs
	$(MAKE) test
	$(MAKE) package
	$(BIN)/python release/readiness.py --how

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -c constraints.txt "$(TORCH)" -e ".[cpu,train,dev]"
	touch $@

$(VENV)/.rtx: $(VENV)/.ready
	$(BIN)/pip install --quiet -c constraints.txt -e ".[rtx]"
	touch $@

clean:
	rm -rf $(VENV) engines/digits demo.png grid.png
