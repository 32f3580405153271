# Each target makes the virtual environment that it needs; git, make and Python >= 3.11 suffice.
PYTHON ?= python3
BIN := .venv/bin
HOUSE := {{cookiecutter.project_slug}}
DEMO := demo/digits-lab
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test test-fast bench lint clean
help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

# One environment serves the demonstration, the tests and all projects that the tests generate.
.venv/.ready: pyproject.toml $(HOUSE)/pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/pip install --quiet --group test
	rm -rf .venv/generated
	$(BIN)/cookiecutter --no-input --output-dir .venv/generated .
	$(BIN)/pip install --quiet --editable '.venv/generated/digits-lab[dev]'
	touch $@

demo: .venv/.ready ## generate a project, train, report and verify (about a minute after the install)
	rm -rf demo.previous
	if test -e demo; then mv demo demo.previous; echo "the demo before is in demo.previous"; fi
	$(BIN)/cookiecutter --no-input --output-dir demo .
	$(BIN)/pip install --quiet --no-deps --editable $(DEMO)
	cd $(DEMO) && PATH="$(CURDIR)/$(BIN):$$PATH" sh -ec '\
	  lab setup; \
	  lab report 01_baseline; \
	  lab verify reports/01_baseline'
	@$(BIN)/python tests/demo_summary.py $(DEMO)

# three workers on two cores: the one that begins with Slurm mostly waits
test: .venv/.ready ## the whole suite
	$(BIN)/pytest -n 3 --dist worksteal

test-fast: .venv/.ready ## what needs no torch (about a minute)
	$(BIN)/pytest -n 2 --dist worksteal -m 'not torch and not slow and not slurm'

bench: .venv/.ready ## every benchmark; results with the machine in benchmarks/README.md
	$(BIN)/pip install --quiet --group bench
	$(BIN)/python benchmarks/run_all.py

lint: .venv/.ready ## ruff on the template
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean: ## remove what make built
	rm -rf .venv demo demo.previous
