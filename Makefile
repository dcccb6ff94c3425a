# mcrd: set up, build, test. `sudo make demo` and `sudo make test` work in a fresh clone.
#
#   make setup       Debian packages (with sudo), .venv, the C extensions; quick when all is there
#   make build       the same without the packages; the commands are then in .venv/bin
#   make demo        shows a relay at work in a private network (needs root)
#   make test        the tests; without root, those on real packets are skipped. ARGS="-k name"
#   make test-full   those that take long as well
#   make test-fresh  demo and tests in a bare Debian (needs root, mmdebstrap). SUITE=trixie, ARGS
#   make test-kernels the core of the tests on kernels of distributions, in virtual machines (needs
#                    root, mmdebstrap, qemu-system-x86). KERNEL="bookworm trixie noble no-io_uring", MIRROR
#   make arm64       dist/arm64: wheel and Debian package for that processor, cross-built and tried by
#                    emulation (needs root). PARTS="wheel tests machine deb"
#   make faults      system calls of the daemon fail, one at a time, in an order that it prints (needs
#                    root): about an hour. ARGS="--count 100", "--seed N", "--call openat"
#   make fuzz        frames, files, messages, requests and answers, changed at random (those of
#                    clients and servers need root). ROUNDS=100
#   make mutate      changes an operator of the sources at a time, in a copy, and says which changes no
#                    quick test notices. COUNT=100 of each language, ARGS="--language c ring.c",
#                    "--seed N"
#   make test-sanitized   tests/network on daemons whose C is built with ASan and UBSan (needs root):
#                    half an hour. ARGS="-k name tests/network"
#   make soak        half an hour of traffic while all changes that may: what grows, what is lost (needs
#                    root). ARGS="--minutes 5", "--seed N", "--chart FILE"
#   make page        builds the page of mcrd-web from web/ (needs node and npm)
#   make test-web    the page in browsers (needs root, chromium, firefox-esr, node and npm)
#   make screenshot  docs/web.png, of the demo's network (needs root and chromium)
#   make bench       measures mcrd beside other relays: about 22 minutes (needs root)
#   make bench-quick what the ratios need, in three minutes, or five on a busy machine; fails when
#                    one is missed
#   make wheel       dist/*.whl, for every Linux with the glibc of Debian 12 or a newer one, and
#                    dist/*.tar.gz, the sources
#   make deb         dist/*.deb, for the Debian or Ubuntu that it is built on (with sudo: installs
#                    what is missing for that)
#   make image       dist/mcrd-image_*.tar, a container image of that package, for podman and Docker
#                    (needs root)
#   make test-image  builds it, and relays with it into containers and out of one (needs root)
#   make release     looks whether a version can be made: tests, packages, changelog, pages. STAGES
#   make install     where there is no package: to PREFIX (/usr/local), under DESTDIR
#   make uninstall   removes that again, all but /etc/mcr.toml
#   make completion  etc/completion, after a change of a command line
#   make lint        format, ruff, mypy, manual pages
#   make clean       removes all that the others made in the checkout
#
# PYTHON=/path/to/python3 names another interpreter than /usr/bin/python3.
#
# SPDX-License-Identifier: GPL-3.0-or-later

PYTHON ?= /usr/bin/python3
PREFIX ?= /usr/local
SUITE ?= bookworm
VENV := .venv/bin
ROOT := $(filter 0,$(shell id -u))

# Under sudo nothing of root's may appear in the checkout: what writes there runs as its owner,
# and what has to be root writes nothing.
AS_OWNER := scripts/as-owner
PYTEST := $(VENV)/python -m pytest $(if $(ROOT),-p no:cacheprovider)

export PYTHON PREFIX DESTDIR
export PYTHONDONTWRITEBYTECODE = 1

.PHONY: setup build demo test test-full test-fresh test-kernels test-sanitized arm64 faults fuzz mutate soak page playwright screenshot test-web bench bench-quick wheel deb image test-image release install uninstall completion lint clean

setup:
	@scripts/setup

build:
	@scripts/setup build

demo: setup
	@$(VENV)/python -m tests.demo

# Three at a time, since most tests on packets wait most of the time, but for those that
# have to be alone. First what takes longest in one piece; last what comes in many small ones.
DIRECTORIES := $(addprefix tests/,system sandbox dataplane unit web faults network)
SIDE_BY_SIDE := -n 3 -m "not alone" $(DIRECTORIES)
ALONE := -m alone $(DIRECTORIES)
RUN = $(if $(ARGS),$(PYTEST) $(LONG) $(ARGS),status=0; \
	$(PYTEST) $(LONG) $(SIDE_BY_SIDE) || status=$$?; $(PYTEST) $(LONG) $(ALONE) || status=$$?; \
	exit $$status)

test: setup
	$(RUN)

test-full: LONG := --long
test-full: setup
	$(RUN)

test-fresh:
	scripts/fresh $(SUITE)

test-kernels:
	@scripts/kernels $(KERNEL)

test-sanitized: setup
	@scripts/sanitized $(ARGS)

arm64: setup
	@scripts/arm64 $(PARTS)

faults: setup
	@$(VENV)/python -m tests.faults $(ARGS)

fuzz: setup
	@MCRD_FUZZ=$(or $(ROUNDS),20) $(PYTEST) --long -k "mutations or harm" \
		tests/dataplane/test_c.py tests/dataplane/test_dissected.py tests/unit/test_readers.py \
		tests/network/test_strangers.py tests/web/test_limits.py $(ARGS)

# A place of their own for the tools, which nothing else needs.
build/mutate/requirements.txt: tests/mutate/requirements.txt
	$(AS_OWNER) $(PYTHON) -m venv --clear build/mutate
	$(AS_OWNER) build/mutate/bin/python -m pip --disable-pip-version-check install --quiet --use-pep517 -r $<
	$(AS_OWNER) cp $< $@

mutate: setup build/mutate/requirements.txt
	@$(VENV)/python -m tests.mutate --count $(or $(COUNT),100) $(ARGS)

soak: setup
	@$(VENV)/python -m tests.soak $(ARGS)

web/node_modules: web/package-lock.json
	$(AS_OWNER) npm --prefix web ci --silent --ignore-scripts
	touch web/node_modules

page: web/node_modules
	$(AS_OWNER) sh -c "cd web && exec node build.mjs"

playwright: setup
	@$(AS_OWNER) $(VENV)/python -m pip --disable-pip-version-check install --quiet 'playwright>=1.49'

screenshot: playwright
	$(VENV)/python -m tests.screenshot

test-web: playwright web/node_modules
	$(PYTEST) --long tests/web $(ARGS)

bench: setup
	@$(VENV)/python -m bench

bench-quick: setup
	@$(VENV)/python -m bench --quick

wheel: setup
	@$(AS_OWNER) scripts/wheel

deb:
	@scripts/deb

image:
	@scripts/image

test-image: setup
	@scripts/setup image
	@scripts/setup containers
	$(PYTEST) --long tests/system/test_image.py $(ARGS)

release: setup
	@scripts/release $(STAGES)

install: build
	@scripts/install install

uninstall:
	@scripts/install uninstall

completion: setup
	@$(AS_OWNER) $(VENV)/python scripts/completion.py

lint: setup
	$(AS_OWNER) $(VENV)/ruff format --check .
	$(AS_OWNER) $(VENV)/ruff check .
	$(AS_OWNER) $(VENV)/mypy
	mandoc -T lint -W warning $(wildcard man/*)

clean:
	rm -rf .venv build dist *.egg-info web/node_modules .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -f mcrd/dataplane/_dataplane.* mcrd/traffic/_traffic.*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
