#!/usr/bin/env bash
# Installs what building, testing and demonstrating Sluice needs, with apt, and says what it does.
# Safe to run again: it does nothing where everything is there. Works as root and with sudo.
#
#   Deploy/install-dependencies.sh [build|demo|test|bench]...     (default: build)
set -euo pipefail

build=(build-essential pkg-config ca-certificates git
    liburing-dev libssl-dev libnghttp2-dev libsqlite3-dev libseccomp-dev)
# Record protection with all that the CPU has; Debian has it for amd64 only, and OpenSSL does without it.
if [ "$(dpkg --print-architecture)" = amd64 ]; then build+=(libipsec-mb-dev); fi
demo=(e2fsprogs util-linux curl jq)
test=(e2fsprogs xfsprogs util-linux curl jq fio python3 python3-venv openssl nghttp2-client iproute2 spin)
bench=(fio nbdkit e2fsprogs nghttp2-client nghttp2-server libnbd-bin gnutls-bin qemu-system-common iproute2 jq
    python3)

wanted=()
for group in "${@:-build}"; do
    case $group in
        build) wanted+=("${build[@]}") ;;
        demo) wanted+=("${demo[@]}") ;;
        test) wanted+=("${test[@]}") ;;
        bench) wanted+=("${bench[@]}") ;;
        *) echo "unknown group '$group': build, demo, test or bench" >&2; exit 64 ;;
    esac
done

missing=()
for package in $(printf '%s\n' "${wanted[@]}" | sort -u); do
    status=$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null || true)
    [ "$status" = "install ok installed" ] || missing+=("$package")
done

if [ ${#missing[@]} -gt 0 ]; then
    echo "installing with apt: ${missing[*]}"
    as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || { echo "run this as root, or install sudo" >&2; exit 77; }
        as_root=(sudo)
    fi
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
fi

if ! command -v swift >/dev/null; then
    echo "Swift 6.2 or later is needed, and no package of Debian's has it: https://www.swift.org/install/linux/" >&2
    exit 69
fi
version=$(swift --version 2>/dev/null | grep -oE 'Swift version [0-9]+\.[0-9]+' | grep -oE '[0-9]+\.[0-9]+$')
if [ "$(printf '%s\n6.2\n' "$version" | sort -V | head -n 1)" != "6.2" ]; then
    echo "Swift 6.2 or later is needed; this is $version: https://www.swift.org/install/linux/" >&2
    exit 69
fi
