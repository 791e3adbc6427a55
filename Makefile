# Targets for developers and the CI. Use cargo directly for everything else.

# Programs that the end-to-end tests start, each with the Debian package that contains it.
TOOLS := docker-registry=docker-registry skopeo=skopeo podman=podman nginx=nginx \
	containerd=containerd ctr=containerd curl=curl openssl=openssl gnutls-cli=gnutls-bin ip=iproute2 nft=nftables \
	dnsmasq=dnsmasq-base dig=bind9-dnsutils python3=python3 prlimit=util-linux \
	setpriv=util-linux haproxy=haproxy systemd-analyze=systemd logrotate=logrotate \
	promtool=prometheus faketime=faketime squid=squid-openssl tinyproxy=tinyproxy gcc=gcc musl-gcc=musl-tools newuidmap=uidmap \
	krb5kdc=krb5-kdc kadmin.local=krb5-admin-server kinit=krb5-user cntlm=cntlm \
	/usr/lib/python3/dist-packages/gssapi=python3-gssapi \
	dockerd=docker.io /usr/bin/docker=docker.io
BENCH_TOOLS := ip=iproute2 chrt=util-linux nsenter=util-linux curl=curl haproxy=haproxy nginx=nginx \
	squid=squid-openssl traffic_server=trafficserver docker-registry=docker-registry \
	/usr/lib/nginx/modules/ngx_stream_module.so=libnginx-mod-stream

# The rows over a long link that `make bench` measures; `make bench-wan` measures all.
WAN_ROWS := 20ms-100-down-1,5ms-1000-down-16,80ms-1000-down-1,5ms-1000-1MiB
WAN_ROWS := $(WAN_ROWS),5ms-1000-http2-100KiB,5ms-1000-http2-beside

# The end-to-end tests make namespaces: as root, or as the root of a user namespace. That namespace
# needs more user IDs than root's, because dnsmasq, nginx and podman change theirs: they are those of
# /etc/subuid and /etc/subgid, and newuidmap (package uidmap) maps them.
AS_ROOT := $(shell [ "$$(id -u)" = 0 ] || echo unshare --user --map-root-user --map-auto --)

# Debian's PATH of an ordinary user lacks the folders of nft, dnsmasq and haproxy.
export PATH := $(PATH):/usr/sbin:/sbin

# The features of Cargo.toml, each of which is built alone by `make lint`.
FEATURES := demo tools mirror inspect admin-page

# Where cargo builds. The scripts in .ci read the same variable.
TARGET := $(or $(CARGO_TARGET_DIR),target)

# Duration in seconds of each fuzz target, of the soak test, and of `make shake`.
FUZZ_SECONDS ?= 600
SOAK_SECONDS ?= 3600
SHAKE_SECONDS ?= 3600

.PHONY: test lint fuzz bench bench-parts soak shake faults flood clients page deb deb-test booted static image cross sizes release kubernetes demo tools

test: tools
	$(AS_ROOT) cargo test --locked

lint:
	cargo fmt --all --check
	cargo clippy --locked --all-targets -- -D warnings
	cargo clippy --locked --no-default-features -- -D warnings
	@for feature in $(FEATURES); do \
		cargo check --locked --no-default-features --features $$feature || exit 1; \
	done
	@command -v cargo-deny >/dev/null || cargo install --locked cargo-deny
	.ci/deny

# Runs every fuzz target for a long time, on stable: our code has no `unsafe` for a sanitizer to check.
# Inputs that add coverage are stored in fuzz/found. Add them to the committed corpus by hand;
# `cargo test` replays it.
fuzz:
	@command -v cargo-fuzz >/dev/null || cargo install --locked cargo-fuzz
	@cd fuzz && for target in $$(cargo fuzz list); do \
		echo "== $$target"; mkdir -p found/$$target; \
		cargo fuzz run --sanitizer none $$target found/$$target corpus/$$target -- \
			-max_total_time=$(FUZZ_SECONDS) -max_len=20000 -print_final_stats=1 || exit 1; \
	done

# Compares pullgate with other proxies. Proxies that cannot be installed are reported and left out.
# Takes less than twenty minutes after the build. Requires root for the emulated long links.
bench:
	-@.ci/tools $(BENCH_TOOLS)
	cargo bench --locked --bench peers
	cargo bench --locked --bench peers -- --wan --only $(WAN_ROWS)

# The same over emulated long links: all delays, rates and losses. Requires root; takes 35 minutes.
bench-wan:
	-@.ci/tools $(BENCH_TOOLS)
	cargo bench --locked --bench peers -- --wan

