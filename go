#!/usr/bin/env bash
# The two commands of the README, ./go demo and ./go test, and the long proof, ./go prove. Installs the system packages that the build lacks.
set -euo pipefail
cd "$(dirname "$0")"

# One profile and one set of features everywhere, so that RocksDB is compiled once.
FLAGS=(--release --features cli,testing)

need_packages() {
    command -v c++ >/dev/null || echo g++
    # Bindings are made with libclang and the headers of its own that come with it.
    compgen -G '/usr/lib/llvm-*/lib/clang/*/include/stdbool.h' >/dev/null || echo libclang-dev
}

set_up() {
    command -v cargo >/dev/null || { echo "Rust is missing: install it from rustup.rs, then run this again." >&2; exit 1; }
    local missing
    mapfile -t missing < <(need_packages)
    if [ ${#missing[@]} -eq 0 ] || [ -n "${BINDGEN_EXTRA_CLANG_ARGS:-}" ]; then return; fi
    local as_root=()
    [ "$(id -u)" -eq 0 ] || as_root=(sudo)
    if ! command -v apt-get >/dev/null; then
        echo "Install a C++ compiler and libclang with its headers (on Debian: ${missing[*]}), then run this again." >&2
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
    RUSTDOCFLAGS="-D warnings" cargo doc "${FLAGS[@]}" --no-deps
    # With debug assertions and overflow checks, and without RocksDB: seconds, not minutes.
    cargo test --no-default-features --features testing
    # Threads in orders that a scheduler chooses.
    cargo test --no-default-features --features testing,shuttle --test shuttle
    # Every fuzz target for an instant, from its corpus on. Without RocksDB too.
    fuzz/run all -runs=3000 -max_total_time=15 -seed=1
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
    *) echo "usage: ./go demo [STORE] | ./go test | ./go prove [MINUTES]" >&2; exit 2 ;;
esac
