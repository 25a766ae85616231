#!/usr/bin/env bash
# The whole story on one machine: an I/O server, a compute node, a capability, a mounted ext4, a revocation.
# Everything lives in one temporary folder and is taken away at the end, also on Ctrl-C and on failure.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${SLUICE_BIN:-.build/release}
bin=$(cd "$bin" && pwd)

if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || { echo "mounting needs root: run this as root, or install sudo" >&2; exit 77; }
    exec sudo --preserve-env=SLUICE_BIN env PATH="$PATH" "$0" "$@"
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/sluice-demo.XXXXXX")
mount=$work/mnt
server_pid= writer_pid=
export SLUICE_RUN=$work/run SLUICE_CREDENTIALS=$work/node
mkdir -p "$mount" "$SLUICE_RUN"

step_number=0
step() { step_number=$((step_number + 1)); printf '\n\033[1m%2d. %s\033[0m\n' "$step_number" "$*"; }
say() { printf '    %s\n' "$*"; }
run() {
    local shown=$*
    [ "$1" != admin ] || shown="sluice --credentials $work/server/admin ${*:2}"
    printf '    \033[2m$ %s\033[0m\n' "$shown"
    "$@" 2>&1 | sed 's/^/      /'
    return "${PIPESTATUS[0]}"
}
sluice() { "$bin/sluice" "$@"; }
admin() { "$bin/sluice" --credentials "$work/server/admin" "$@"; }

