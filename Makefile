# make demo and make test are all that a newcomer types; both install what they need.
PYTHON := .venv-test/bin/python
# Swift Testing begins all tests at once: by hundreds they keep each other from the processors for as long as timeouts last.
export SWT_EXPERIMENTAL_MAXIMUM_PARALLELIZATION_WIDTH ?= 16

.PHONY: build install install-files demo check test soak bench format lint clean

build: ## the release binaries
	@Deploy/install-dependencies.sh build
	swift build -c release --product sluiced
	swift build -c release --product sluice
	swift build -c release --product sluice-driver

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

check: ## a minute, for every edit: tidy, values, simulators with few seeds
	@python3 Tests/parts.py check

test: ## every test, from a fresh clone; says at its end what took how long
	@Deploy/install-dependencies.sh build test
	@python3 Tests/parts.py test

soak: ## the long campaigns: sized for three hours (SOAK_HOURS), where `make test` takes minutes
	@Deploy/install-dependencies.sh build test
	@python3 Tests/parts.py soak

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
