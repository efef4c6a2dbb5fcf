# make run | test | simulate | bench | load | install | uninstall | fmt | check | audit
# Each target installs what it needs and does not find; see .ci/need.

PREFIX ?= /usr/local
SYSCONFDIR ?= /etc
UNITDIR ?= $(PREFIX)/lib/systemd/system
DOCDIR = $(PREFIX)/share/doc/tollgate
CONFIG = $(DESTDIR)$(SYSCONFDIR)/tollgate/tollgate.yaml

# Where rustup puts cargo, for a shell that was open before rustup ran.
export PATH := $(HOME)/.cargo/bin:$(PATH)
CARGO ?= cargo
RELEASE = $(or $(CARGO_TARGET_DIR),target)/release/tollgate

# What the targets need from the system, as command:package. cmake builds the
# zlib-ng that Pingora compresses with; the allocator and zstd are C as well.
BUILD_NEEDS = 'cc:gcc' '/usr/include/stdlib.h:libc6-dev' 'cmake:cmake' \
	'/etc/ssl/certs/ca-certificates.crt:ca-certificates'
# chromium opens the Swagger UI; systemd-analyze judges the unit.
TEST_NEEDS = 'curl:curl' 'systemd-analyze:systemd' 'chromium|chromium-browser:chromium|chromium-browser'
BENCH_NEEDS = 'wrk:wrk' 'nginx:nginx' 'haproxy:haproxy'

.PHONY: build run test simulate bench load install uninstall fmt check audit build-needs
.DEFAULT_GOAL := build

build: build-needs
	$(CARGO) build --release --locked

run: build
	$(RELEASE) demo

# nextest runs the test binaries side by side, but no doc tests.
test: build-needs
	.ci/need $(TEST_NEEDS)
	if $(CARGO) nextest --version >/dev/null 2>&1; then \
		$(CARGO) nextest run --locked --no-fail-fast && $(CARGO) test --locked --doc; \
	else \
		$(CARGO) test --locked --no-fail-fast; \
	fi

# 100 runs of a million steps each. TOLLGATE_SEED picks one, TOLLGATE_SEEDS says how many and
# TOLLGATE_STEPS how long.
simulate: build-needs
	TOLLGATE_STEPS=$${TOLLGATE_STEPS:-1000000} $(CARGO) test --locked --profile simulation \
		--test simulation -- --nocapture every_invariant

bench: build-needs
	.ci/need $(BENCH_NEEDS)
	$(CARGO) bench --locked --bench core
	$(CARGO) bench --locked --bench load

load:
	.ci/need 'wrk:wrk' 'curl:curl'
	benches/load/mixed.sh

# BINARY installs that file instead of building. Under sudo cargo is usually out
# of reach: then what `make` built before is installed.
install:
ifndef BINARY
	if command -v $(CARGO) >/dev/null; then $(MAKE) build; else test -x $(RELEASE) || \
		{ echo "nothing built and no cargo here: run 'make' first, as yourself" >&2; exit 1; }; fi
endif
	install -D -m 0755 $(or $(BINARY),$(RELEASE)) $(DESTDIR)$(PREFIX)/bin/tollgate
	install -d $(DESTDIR)$(UNITDIR) $(DESTDIR)$(DOCDIR)
	sed 's,/usr/local/,$(PREFIX)/,; s,/etc/tollgate/,$(SYSCONFDIR)/tollgate/,' \
		systemd/tollgate.service > $(DESTDIR)$(UNITDIR)/tollgate.service
	chmod 0644 $(DESTDIR)$(UNITDIR)/tollgate.service
	install -m 0644 LICENSE conf/tollgate.yaml $(wildcard README.md CHANGELOG.md docs/*.md) \
		$(DESTDIR)$(DOCDIR)
	if test -e $(CONFIG); then echo "kept $(CONFIG); the shipped one is in $(DESTDIR)$(DOCDIR)"; \
		else install -D -m 0644 conf/tollgate.yaml $(CONFIG); fi
	if test -z '$(DESTDIR)' && test -d /run/systemd/system; then systemctl daemon-reload; fi
	@echo "installed; start it with: systemctl enable --now tollgate"

# Stops the service first; the configuration stays, as it may have been edited.
uninstall:
	if test -z '$(DESTDIR)' && test -d /run/systemd/system; then \
		systemctl disable --now tollgate || true; fi
	rm -f $(DESTDIR)$(PREFIX)/bin/tollgate $(DESTDIR)$(UNITDIR)/tollgate.service
	rm -rf $(DESTDIR)$(DOCDIR)
	if test -z '$(DESTDIR)' && test -d /run/systemd/system; then systemctl daemon-reload; fi
	@if test -e $(CONFIG); then echo "kept $(CONFIG)"; fi

fmt:
	$(CARGO) fmt

check: build-needs
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --no-deps --document-private-items

audit: build-needs
	.ci/audit

build-needs:
	.ci/need $(BUILD_NEEDS)
	@command -v $(CARGO) >/dev/null || \
		{ echo "cargo is missing: install Rust from https://rustup.rs, then try again" >&2; exit 1; }
