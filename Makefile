# Every target does its own set-up; `setup` is quick when nothing changed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := protocol server daemon inference
DEPLOYABLES := $(PACKAGES) core bench meta
STAMP := $(VENV)/.modelsync-setup
# Programs that look at the repository or make a release, with pins of their own.
TOOLS := $(VENV)/tools
# Two cores are assumed; tests that need one address each take different 127.0.0.x.
JOBS ?= 2

.PHONY: setup demo test test-long test-runtimes test-arm test-systemd test-power figures reliability fuzz check audit tuf-conformance format bench bench-swap lock clean

setup: $(STAMP)

$(STAMP): requirements/dev.txt pyproject.toml $(DEPLOYABLES:%=%/pyproject.toml) $(wildcard core/modelsync_core/*.[ch])
	$(PYTHON) -c 'import sys; sys.exit("modelsync needs Python 3.11 or newer; set PYTHON=…") if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation $(DEPLOYABLES:%=-e %)
	@# pip swallows what the build says: without a compiler everything works, in NumPy.
	@$(BIN)/python -c 'from modelsync_protocol.native import library; print("setup:", library.which()[1])'
	touch $@

test: setup
	$(BIN)/python -m pytest -n $(JOBS) -m "not long"; code=$$?; echo $$code >$(TESTED); exit $$code

# What failed in the last `make test`, alone: who passes now leans on its neighbours or on luck (docs/contributing.md). Only if
# that came to its end and tests failed (1): whatever else was wrong with it, some tests did not run.
.PHONY: test-again
TESTED := $(VENV)/tested
test-again: setup
	@test "$$(cat $(TESTED))" = 1 || { echo "test-again: the last run left tests out: run make test" >&2; exit 1; }
	$(BIN)/python -m pytest --last-failed --last-failed-no-failures none -m "not long"

# The suite with its own and its child processes' lines and branches counted; fails below the floor in pyproject.toml, or if a
# test fails. Left out is what counting changes: measured memory and imports, and processes that are confined or watched.
.PHONY: coverage
UNCOUNTED := tests/footprint tests/daemon/test_footprint.py tests/daemon/test_memory.py tests/inference/test_supervisor.py \
  tests/inference/test_sandbox.py tests/inference/test_sklearn_model.py tests/inference/test_runtime_contract.py
coverage: setup
	mkdir -p $(VENV)/coverage
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n $(JOBS) -m "not long" $(UNCOUNTED:%=--ignore %)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

# What a tag would release, made and tried here without publishing anything; needs the wheels of requirements/*.txt once.
.PHONY: release-check
release-check: setup $(TOOLS)/.installed
	$(BIN)/python -m tests.release.check $(if $(RELEASE),--version $(RELEASE))

test-long: setup
	$(BIN)/python -m pytest -n $(JOBS) -m long --timeout 3600

# Writes the tables of docs/reliability.md and docs/footprint.md from what the tests measured.
figures reliability: setup
	$(BIN)/python -m tests.support.pages

# Writes what documents take from the code: docs/cli.md from the parsers, the pictures of docs/architecture.md; Grafana's dashboards.
.PHONY: pages
pages: setup
	$(BIN)/python -m tests.support.cli_reference
	$(BIN)/python -m tests.support.walks
	$(BIN)/python -m deploy.monitoring.dashboards
	$(BIN)/python -m tests.support.fleet_picture

# The suites of the runtimes with ONNX Runtime 1.21 and with the newest.
test-runtimes: setup
	tests/runtimes/run $(BIN)/python

# Both need root. Golden vectors on 32-bit Arm, under qemu:
.PHONY: test-arm-decode
test-arm-decode: setup
	tests/arm/run

# Instructions that decoding takes there, with the core and without; needs the root of the line before, and qemu-user.
.PHONY: count-arm
count-arm: setup
	tests/arm/count

# Needs root: the Debian packages on booted systemd, amd64 and (under qemu) armhf.
test-systemd: setup
	$(BIN)/python -m pytest tests/systemd -m "long or not long" --timeout 3600

# The power of an emulated machine is cut 20 times; installs qemu if you are root.
test-power: setup
	tests/reliability/power/install
	$(BIN)/python -m pytest tests/reliability/power -m long

# The hostile-code tests in an emulated machine with Debian's armhf kernel; installs nothing, says what is missing.
.PHONY: test-arm-confined
test-arm-confined: setup
	$(BIN)/python -m tests.arm.confined

# The container images, built and run for this machine's architecture and under qemu for 32-bit Arm (docs/images.md).
IMAGES ?= amd64 armhf
test-arm: setup
	for architecture in $(IMAGES); do $(BIN)/python -m tests.images.check $$architecture || exit 1; done

# Needs Python 3.11 or 3.12, for which the fuzzer has wheels. SECONDS is the time for all targets together; SEED=0 searches
# somewhere else each time, any other number starts from the same place.
SECONDS ?= 60
SEED ?= 0
fuzz: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/fuzz.txt
	$(BIN)/python -m tests.fuzz.run --seconds $(SECONDS) --seed $(SEED)

# The compiled core under AddressSanitizer and UBSan, held against NumPy; needs gcc or clang.
.PHONY: fuzz-core
fuzz-core: setup
	$(BIN)/python -m tests.fuzz.core --seconds $(SECONDS) --seed $(SEED)

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy $(foreach d,$(PACKAGES),$(d)/modelsync_$(d)) meta/modelsync examples bench tests deploy/site deploy/release deploy/monitoring deploy/mlflow
	# On its own: below bench/, which is a package of loose scripts, its modules would have two names.
	cd bench && ../$(BIN)/mypy --config-file ../pyproject.toml -p modelsync_bench
	cd core && ../$(BIN)/mypy --config-file ../pyproject.toml -p modelsync_core
	$(MAKE) --no-print-directory audit docs workflows

# The documentation site, strict: a broken link, or a page that nothing leads to, is an error. Open .venv/site/index.html.
DOCS := $(VENV)/docs
.PHONY: docs workflows
docs: $(DOCS)/.installed
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs --quiet build --strict

$(DOCS)/.installed: requirements/docs.txt
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/docs.txt
	touch $@

# GitHub's workflows and our action: their form, and what an attacker could do with them. Neither asks the network.
workflows: $(TOOLS)/.installed
	$(TOOLS)/bin/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(TOOLS)/bin/check-jsonschema --quiet --builtin-schema vendor.dependabot .github/dependabot.yml
	$(TOOLS)/bin/check-jsonschema --quiet --builtin-schema vendor.github-actions deploy/github-action/action.yml
	$(TOOLS)/bin/zizmor --quiet --offline .github deploy/github-action

$(TOOLS)/.installed: requirements/tools.txt
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/tools.txt
	touch $@

# Known vulnerabilities of what we pin, from the public advisories; says loudly if they can't be reached.
AUDIT := $(VENV)/audit
audit: setup $(AUDIT)/.installed
	$(BIN)/python -m tests.reliability.audit $(AUDIT)/bin/pip-audit requirements/dev.txt requirements/device.txt

$(AUDIT)/.installed: requirements/audit.txt
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/audit.txt
	touch $@

# The public TUF conformance suite against the device's client. SUITE is a checkout of it; needs Debian's faketime.
tuf-conformance: setup
	$(BIN)/python -m tests.reliability.conformance $(SUITE)

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

demo: setup
	$(BIN)/python -m examples.demo

# A fleet of 30 and a rollout that stops itself, with the operator's page; KEEP=1 stays until Ctrl-C.
.PHONY: fleet
fleet: setup
	$(BIN)/python -m examples.fleet $(if $(KEEP),--keep)

# The stories of docs/stories: each ends in under four minutes with story-NAME.txt and .json; KEEP=1 stays until Ctrl-C.
# PATIENCE=3 gives each three times the time, on a slow or busy machine.
STORIES := fleet camera environment mine
STORY_fleet := vehicles
.PHONY: $(STORIES:%=story-%)
$(STORIES:%=story-%): story-%: setup
	$(BIN)/python -m examples.$(or $(STORY_$*),$*) $(if $(KEEP),--keep) $(if $(PATIENCE),--patience $(PATIENCE))

.PHONY: bench-full bench-encodings
# What an update costs with each way of doing it, with whatever peers are installed; it goes on from what BENCH_OUT holds.
# CORPUS=DIR measures the pairs in DIR instead of the repository's own models. The other limited lines and the Python environment,
# which takes longer to publish, are bench-full's.
BENCH_OUT ?= bench.json
BENCH_WORK ?= bench-work
bench: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bench.txt
	$(BIN)/modelsync-bench run --out $(BENCH_OUT) --work $(BENCH_WORK) --links direct,lte-m --link-pairs anomaly-onnx \
	  --bound 8 --only story,pairs,install,behind,cut \
	  $(if $(CORPUS),--corpus $(CORPUS))

# All of it, twice, with all peers, on all pairs: hours. Needs root for Debian's packages.
bench-full: setup
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends bsdiff ca-certificates casync curl \
	  docker-registry ethtool gcc iproute2 nftables nginx-light openssl python3-dev rsync skopeo stunnel4 xdelta3 zchunk \
	  zstd zsync
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bench.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bench-full.txt
	$(BIN)/modelsync-bench run --out $(BENCH_OUT) --work $(BENCH_WORK) --corpus $(or $(CORPUS),../shared/models) \
	  --repeat 2 --bound 120

# Sizes and speeds of the encodings without a line, first installs, and the idle daemon.
bench-encodings: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bench.txt
	$(BIN)/python -m bench.speed $(if $(CORPUS),--corpus $(CORPUS))
	$(BIN)/python -m bench.installs $(if $(CORPUS),--corpus $(CORPUS))
	$(BIN)/python -m bench.idle

# `modelsync serve` against nginx with 1,000 clients; needs nginx and wrk.
.PHONY: bench-origin
bench-origin: setup
	$(BIN)/python -m bench.origin

# How cost grows: publishing and pulling against the targets of docs/performance.md, ratios and curves within one run. About
# 25 minutes on two cores; SCALE=--full measures 10 GB too, SCALE="--only many" one part. The second line writes the page.
.PHONY: bench-scale
SCALE_RESULT := docs/performance/scale.json
bench-scale: setup
	$(BIN)/python -m bench.scale $(SCALE) --out $(SCALE_RESULT); code=$$?; \
	  $(BIN)/python -m bench.scale.page --result $(SCALE_RESULT) --page docs/performance.md && exit $$code

# A thousand swaps under load, beside a restart and a naive reload: 45 minutes at most. SWAP="--few 5 --swaps 20" is shorter.
bench-swap: setup
	$(BIN)/python -m bench.swap --out bench-swap.json $(SWAP)
	$(BIN)/python -m bench.swap_faults
	$(BIN)/python -m bench.batching

# Writes docs/benchmarks.md and its plots from the committed result. What that lacks is added first: the idle connection, which
# needs root to be measured, and the fleet.
.PHONY: bench-report
RESULT := docs/benchmarks/result.json
bench-report: setup
	-$(BIN)/modelsync-bench idle --out $(RESULT)
	$(BIN)/modelsync-bench fleet --if-missing --out $(RESULT)
	$(BIN)/modelsync-bench report --out $(RESULT) --page docs/benchmarks.md

# device.txt follows dev.txt, so that what is tested is what a device gets.
PIP_COMPILE := $(VENV)/lock/bin/pip-compile --quiet --generate-hashes --no-header --no-annotate --no-emit-index-url \
  --no-emit-find-links --no-emit-trusted-host
# Extras stay where pip installs by hash: it takes an extra that is not pinned for another package. Constraints know none.
CONSTRAINTS := $(VENV)/lock/constraints.txt
lock:
	$(PYTHON) -m venv $(VENV)/lock
	$(VENV)/lock/bin/pip install --quiet pip-tools
	$(PIP_COMPILE) --no-strip-extras -o requirements/dev.txt requirements/dev.in
	sed 's/^\([a-z0-9_.-]*\)\[[^]]*\]/\1/' requirements/dev.txt > $(CONSTRAINTS)
	$(PIP_COMPILE) --strip-extras -c $(CONSTRAINTS) -o requirements/device.txt requirements/device.in
	$(PIP_COMPILE) --no-strip-extras -c $(CONSTRAINTS) -o requirements/install.txt requirements/install.in
	$(PIP_COMPILE) --strip-extras -o requirements/docs.txt requirements/docs.in
	$(PIP_COMPILE) --strip-extras -o requirements/tools.txt requirements/tools.in
	$(PIP_COMPILE) --strip-extras --allow-unsafe -o requirements/audit.txt requirements/audit.in
	$(PIP_COMPILE) --strip-extras --allow-unsafe -o tests/server/sources/mlflow.txt tests/server/sources/mlflow.in
	$(PIP_COMPILE) --strip-extras --allow-unsafe -o tests/server/sources/dvc.txt tests/server/sources/dvc.in

clean:
	rm -rf $(VENV) demo-run demo-report.json fleet-run fleet-report.json story-*