clean_up() {
    status=$?
    trap - EXIT INT TERM
    set +e
    [ -n "$writer_pid" ] && kill "$writer_pid" 2>/dev/null && wait "$writer_pid" 2>/dev/null
    mountpoint -q "$mount" && umount -l "$mount"
    # By force: what the writer lost when its capability was revoked is nothing to keep.
    [ -x "$bin/sluice" ] && timeout 30 "$bin/sluice" detach --force volume/demo </dev/null >/dev/null 2>&1
    if [ -n "$server_pid" ]; then
        kill "$server_pid" 2>/dev/null
        timeout 20 tail --pid="$server_pid" -f /dev/null
        kill -9 "$server_pid" 2>/dev/null
    fi
    if [ "$status" -ne 0 ]; then
        printf '\nthe demo failed (exit %s). The end of the server log:\n' "$status" >&2
        tail -n 15 "$work/server.log" >&2
        cat "$SLUICE_RUN"/*.log >&2 2>/dev/null | tail -n 15
    fi
    if grep -q "$work" /proc/self/mounts; then
        printf '\nthe demo left something mounted below %s\n' "$work" >&2
        [ "$status" -ne 0 ] || status=1
    fi
    rm -rf --one-file-system "$work"
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

await() { # await SECONDS COMMAND...: the command succeeds within that time
    local deadline=$((SECONDS + $1)); shift
    until "$@" 2>/dev/null; do
        [ $SECONDS -lt $deadline ] || { echo "gave up waiting for: $*" >&2; return 1; }
        read -rt 0.1 <> <(:) || true
    done
}

step "An I/O server: identity, certificate authority, signing key and a pool, in one folder"
run "$bin/sluiced" init --data "$work/server" --name localhost --address 127.0.0.1
"$bin/sluiced" serve --data "$work/server" --control 127.0.0.1:0 --channel 127.0.0.1:0 >"$work/server.log" 2>&1 &
server_pid=$!
await 20 test -s "$work/server/run/endpoints.json"
control=$(jq -r '.control[0]' "$work/server/run/endpoints.json")
export SLUICE_SERVER=https://$control
say "control API at https://$control, data channel at $(jq -r '.channel[0]' "$work/server/run/endpoints.json")"
run curl -sS --cacert "$work/server/admin/ca.pem" --cert "$work/server/admin/cert.pem" \
    --key "$work/server/admin/key.pem" "https://$control/v1/server"

step "A compute node joins with a one-time token that pins the server's authority"
token=$(admin node add compute-1 -o json | jq -r .token)
say "token: ${token:0:32}…"
SLUICE_SERVER= run "$bin/sluice" join --server "https://$control" --token "$token" --credentials "$work/node"

step "A 1 GiB volume, and a grant for the node"
run admin volume create demo --size 1GiB
run admin grant create compute-1-demo --node compute-1 --resource volume/demo \
    --rights read,write,discard,flush

step "The node attaches it: capability issued, TLS 1.3 channel, a block device appears"
run sluice attach volume/demo
device=$(sluice status -o json | jq -r '.[0].device')
run sluice status

step "A real ext4 on it, and a real tree of files"
run mkfs.ext4 -q "$device"
run mount "$device" "$mount"
sources=(/usr/lib/python3 /usr/share /usr/include)
bytes=0 files=0 copied=()
started=$(date +%s.%N)
for source in "${sources[@]}"; do
    [ -d "$source" ] || continue
    size=$(du -sxb "$source" | cut -f1)
    [ $((bytes + size)) -lt 700000000 ] || continue
    cp -a --one-file-system "$source" "$mount/$(basename "$source")"
    bytes=$((bytes + size)) files=$((files + $(find "$source" -xdev -type f | wc -l)))
    copied+=("$source")
done
sync -f "$mount"
seconds=$(echo "$started $(date +%s.%N)" | awk '{printf "%.1f", $2 - $1}')
say "copied and synced $files files, $((bytes / 1000000)) MB (${copied[*]}) in $seconds s"
[ "$files" -ge 5000 ] && [ "$bytes" -ge 200000000 ] || { echo "this machine has too few files to copy" >&2; exit 1; }

step "Unmount, detach, attach again: the data lives on the server"
run umount "$mount"
run sluice detach volume/demo
run sluice attach volume/demo
device=$(sluice status -o json | jq -r '.[0].device')
run e2fsck -fn "$device"
run mount "$device" "$mount"

step "Every file is compared by checksum with its original"
for source in "${copied[@]}"; do
    (cd "$source" && find . -xdev -type f -print0 | sort -z | xargs -0 -r sha256sum) >"$work/want"
    (cd "$mount/$(basename "$source")" && find . -xdev -type f -print0 | sort -z | xargs -0 -r sha256sum) >"$work/have"
    cmp "$work/want" "$work/have"
    say "$(wc -l <"$work/want") files of $source are identical"
done

step "Throughput through the mounted file system"
stream() { dd "$@" bs=1M count=256 2>&1 | tail -n 1 | awk -F, '{print $NF}'; }
say "write: $(stream if=/dev/zero of="$mount/stream" oflag=direct conv=fsync)"
say "read: $(stream if="$mount/stream" of=/dev/null iflag=direct)"
rm "$mount/stream"
run umount "$mount"
run sluice detach volume/demo
say "and straight over the data channel:"
run sluice bench volume/demo --rw randread --bs 4k --iodepth 32 --time 3
run sluice bench volume/demo --rw read --bs 128k --iodepth 16 --time 3

step "The volume's driver, a sandboxed process of its own, is killed under load"
"$bin/sluice" bench volume/demo --force --rw randrw --bs 4k --iodepth 8 --time 4 --verify >"$work/bench.txt" 2>&1 &
writer_pid=$!
await 20 sh -c "[ \"\$(\"$bin/sluice\" --credentials '$work/server/admin' session list -o json | jq length)\" -gt 0 ]"
read -rt 1 <> <(:) || true
killed=$(admin driver show default -o json | jq -r .pid)
run kill -9 "$killed"
wait "$writer_pid"
writer_pid=
sed 's/^/      /' "$work/bench.txt"
say "$(admin driver show default -o json | jq -r '"the next host served after \(.lastPauseMilliseconds) ms; \(.replayed) requests were done again, none failed"')"

step "Revocation: a writer is at work, and its capability is withdrawn"
run sluice mount volume/demo "$mount"
( while dd if=/dev/urandom of="$mount/writer" bs=64k count=16 conv=fsync,notrunc 2>"$work/writer.err"; do
    date +%s.%N >"$work/writer.last"; done; date +%s.%N >"$work/writer.stopped" ) &
writer_pid=$!
await 20 test -s "$work/writer.last"
capability=$(admin session list -o json | jq -r '[.[].open[].capability] | first')
run admin capability revoke "$capability" --reason "demo"
revoked=$(date +%s.%N)
await 30 test -s "$work/writer.stopped"
wait "$writer_pid" || true
writer_pid=
say "$(echo "$revoked $(cat "$work/writer.stopped")" | awk '{printf "the writer was refused %.0f ms after the answer:", ($2 - $1) * 1000}')"
sed 's/^/      /' "$work/writer.err" | head -n 2
say "the server says:"
grep -i revoke "$work/server.log" | tail -n 2 | sed 's/^/      /'
umount -l "$mount"

step "Done: $SECONDS s. Everything is taken away again."
