# tunnel-agent: `make help` tells what there is.

CARGO ?= cargo
PREFIX ?= /usr/local
GATEWAY_URL ?= ws://127.0.0.1:3000/ws
LOCAL_URL ?= http://127.0.0.1:8000
TARGET ?= x86_64-unknown-linux-musl
TARGETS ?= x86_64-unknown-linux-musl aarch64-unknown-linux-musl armv7-unknown-linux-musleabihf \
	arm-unknown-linux-musleabihf riscv64gc-unknown-linux-musl
BUILT := $(or $(CARGO_TARGET_DIR),target)

.PHONY: help build run gateway demo fleet test lint fuzz bench musl dist deb install clean
.DEFAULT_GOAL := help

help: ## this list
	@echo 'Usage: make TARGET [VARIABLE=value …]'
	@echo
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## the release binaries, target/release/agent and target/release/gateway
	$(CARGO) build --release --bins

run: ## the agent: make run TUNNEL_ID=agent_… [GATEWAY_URL=ws://… LOCAL_URL=http://… MAX_RETRIES=10, and every other option by its variable]
	@if [ -z "$(TUNNEL_ID)" ]; then \
		echo 'make run: which tunnel? Give TUNNEL_ID, such as' >&2; \
		echo '  make run TUNNEL_ID=agent_550e8400-e29b-41d4-a716-446655440000_prod' >&2; exit 2; fi
	$(CARGO) build --release --bin agent
	@TUNNEL_ID='$(TUNNEL_ID)' GATEWAY_URL='$(GATEWAY_URL)' LOCAL_URL='$(LOCAL_URL)' exec '$(BUILT)/release/agent'

gateway: ## the reference gateway, on 127.0.0.1:3000 or LISTEN=address:port
	$(CARGO) build --release --bins
	@echo
	@echo 'With a web server on port 8000, in another terminal: $(BUILT)/release/agent 8000'
	@echo 'It says at which URL the server is found then. The gateway runs until Ctrl-C.'
	@echo
	@LISTEN='$(LISTEN)' exec '$(BUILT)/release/gateway'

demo: ## gateway, a small site and the agent, with requests through the tunnel [GATEWAY_PORT=3000 SITE_PORT=8000]
	$(CARGO) build --bins --example demo
	@GATEWAY_PORT='$(GATEWAY_PORT)' SITE_PORT='$(SITE_PORT)' exec '$(BUILT)/debug/examples/demo'

BALANCER ?= haproxy
RESTARTS ?= 3

fleet: build ## two gateways behind a balancer, restarted and killed while visitors ask; needs python3 and it [BALANCER=haproxy|nginx|caddy RESTARTS=3]
	@GATEWAY='$(BUILT)/release/gateway' AGENT='$(BUILT)/release/agent' python3 tests/fleet.py '$(BALANCER)' --restarts '$(RESTARTS)'

# Most tests wait for programs and sockets: more of them at once than there are cores.
test: export RUST_TEST_THREADS ?= 8
test: lint ## formatting, clippy, docs, and all tests
	$(CARGO) test --quiet
	$(CARGO) test --quiet --no-default-features --features cli,gateway --lib
	$(CARGO) test --quiet --no-default-features --features cli,gateway --test it tunnel::

lint: ## formatting, clippy and docs, with warnings denied
	$(CARGO) fmt --check
	$(CARGO) clippy --quiet --all-targets -- -D warnings
	$(CARGO) clippy --quiet --all-targets --no-default-features -- -D warnings
	$(CARGO) clippy --quiet --lib --no-default-features --features tls -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --quiet --no-deps

FUZZ_SECONDS ?= 60

fuzz: ## arbitrary input for decoders and sessions; needs a C++ compiler [FUZZ_SECONDS=60]
	@sh tests/fuzz/run.sh '$(FUZZ_SECONDS)'

bench: ## what the agent costs, beside plain ureq [BENCH_SECONDS=3]
	$(CARGO) bench --bench tunnel

musl: ## both programs, fully static [TARGET=x86_64-unknown-linux-musl, and four more: see make dist]
	@CARGO='$(CARGO)' sh tests/static/build.sh '$(TARGET)' agent gateway

dist: ## archives for five kinds of CPU, their checksums and a list of the crates in them [TARGETS=…]
	@CARGO='$(CARGO)' sh tests/static/dist.sh $(TARGETS)

deb: ## a Debian package of the static programs [TARGET=x86_64-unknown-linux-musl]
	@CARGO='$(CARGO)' sh tests/static/deb.sh '$(TARGET)'

install: build ## the binaries into PREFIX/bin
	install -d '$(DESTDIR)$(PREFIX)/bin'
	install -m 755 '$(BUILT)/release/agent' '$(DESTDIR)$(PREFIX)/bin/tunnel-agent'
	install -m 755 '$(BUILT)/release/gateway' '$(DESTDIR)$(PREFIX)/bin/tunnel-gateway'

clean: ## what was built
	$(CARGO) clean
