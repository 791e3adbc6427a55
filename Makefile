# What a developer and the CI run. Everything else is plain cargo.

# Debian's packages that the end-to-end tests start: program, and the package that has it.
TOOLS := docker-registry=docker-registry skopeo=skopeo podman=podman nginx=nginx \
	containerd=containerd ctr=containerd curl=curl openssl=openssl ip=iproute2 nft=nftables \
	dnsmasq=dnsmasq-base dig=bind9-dnsutils python3=python3 prlimit=util-linux \
	setpriv=util-linux haproxy=haproxy systemd-analyze=systemd logrotate=logrotate \
	promtool=prometheus faketime=faketime newuidmap=uidmap
BENCH_TOOLS := haproxy=haproxy nginx=nginx squid=squid-openssl traffic_server=trafficserver \
	/usr/lib/nginx/modules/ngx_stream_module.so=libnginx-mod-stream

# The end-to-end tests make namespaces: as root, or as the root of a user namespace. That namespace
# needs more user IDs than root's, because dnsmasq, nginx and podman change theirs: they are those of
# /etc/subuid and /etc/subgid, and newuidmap (package uidmap) maps them.
AS_ROOT := $(shell [ "$$(id -u)" = 0 ] || echo unshare --user --map-root-user --map-auto --)

# Debian's PATH of an ordinary user lacks the folders of nft, dnsmasq and haproxy.
export PATH := $(PATH):/usr/sbin:/sbin

# Where cargo builds. The scripts in .ci read the same variable.
TARGET := $(or $(CARGO_TARGET_DIR),target)

# Seconds a fuzz target runs for, and the soak and the shaking in all.
FUZZ_SECONDS ?= 600
SOAK_SECONDS ?= 3600
SHAKE_SECONDS ?= 3600

.PHONY: test lint fuzz bench bench-parts soak shake faults page deb deb-test booted static static-target image kubernetes demo tools

test: tools
	$(AS_ROOT) cargo test --locked

lint:
	cargo fmt --all --check
	cargo clippy --locked --all-targets -- -D warnings
	@command -v cargo-deny >/dev/null || cargo install --locked cargo-deny
	.ci/deny

# A long run of every fuzz target, on stable: there is no unsafe code of ours that a sanitizer could
# find fault with. What is found to add coverage lands in fuzz/found, and by hand in the committed
# corpus, which `cargo test` replays.
fuzz:
	@command -v cargo-fuzz >/dev/null || cargo install --locked cargo-fuzz
	@cd fuzz && for target in $$(cargo fuzz list); do \
		echo "== $$target"; mkdir -p found/$$target; \
		cargo fuzz run --sanitizer none $$target found/$$target corpus/$$target -- \
			-max_total_time=$(FUZZ_SECONDS) -max_len=20000 -print_final_stats=1 || exit 1; \
	done

# pullgate beside its peers; those that cannot be installed are named and left out. It takes less
# than ten minutes once all is built.
bench:
	-@.ci/tools $(BENCH_TOOLS)
	cargo bench --locked --bench peers

# The parts by themselves: hellos, judgements, policies of up to 100,000 registries and accounts by
# criterion, then what limits and TLS cost, and what tunnels notice of a reload.
bench-parts:
	cargo bench --locked --bench pure --bench account --bench limits --bench scale

# Mixed traffic through gates that are reloaded and replaced; memory, descriptors and tasks stay flat.
soak:
	SOAK_SECONDS=$(SOAK_SECONDS) cargo bench --locked --bench soak

# The Debian package, in $(TARGET)/debian.
deb:
	@command -v cargo-deb >/dev/null || cargo install --locked cargo-deb
	cargo build --locked --release
	$(TARGET)/release/pullgate generate $(TARGET)/release/generated
	cargo deb --locked --no-build

# It is installed, looked over, made to run the demo as its user, and purged: as root.
deb-test: deb
	@.ci/tools systemd-analyze=systemd man=man-db setpriv=util-linux
	.ci/package

# The package under a booted systemd, in a container: as root. It takes two minutes.
booted: deb
	@.ci/tools debootstrap=debootstrap systemd-nspawn=systemd-container
	.ci/booted

# The static binary, and the image from scratch that holds nothing else.
static: static-target
	@.ci/tools musl-gcc=musl-tools
	cargo build --locked --release --target x86_64-unknown-linux-musl

static-target:
	@rustup target list --installed | grep -q x86_64-unknown-linux-musl || rustup target add x86_64-unknown-linux-musl

image: static
	@.ci/tools buildah=buildah podman=podman runc=runc strip=binutils
	.ci/image

# The manifests for Kubernetes, held to its schemas.
kubernetes:
	.ci/kubernetes

# The status page in a real browser; PICTURES=docs/pictures renews those of the manual.
page: tools
	@.ci/tools chromium=chromium chromedriver=chromium-driver
	$(AS_ROOT) env PICTURES="$(PICTURES)" cargo test --locked --test e2e -- page:: --include-ignored

# Faults that take minutes; `make test` has the others.
faults: tools
	$(AS_ROOT) cargo test --locked --test e2e -- faults:: --include-ignored --nocapture

# The end-to-end tests again and again, to shake out what happens seldom.
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
