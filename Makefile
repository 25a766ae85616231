# make demo and make test are all that a newcomer types; both install what they need.
SWIFT_BUILD := swift build -c release
PYTHON := .venv-test/bin/python
# System tests wait more than they work: more processes than processors.
TEST_PROCESSES ?= 4
# Swift Testing begins all tests at once: by hundreds they keep each other from the processors for as long as timeouts last.
export SWT_EXPERIMENTAL_MAXIMUM_PARALLELIZATION_WIDTH ?= 16

.PHONY: build install install-files demo test soak bench format lint clean

build: ## the release binaries
	@Deploy/install-dependencies.sh build
	$(SWIFT_BUILD) --product sluiced
	$(SWIFT_BUILD) --product sluice
	$(SWIFT_BUILD) --product sluice-driver

PREFIX ?= /usr

install: build install-files ## programs to PREFIX/bin, units for systemd; DESTDIR for packages

install-files:
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)/lib/systemd/system
	install -m 755 .build/release/sluiced .build/release/sluice .build/release/sluice-driver $(DESTDIR)$(PREFIX)/bin
	for unit in Deploy/systemd/*.service Deploy/systemd/*.socket; do sed 's#/usr/bin/#$(PREFIX)/bin/#' $$unit \
		> $(DESTDIR)/lib/systemd/system/$$(basename $$unit); done

demo: ## the whole story in one command: a remote disk, mounted, checked, revoked
	@Deploy/install-dependencies.sh build demo
	@$(MAKE) --no-print-directory build
	Deploy/demo.sh

test: $(PYTHON) ## every test, from a fresh clone
	@Deploy/install-dependencies.sh build test
	@$(MAKE) --no-print-directory build
	swift build --build-tests
	swift test --skip-build
	$(PYTHON) -m pytest -q -n $(TEST_PROCESSES) --dist loadgroup Tests/system Clients/python/tests

soak: $(PYTHON) ## the long campaigns: hours, where `make test` takes minutes
	@$(MAKE) --no-print-directory build
	swift build --build-tests
	SLUICE_SIMULATION_STEPS=200000000 SLUICE_SIMULATION_SEEDS=2000000 \
		swift test --skip-build --filter SimulationTests
	SLUICE_CRASH_KILLS=2000 SLUICE_FUZZ_CHANNELS=20000 \
		$(PYTHON) -m pytest -q --timeout 36000 Tests/system/test_crash.py Tests/system/test_data_channel.py
	SLUICE_FUZZ_PEERS=300 swift test --skip-build --filter PeerFuzzTests
	SLUICE_FUZZ_ANSWERS=5000 $(PYTHON) -m pytest -q --timeout 36000 Tests/system/test_hostile_control.py
	SLUICE_DRIVER_KILLS=150 $(PYTHON) -m pytest -q -s --timeout 36000 Tests/system/test_isolation.py
	SLUICE_MODEL_LARGE=1 $(PYTHON) -m pytest -q --timeout 3600 Tests/system/test_model.py
	SLUICE_SURVIVAL_SECONDS=600 $(PYTHON) -m pytest -q -s --timeout 36000 Tests/system/test_survival.py
	SLUICE_CRASH_DEPTH=2 SLUICE_CRASH_SAMPLES=3000 \
		$(PYTHON) -m pytest -q --timeout 36000 Tests/system/crash_consistency

$(PYTHON): Tests/system/requirements.txt
	@Deploy/install-dependencies.sh test
	python3 -m venv .venv-test
	$(PYTHON) -m pip install -q --disable-pip-version-check -r Tests/system/requirements.txt
	@touch $(PYTHON)

bench: ## Sluice and its peers, mounted too, the control API, how it grows, what isolation costs, a flood beside a gentle neighbour, pauses; fails when an I/O takes more CPU than it did
	@Deploy/install-dependencies.sh build bench
	@$(MAKE) --no-print-directory build
	python3 Tests/benchmarks/suite.py
	python3 Tests/benchmarks/isolation.py
	python3 Tests/benchmarks/mount.py
	python3 Tests/benchmarks/control.py
	python3 Tests/benchmarks/scale.py
	python3 Tests/benchmarks/neighbour.py
	python3 Tests/benchmarks/pauses.py
	python3 Tests/benchmarks/gate.py

format: ## rewrite the sources in the project's format
	swift format -i -r -p Package.swift Sources Tests

lint: ## swift-format, strictly, and the machine code of what every data request goes through
	swift format lint --strict -r -p Package.swift Sources Tests
	@$(MAKE) --no-print-directory build
	python3 Tests/lint/hot_functions.py

clean:
	rm -rf .build .venv-test
