# Everything a person or CI runs. Each target installs what it needs into .venv and nothing elsewhere.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TESTED := $(VENV)/.tested
JOBS ?= 2

.PHONY: demo serve try test check bench install clean

install: $(STAMP)

$(STAMP): pyproject.toml scripts/install
	PYTHON=$(PYTHON) scripts/install $(VENV)
	touch $(STAMP)

demo: $(STAMP)  ## train base / SFT / RL / hybrid on the embedded model and write one report
	$(BIN)/temper run recipes/quickstart.toml

serve: $(STAMP)  ## the guarded gateway before SmolLM2-135M on http://127.0.0.1:8080, until Ctrl-C
	mkdir -p runs/serve
	$(BIN)/temper serve smollm2-135m --policy examples/serve-policy.toml --database sqlite:///runs/serve/temper.db \
		--secret runs/serve/secret --checkpoints runs/serve/checkpoints

try: $(STAMP)  ## in a second terminal: a request that is blocked, one that is held, its release
	scripts/try

# the client of the previous major version has an environment of its own
PREVIOUS := $(VENV)/openai-previous

$(TESTED): $(STAMP)
	scripts/system
	$(BIN)/python -m pip --disable-pip-version-check install --quiet --editable '.[inspect]'
	$(PYTHON) -m venv $(PREVIOUS)
	$(PREVIOUS)/bin/python -m pip --disable-pip-version-check install --quiet 'openai>=2,<3'
	touch $(TESTED)

test: $(TESTED)  ## the whole test suite, with the real inspect_ai, both openai clients, PostgreSQL and Chromium
	TEMPER_OPENAI_PREVIOUS=$(abspath $(PREVIOUS))/bin/python $(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile

check: $(STAMP)  ## lint, types, import contract
	$(BIN)/ruff check temper tests bench examples tools
	$(BIN)/ruff format --check temper tests bench examples tools
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)  ## side-by-side benchmarks, about an hour; rows in results/bench
	$(BIN)/python bench/startup.py
	$(BIN)/python bench/proof.py
	$(BIN)/python bench/rules.py
	$(BIN)/python bench/encoder.py
	$(BIN)/python bench/memory.py
	$(BIN)/python bench/judge.py
	$(BIN)/python bench/intervals.py
	$(BIN)/python bench/nulls.py
	$(BIN)/python bench/report.py
	$(BIN)/python bench/audit_journal.py
	$(BIN)/python bench/guard.py --peers $(VENV)/peers
	$(BIN)/python bench/grpo.py

clean:
	rm -rf $(VENV) runs dist build