# Benchmarks of single parts: hellos, name checks, policies of up to 100,000 registries and accounting
# with criterion; then the cost of limits and TLS, and the effect of a reload on tunnels.
bench-parts:
	cargo bench --locked --bench pure --bench account --bench limits --bench scale

# Mixed traffic through gates that are reloaded and replaced. Fails if memory, descriptors or tasks grow.
soak:
	SOAK_SECONDS=$(SOAK_SECONDS) cargo bench --locked --bench soak

# The date of the commit stands in for that of the build, so that builds are reproducible.
deb static: export SOURCE_DATE_EPOCH := $(or $(SOURCE_DATE_EPOCH),$(shell git log -1 --format=%ct 2>/dev/null),1793491200)

# The Debian package, in $(TARGET)/debian, and its debug symbols as a package of their own.
deb:
	@.ci/tools objcopy=binutils
	@command -v cargo-deb >/dev/null || cargo install --locked cargo-deb
	cargo build --locked --release
	$(TARGET)/release/pullgate generate $(TARGET)/release/generated
	cargo deb --locked --no-build --dbgsym

# Installs the package, checks it, runs the demo as its user, and purges it. Requires root.
deb-test: deb
	@.ci/tools systemd-analyze=systemd man=man-db setpriv=util-linux readelf=binutils curl=curl
	.ci/package

# Tests the package under a booted systemd in a container. Requires root; takes two minutes.
booted: deb
	@.ci/tools debootstrap=debootstrap systemd-nspawn=systemd-container
	.ci/booted

# The static binary: one file without dependencies. It is linked with the static archive of the C
# library (libc6-dev), so neither musl nor another toolchain is needed. A static program cannot look
# up getrandom by its symbol name, so the crate is configured to use the system call directly.
HOST = $(shell rustc -vV | sed -n 's/^host: //p')
STATIC_FLAGS := -C target-feature=+crt-static --cfg getrandom_backend="linux_getrandom"
static:
	RUSTFLAGS='$(STATIC_FLAGS)' cargo build --locked --release --target $(HOST) --target-dir $(TARGET)/static

# The image from scratch that holds the static binary and nothing else, and an archive of it.
image: static
	@.ci/tools buildah=buildah podman=podman runc=runc strip=binutils curl=curl
	.ci/image $(TARGET)/static/$(HOST)/release/pullgate

# Static binaries and packages for other architectures, with the demo of each and a trial of its package:
# as root. CROSS_TESTS=pull:: also runs the end-to-end tests of that name with each gate. ARCHES=i386 runs
# the unit and the end-to-end tests on 32 bits instead.
ARCHES ?= amd64 arm64 armhf
cross:
	.ci/cross $(ARCHES)

# The table of sizes and memory by feature set in docs/operations.md, measured anew. As root.
sizes:
	.ci/sizes --write

# Everything that is published, built twice and compared: see docs/release.md.
release:
	.ci/release $(ARCHES)

# Validates the Kubernetes manifests against the Kubernetes schemas.
kubernetes:
	.ci/kubernetes

# Tests the status page in a real browser. PICTURES=docs/pictures updates the manual's screenshots.
page: tools
	@.ci/tools chromium=chromium chromedriver=chromium-driver
	$(AS_ROOT) env PICTURES="$(PICTURES)" cargo test --locked --test e2e -- page:: --include-ignored

# Fault tests that take minutes. The others are part of `make test`.
faults: tools
	$(AS_ROOT) cargo test --locked --test e2e -- faults:: mirror_crowd:: inspect_crowd:: parent_dies:: --include-ignored --nocapture

# Pulls through the mirror with the clients of a newer Debian, in a folder of their own: as root.
SUITE ?= trixie
clients: tools
	@.ci/tools debootstrap=debootstrap unshare=util-linux
	.ci/clients $(SUITE)

# 12,000 endless ClientHellos beside honest pulls: the memory at the peak and a minute later.
flood: tools
	$(AS_ROOT) cargo test --locked --release --test e2e -- exhaustion::twelve --ignored --nocapture

# Repeats the end-to-end tests to find rare failures.
shake: tools
	cargo test --locked --no-run
	@end=$$(( $$(date +%s) + $(SHAKE_SECONDS) )); rounds=0; \
	while [ $$(date +%s) -lt $$end ]; do \
		$(AS_ROOT) cargo test --locked --quiet --test e2e || exit 1; \
		rounds=$$((rounds + 1)); echo "== $$rounds rounds"; \
	done

demo:
	cargo run --locked --release -- demo

tools:
	@.ci/tools $(TOOLS)
