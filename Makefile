# make run | test | simulate | bench | load | install | uninstall | deb | lint-deploy |
#      fmt | check | audit
# Each target installs what it needs and does not find; see .ci/need.

PREFIX ?= /usr/local
SYSCONFDIR ?= /etc
UNITDIR ?= $(PREFIX)/lib/systemd/system
DOCDIR = $(PREFIX)/share/doc/tollgate
MANDIR ?= $(PREFIX)/share/man/man1
BASHDIR ?= $(PREFIX)/share/bash-completion/completions
ZSHDIR ?= $(PREFIX)/share/zsh/site-functions
FISHDIR ?= $(PREFIX)/share/fish/vendor_completions.d

# What `install` puts there and `uninstall` takes away; a test compares them.
CONFIG = $(DESTDIR)$(SYSCONFDIR)/tollgate/tollgate.yaml
INSTALLED = $(DESTDIR)$(PREFIX)/bin/tollgate
UNITS = $(notdir $(wildcard systemd/*.service systemd/*.socket))
DOCS = LICENSE conf/tollgate.yaml $(wildcard README.md CHANGELOG.md docs/*.md) \
	$(wildcard deploy/prometheus-rules.yml deploy/grafana-dashboard.json)
PAGES = $(addprefix $(DESTDIR)$(MANDIR)/,tollgate.1 $(patsubst %,tollgate-%.1,\
	run check reload upgrade status explain simulate clients clients-import clients-export demo))
COMPLETIONS = $(DESTDIR)$(BASHDIR)/tollgate $(DESTDIR)$(ZSHDIR)/_tollgate \
	$(DESTDIR)$(FISHDIR)/tollgate.fish

# Where rustup puts cargo, for a shell that was open before rustup ran.
export PATH := $(HOME)/.cargo/bin:$(PATH)
CARGO ?= cargo
RELEASE = $(or $(CARGO_TARGET_DIR),target)/release/tollgate

# What the targets need from the system, as command:package. cmake builds the
# zlib-ng that Pingora compresses with; the allocator and zstd are C as well.
BUILD_NEEDS = 'cc:gcc' '/usr/include/stdlib.h:libc6-dev' 'cmake:cmake' \
	'/etc/ssl/certs/ca-certificates.crt:ca-certificates'
# chromium opens the Swagger UI; systemd-analyze judges the unit; the tests start Redis servers
# of their own, with certificates made by openssl.
TEST_NEEDS = 'curl:curl' 'redis-server:redis-server' 'openssl:openssl' 'systemd-analyze:systemd' 'chromium|chromium-browser:chromium|chromium-browser'
BENCH_NEEDS = 'wrk:wrk' 'nginx:nginx' 'haproxy:haproxy' 'slowhttptest:slowhttptest' 'redis-server:redis-server'

.PHONY: build run test simulate bench load install uninstall deb lint-deploy fmt check audit build-needs
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
# of reach: then what `make` built before is installed. The binary itself writes
# its manual and completions.
install:
ifndef BINARY
	if command -v $(CARGO) >/dev/null; then $(MAKE) build; else test -x $(RELEASE) || \
		{ echo "nothing built and no cargo here: run 'make' first, as yourself" >&2; exit 1; }; fi
endif
	install -D -m 0755 $(or $(BINARY),$(RELEASE)) $(INSTALLED)
	install -d $(DESTDIR)$(UNITDIR) $(DESTDIR)$(DOCDIR) $(DESTDIR)$(MANDIR) \
		$(DESTDIR)$(BASHDIR) $(DESTDIR)$(ZSHDIR) $(DESTDIR)$(FISHDIR)
	for unit in $(UNITS); do \
		sed 's,/usr/local/,$(PREFIX)/,g; s,/etc/tollgate/,$(SYSCONFDIR)/tollgate/,g' systemd/$$unit \
			> $(DESTDIR)$(UNITDIR)/$$unit && chmod 0644 $(DESTDIR)$(UNITDIR)/$$unit || exit 1; done
	install -m 0644 $(DOCS) $(DESTDIR)$(DOCDIR)
	$(INSTALLED) man --out $(DESTDIR)$(MANDIR)
	$(INSTALLED) completions bash > $(DESTDIR)$(BASHDIR)/tollgate
	$(INSTALLED) completions zsh > $(DESTDIR)$(ZSHDIR)/_tollgate
	$(INSTALLED) completions fish > $(DESTDIR)$(FISHDIR)/tollgate.fish
	chmod 0644 $(PAGES) $(COMPLETIONS)
	if test -e $(CONFIG); then echo "kept $(CONFIG); the shipped one is in $(DESTDIR)$(DOCDIR)"; \
		else install -D -m 0644 conf/tollgate.yaml $(CONFIG); fi
	if test -z '$(DESTDIR)' && test -d /run/systemd/system; then systemctl daemon-reload; fi
	@echo "installed; start it with: systemctl enable --now tollgate"
	@echo "or, where an older one runs, put this one in its place with: tollgate upgrade"

# Stops the service first; the configuration stays, as it may have been edited.
uninstall:
	if test -z '$(DESTDIR)' && test -d /run/systemd/system; then \
		systemctl disable --now $(UNITS) || true; fi
	rm -f $(INSTALLED) $(addprefix $(DESTDIR)$(UNITDIR)/,$(UNITS)) $(PAGES) $(COMPLETIONS) \
		$(addprefix $(DESTDIR)$(DOCDIR)/,$(notdir $(DOCS)))
	if test -d $(DESTDIR)$(DOCDIR); then rmdir --ignore-fail-on-non-empty $(DESTDIR)$(DOCDIR); fi
	if test -z '$(DESTDIR)' && test -d /run/systemd/system; then systemctl daemon-reload; fi
	@if test -e $(CONFIG); then echo "kept $(CONFIG)"; fi

# A Debian package in target/debian, of BINARY or of a release build; the variables it takes
# are in deploy/debian/build.
deb:
	.ci/need 'dpkg-deb:dpkg'
	@MAKE='$(MAKE)' BINARY='$(BINARY)' deploy/debian/build

# The container, the manifests and the alerts, with the tools made for them.
lint-deploy:
	.ci/lint-deploy

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
