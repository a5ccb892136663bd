# One door: `make` lists what can be done. Every target makes .venv first, where it is missing or older than its versions.

.DEFAULT_GOAL := help
.PHONY: help install demo bench chaos test test-long check golden docs locale clean

VENV  := .venv
BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed

# One thread in tests: steady numbers, and no fight for the cores.
test test-long check golden: export OMP_NUM_THREADS = 1

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-18s %s\n", $$1, $$2}'

install: $(STAMP) ## make .venv with tunesmith and the tools to work on it

demo: $(STAMP) ## the main job on a small real model: data, training, evaluation, merge
	$(BIN)/tunesmith demo

bench: $(STAMP) ## tunesmith and its peers on the same work, in about an hour
	$(BIN)/python bench/run.py

N := 200
chaos: export OMP_NUM_THREADS = 1
chaos: $(STAMP) ## kill N=200 real trainings, resume them, and compare the bits
	$(BIN)/python chaos/run.py --kills $(N)

test: $(STAMP) ## the tests, in minutes
	$(BIN)/python -m pytest -m "not long" -n 2 --dist loadfile

test-long: $(STAMP) ## the slow proofs, at most an hour
	$(BIN)/python -m pytest -m long

check: $(STAMP) ## style, types and the rules of the house
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/python -m pytest -q tests/test_house.py

golden: $(STAMP) ## write the golden files anew, to be read as a diff
	TUNESMITH_GOLDEN=write $(BIN)/python -m pytest -q -m "not long"

docs: $(STAMP) ## write the pages that are made from the code
	@for page in config:settings cli:commands; do \
	  file=docs/reference/$${page#*:}.md; \
	  TUNESMITH_LANG=en $(BIN)/python -m tunesmith.$${page%:*}.reference > $$file.new && mv $$file.new $$file || exit 1; \
	done

locale: $(STAMP) ## bring the translations up to the sentences in the code
	$(BIN)/python tests/test_locale.py

clean: ## remove .venv and all caches; runs stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -not -path './.*' -prune -exec rm -rf {} +

# torch goes first and alone: it is the largest part, and the one whose failure is worth seeing by itself.
$(STAMP): constraints.txt pyproject.toml
	@$(BIN)/python $(PROBE) 2>/dev/null || $(MAKE) --no-print-directory venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e . $$($(BIN)/python -c "$$DEV")
	@touch $@

# A name on the PATH may be a stub that doesn't run, so every candidate is asked for its version.
PROBE := -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))'
CANDIDATES := $(or $(PYTHON),python3.12 python3.11 python3 python)

define DEV
import tomllib
print(*tomllib.load(open("pyproject.toml", "rb"))["dependency-groups"]["dev"])
endef
export DEV

.PHONY: venv
venv:
	@for python in $(CANDIDATES); do \
	  if $$python $(PROBE) 2>/dev/null; then echo "Making $(VENV) with $$python."; exec $$python -m venv --clear $(VENV); fi; \
	  version=$$($$python --version 2>/dev/null) && found="$${found:+$$found, }$$version"; \
	done; \
	echo "tunesmith needs Python 3.11 or 3.12, and found here: $${found:-none}; name another with make PYTHON=/path/to/python3.12." >&2; \
	exit 1
