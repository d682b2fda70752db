# make demo    set everything up and boot a Debian kernel as a Xen PV guest
# make test    set everything up and run the whole test suite: lint, types, tests, boot
# make bench   run the benchmarks (against QEMU and Unicorn where they are installed)
# make build   the virtual environment in .venv with the extension built in it
# make lint    ruff, cython-lint, mypy, stubtest
# make fuzz    build the core with sanitizers in build/asan and run random machines on it for SECONDS=60
# make clean   remove what make built (.cache with Debian's packages stays; make distclean removes it too)

VENV := .venv
PY := $(VENV)/bin/python
PYTEST_ARGS ?=
CORE_SOURCES := setup.py pyproject.toml $(wildcard xenfast/_core.p* xenfast/cpu/*)

.PHONY: demo test bench build build-test lint fast fuzz clean distclean

demo: build
	@$(PY) scripts/demo.py

test: build-test
	@scripts/apt-need acpica-tools binutils busybox-static dmidecode e2fsprogs gcc grub-common grub-efi-amd64-bin grub-pc-bin ipxe-qemu isolinux libslirp0 lz4 mtools ovmf qemu-utils seabios syslinux syslinux-common xorriso zstd
	@$(MAKE) --no-print-directory lint
	$(PY) -m pytest -q --durations=15 $(PYTEST_ARGS)

# the tests that take seconds are left out: for the edit loop
fast: build-test
	$(PY) -m pytest -q -m "not slow" $(PYTEST_ARGS)

bench: build-test
	@scripts/apt-need gcc binutils busybox-static e2fsprogs qemu-system-x86 || true
	$(PY) -m benchmarks

lint: build-test
	$(PY) -m ruff check .
	PATH="$(abspath $(VENV))/bin:$$PATH" cython-lint xenfast
	$(PY) -m mypy
	$(PY) -m mypy.stubtest xenfast._core --allowlist tests/stubtest-allowlist.txt --ignore-disjoint-bases

SECONDS := 60
SANITIZE := -O1 -g1 -fsanitize=address -fsanitize=undefined -fno-sanitize=alignment,null -fno-omit-frame-pointer -DXF_ARENA_BITS=10

fuzz: build-test
	XENFAST_CFLAGS="$(SANITIZE)" $(PY) setup.py -q build --build-base build/asan --build-lib build/asan/lib
	@ln -sfn ../../../tests build/asan/lib/tests
	cd build/asan/lib && ASAN_OPTIONS=detect_leaks=0:abort_on_error=1 LD_PRELOAD=$$(gcc -print-file-name=libasan.so) \
		$(abspath $(PY)) -m tests.fuzz --seconds $(SECONDS)

build: $(VENV)/.built

build-test: build $(VENV)/.test-deps

$(VENV)/bin/python:
	@scripts/make-venv $(VENV)

$(VENV)/.deps: $(VENV)/bin/python pyproject.toml
	@echo "installing numpy and Cython into $(VENV)"
	@$(PY) -m pip install -qq --disable-pip-version-check "setuptools>=65" wheel "cython>=3.1" numpy
	@touch $@

$(VENV)/.built: $(VENV)/.deps $(CORE_SOURCES)
	@scripts/apt-need gcc
	@echo "building the core (about a minute)"
	@$(PY) -m pip install -qq --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@

$(VENV)/.test-deps: $(VENV)/.deps pyproject.toml
	@echo "installing the tools of the test suite into $(VENV)"
	@$(PY) scripts/install-extra.py test
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info xenfast/_core.c xenfast/_core*.so

distclean: clean
	rm -rf .cache
