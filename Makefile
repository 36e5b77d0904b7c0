# Two commands for everyone: `make demo` renders a film, `make test` proves the build; `make live` opens the page.
# Works with any POSIX make and sh; the only requirement is Python 3.11 or newer with its venv module.

VENV = .venv
BIN = $(VENV)/bin
APP = $(VENV)/.app-installed
WEB = $(VENV)/.web-installed
RAY = $(VENV)/.ray-installed
DEV = $(VENV)/.dev-installed

.PHONY: setup demo live cluster-demo test test-gpu train-gpu gpu check lint types fix bench golden

setup: $(APP)

demo: $(APP)
	@mkdir -p outputs
	@$(BIN)/rivulet render \
		"a big red ball bounces over the sea" \
		"a blue star drifts to the right over the snow" \
		"a yellow heart spins in the starry night" \
		-o outputs/demo.mp4 --duration 24s --seed 7 --preset embedded --overwrite
	@printf '%s\n' '' \
		'Your film is outputs/demo.mp4 (its seed, settings and frame hashes are beside it).' '' \
		'Try next:' \
		'  $(BIN)/rivulet render "a green square orbits over the meadow" -o outputs/mine.mp4 --duration 20s' \
		'  $(BIN)/rivulet presets        # the streaming systems this engine knows' \
		'  $(BIN)/rivulet bench stream   # how fast this machine is'

# The live page in the browser: type what happens next.
live: $(WEB)
	@$(BIN)/rivulet web

# Two nodes of a cluster on this machine play four films; one engine is killed. The page is outputs/cluster.html.
cluster-demo: $(RAY)
	@$(BIN)/python -m benchmarks.live.two_nodes

# Everything but the tests marked gpu, multigpu or network; the recorded traces are among them. Two files at a time; those
# that drive a browser come by themselves, because they count seconds.
test: $(DEV)
	@.ci/axe $(BIN)/python
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile -m 'not gpu and not multigpu and not network and not browser'
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile -m browser

test-gpu: $(DEV)
	@$(BIN)/python -m pytest -q -m 'gpu or multigpu'

# What a CUDA card makes of it, some minutes a call: its tests once, then figures in parts; the same command goes on.
gpu: $(DEV)
	@$(BIN)/python -c 'import sys, torch; torch.cuda.is_available() or sys.exit("There is no CUDA card here.")'
	@test -e outputs/gpu-tested || $(BIN)/python -m pytest -q -m 'gpu or multigpu'
	@mkdir -p outputs && touch outputs/gpu-tested
	@$(BIN)/rivulet bench gpu

# The embedded model on one CUDA card, nine minutes a call: the same command goes on until it says that it is done.
train-gpu: $(DEV)
	@$(BIN)/python -m training parts --device cuda --out outputs/gpu --start_from training/checkpoints

check: lint types test

lint: $(DEV)
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/ruff check --quiet

types: $(DEV)
	@$(BIN)/pyright --pythonpath $(BIN)/python

fix: $(DEV)
	@$(BIN)/ruff check --fix --quiet
	@$(BIN)/ruff format --quiet

bench: $(APP)
	@$(BIN)/rivulet bench stream

# RIVULET_GOLDEN=/folder/of/traces make golden: replay recorded runs of the original systems from elsewhere.
golden: $(APP)
	@RIVULET_GOLDEN="$${RIVULET_GOLDEN:-tests/golden}" $(BIN)/python -m tests.golden_replay

# The environment: stamps newer than what it is made from, so that a second call does nothing.

$(APP): pyproject.toml constraints.txt
	@.ci/install '$(VENV)' .
	@touch $@

$(WEB): pyproject.toml constraints.txt
	@.ci/install '$(VENV)' '.[web]'
	@touch $(APP) $@

$(RAY): pyproject.toml constraints.txt
	@.ci/install '$(VENV)' '.[web,ray]'
	@touch $(APP) $(WEB) $@

$(DEV): pyproject.toml constraints.txt
	@.ci/install '$(VENV)' '.[dev]'
	@touch $(APP) $(WEB) $@
