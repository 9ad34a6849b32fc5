#!/usr/bin/env bash
# The two commands of the README, ./go demo and ./go test, the long proof, ./go prove, and the tests under emulation of another
# processor, ./go aarch64, and those with a broker, ./go kafka. Installs the system packages that the build lacks.
set -euo pipefail
cd "$(dirname "$0")"

# One profile and one set of features everywhere, so that RocksDB is compiled once.
FLAGS=(--release --features cli,testing)

need_packages() {
    if [ "${1:-}" = aarch64 ]; then
        command -v aarch64-linux-gnu-gcc >/dev/null || echo gcc-aarch64-linux-gnu libc6-dev-arm64-cross
        command -v qemu-aarch64 >/dev/null || echo qemu-user
        return
    fi
    command -v c++ >/dev/null || echo g++
    # Bindings are made with libclang and the headers of its own that come with it.
    [ -n "${BINDGEN_EXTRA_CLANG_ARGS:-}" ] || compgen -G '/usr/lib/llvm-*/lib/clang/*/include/stdbool.h' >/dev/null || echo libclang-dev
    # Many reads by one call.
    command -v pkg-config >/dev/null || echo pkg-config
    pkg-config --exists liburing 2>/dev/null || echo liburing-dev
}

set_up() {
    command -v cargo >/dev/null || { echo "Rust is missing: install it from rustup.rs, then run this again." >&2; exit 1; }
    local missing
    mapfile -t missing < <(need_packages "$@" | tr ' ' '\n')
    if [ ${#missing[@]} -eq 0 ]; then return; fi
    local as_root=()
    [ "$(id -u)" -eq 0 ] || as_root=(sudo)
    if ! command -v apt-get >/dev/null; then
        echo "Install a C++ compiler, libclang and liburing with their headers, and pkg-config (on Debian: ${missing[*]}), then run this again." >&2
        exit 1
    fi
    echo "Installing ${missing[*]}"
    "${as_root[@]}" apt-get update -q && "${as_root[@]}" apt-get install -y -q --no-install-recommends "${missing[@]}" || {
        echo "Could not install them. Ask for: apt-get install ${missing[*]}" >&2
        exit 1
    }
}

demo() {
    local store=${1:-$(mktemp -d)/store}
    cargo build "${FLAGS[@]}"
    local embedrock=${CARGO_TARGET_DIR:-target}/release/embedrock
    "$embedrock" train deepfm --store "$store" --memory-budget 24MiB --samples 1000000
    "$embedrock" inspect "$store" --digest
    "$embedrock" verify "$store"
}

run_tests() {
    cargo fmt --check
    cargo clippy "${FLAGS[@]}" --all-targets -- -D warnings
    cargo test "${FLAGS[@]}"
    # The peers' bench is a workspace of its own, which nothing else builds.
    cargo check --manifest-path benches/peer-stores/Cargo.toml
    RUSTDOCFLAGS="-D warnings" cargo doc "${FLAGS[@]}" --no-deps
    # With debug assertions and overflow checks, and without RocksDB: seconds, not minutes.
    cargo test --no-default-features --features testing
    # Threads in orders that a scheduler chooses.
    cargo test --no-default-features --features testing,shuttle --test shuttle
    # Every fuzz target for an instant, from its corpus on. Without RocksDB too.
    fuzz/run all -runs=3000 -max_total_time=15 -seed=1
}

# The portable kernels, on a processor that has no others here. Without RocksDB.
aarch64() {
    local target=aarch64-unknown-linux-gnu
    rustup target add "$target"
    CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
        CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -L /usr/aarch64-linux-gnu" \
        cargo test --target "$target" --no-default-features --features testing --lib --test golden --test model --test optimizers --test precision
}

# Copies and examples through a broker, that of librdkafka's own tests. Builds librdkafka, which takes minutes of C.
kafka() {
    cargo test "${FLAGS[@]}" --features kafka --test kafka --test tidy
    cargo clippy "${FLAGS[@]}" --features kafka --lib --bins --test kafka -- -D warnings
    cargo test "${FLAGS[@]}" --features kafka --lib -- kafka topic
}

prove() {
    local minutes=${1:-30}
    cargo test "${FLAGS[@]}" --test proof -- --minutes "$minutes"
    fuzz/run all -max_total_time=60
}

case "${1:-}" in
    demo) set_up; shift; demo "$@" ;;
    test) set_up; run_tests ;;
    prove) set_up; shift; prove "$@" ;;
    aarch64) set_up aarch64; aarch64 ;;
    kafka) set_up; kafka ;;
    *) echo "usage: ./go demo [STORE] | ./go test | ./go prove [MINUTES] | ./go aarch64 | ./go kafka" >&2; exit 2 ;;
esac
