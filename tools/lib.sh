# Shared by the scripts beside this file: packages, toolchain, scratch space, cleanup.
# shellcheck shell=bash
#
# A script that sources this file
#   * installs only what is missing, shows the line before it runs it, and asks no questions;
#   * starts no service that a package brings;
#   * works below one scratch folder and ends its own processes, by id, however it leaves.

set -euo pipefail

REPOSITORY=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export REPOSITORY

# ---------------------------------------------------------------- what is printed

if [[ -t 1 && -z ${NO_COLOR:-} ]]; then
    BOLD=$'\e[1m' DIM=$'\e[2m' RED=$'\e[31m' GREEN=$'\e[32m' PLAIN=$'\e[0m'
else
    BOLD='' DIM='' RED='' GREEN='' PLAIN=''
fi

say() { printf '%s\n' "$*"; }
# say_step, say_command and say_good are the three voices of a script's report.
say_step() { printf '\n%s==> %s%s\n' "$BOLD" "$*" "$PLAIN"; }
say_command() { printf '%s    $ %s%s\n' "$DIM" "$*" "$PLAIN"; }
say_good() { printf '    %s%s%s\n' "$GREEN" "$*" "$PLAIN"; }
warn() { printf 'warning: %s\n' "$*" >&2; }

# fail WHAT HINT: the same two lines poolctl prints.
fail() {
    printf '%serror:%s %s\n' "$RED" "$PLAIN" "$1" >&2
    [[ -z ${2:-} ]] || printf 'hint: %s\n' "$2" >&2
    exit 1
}

# seconds_since START, where START was $EPOCHREALTIME: "12.3"
seconds_since() {
    awk -v a="$1" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }'
}

# ---------------------------------------------------------------- what has to be there

# What it takes to build poold, beside Swift itself.
# shellcheck disable=SC2034
BUILD_PACKAGES=(liburing-dev libisal-dev pkg-config)
# The real clients of the end-to-end tests.
# shellcheck disable=SC2034
CLIENT_PACKAGES=(libnbd-bin python3-libnbd qemu-utils fio nbd-client e2fsprogs)
# Disks that lose power: an nbdkit plugin, mounted as files. And exports mounted likewise.
# shellcheck disable=SC2034
POWER_PACKAGES=(nbdkit nbdkit-plugin-dev libnbd-bin python3-libnbd fuse3 gcc libc6-dev)
# Kernels that use an export as their disk.
# shellcheck disable=SC2034
KERNEL_PACKAGES=(user-mode-linux kmod iproute2 procps xfsprogs qemu-system-x86 busybox-static
    xz-utils)

check_platform() {
    local id='' version=''
    if [[ -r /etc/os-release ]]; then
        # shellcheck source=/dev/null
        id=$(. /etc/os-release && printf '%s' "${ID:-}")
        # shellcheck source=/dev/null
        version=$(. /etc/os-release && printf '%s' "${VERSION_ID:-}")
    fi
    case "$id $version $(uname -m)" in
    'debian 12 x86_64' | 'debian 13 x86_64' | 'ubuntu 24.04 x86_64') ;;
    *) warn "meant for Debian 12 and 13 and Ubuntu 24.04, amd64; this is ${id:-unknown}" \
        "${version} $(uname -m)" ;;
    esac
}

missing_packages() {
    local package
    for package in "$@"; do
        [[ $(dpkg-query -W -f '${Status}' "$package" 2>/dev/null) == 'install ok installed' ]] ||
            printf '%s\n' "$package"
    done
}

# as_root COMMAND...: runs it as root, without ever asking for a password.
as_root() {
    if [[ $(id -u) == 0 ]]; then "$@"; else sudo -n "$@"; fi
}

# need_packages PACKAGE...: installs those that are missing.
need_packages() {
    local missing line
    command -v dpkg-query >/dev/null ||
        fail "this is no Debian: cannot look for $*" "install their equivalents, or use Debian 12"
    mapfile -t missing < <(missing_packages "$@")
    ((${#missing[@]} > 0)) || return 0
    line="apt-get install -y --no-install-recommends ${missing[*]}"
    say "installing what is missing:"
    say_command "$line"
    if [[ $(id -u) != 0 ]] && ! sudo -n true 2>/dev/null; then
        fail "not root, and sudo would ask for a password" "as root: $line"
    fi
    install_quietly "${missing[@]}" ||
        fail "apt-get could not install ${missing[*]}" "as root: $line"
}

# want_packages PACKAGE...: likewise, but those that the distribution lacks are named and left out,
# and without the rest some tests are skipped, each by its name.
want_packages() {
    local package missing known=() unknown=()
    mapfile -t missing < <(missing_packages "$@")
    ((${#missing[@]} > 0)) || return 0
    # A fresh image has no lists of packages yet.
    compgen -G '/var/lib/apt/lists/*_Packages*' >/dev/null ||
        as_root apt-get update -qq </dev/null || true
    for package in "${missing[@]}"; do
        # A name that other packages mention is not enough: there has to be a version to install.
        if [[ $(LC_ALL=C apt-cache policy "$package" 2>/dev/null) == *'Candidate: '[!\(]* ]]; then
            known+=("$package")
        else
            unknown+=("$package")
        fi
    done
    ((${#unknown[@]} == 0)) || warn "apt knows no ${unknown[*]}: the tests that need it are skipped"
    ((${#known[@]} > 0)) || return 0
    (need_packages "${known[@]}") ||
        warn "going on without: the tests that need them are skipped"
}

# Packages such as nbd-client bring services. policy-rc.d keeps them from starting; it is put in
# place only where the machine has none, and taken away again.
install_quietly() {
    local policy=/usr/sbin/policy-rc.d status=0
    local install=(env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq
        --no-install-recommends "$@")
    if [[ ! -e $policy ]]; then
        PLACED_POLICY=$policy
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
        as_root chmod 755 "$policy"
    fi
    # The package lists may be absent or old: fetched only when the first try fails.
    if ! as_root "${install[@]}" </dev/null >/dev/null 2>&1; then
        as_root apt-get update -qq </dev/null || status=$?
        as_root "${install[@]}" </dev/null >/dev/null || status=$?
    fi
    remove_policy
    return "$status"
}

PLACED_POLICY=''
remove_policy() {
    [[ -z $PLACED_POLICY ]] || as_root rm -f "$PLACED_POLICY"
    PLACED_POLICY=''
}

need_swift() {
    local version
    command -v swift >/dev/null ||
        fail "swift is not on the PATH" "install Swift 6.3: https://www.swift.org/install/linux/"
    version=$(swift --version 2>/dev/null | sed -n 's/.*Swift version \([0-9.]*\).*/\1/p;T;q')
    if [[ $(printf '%s\n' 6.2 "${version:-0}" | sort -V | head -n 1) != 6.2 ]]; then
        fail "Swift 6.2 or newer is needed, this is ${version:-unknown}" \
            "install Swift 6.3: https://www.swift.org/install/linux/"
    fi
}

# ---------------------------------------------------------------- scratch and cleanup

SCRATCH=''
KEEP_SCRATCH=no
STARTED_PIDS=()

# make_scratch NAME MEBIBYTES: sets SCRATCH to a fresh folder with that much room.
make_scratch() {
    local base=${TMPDIR:-/var/tmp} available
    available=$(df --output=avail -BM "$base" | tail -n 1 | tr -dc '0-9')
    ((available >= $2)) ||
        fail "$base has $available MiB free, $2 MiB are needed" "set TMPDIR to a roomier folder"
    SCRATCH=$(mktemp -d "$base/poold-$1.XXXXXX")
    export SCRATCH
}

# will_end PID: cleanup ends this process if it still runs. has_ended PID: it is gone, and its
# number may by now be another's.
will_end() { STARTED_PIDS+=("$1"); }
has_ended() {
    local pid kept=()
    for pid in ${STARTED_PIDS[@]+"${STARTED_PIDS[@]}"}; do
        [[ $pid == "$1" ]] || kept+=("$pid")
    done
    STARTED_PIDS=(${kept[@]+"${kept[@]}"})
}

# attended COMMAND...: runs it in such a way that a signal to this script ends it at once. In the
# foreground the shell would finish it first, and only then look at the signal.
attended() {
    local pid status=0
    "$@" </dev/null &
    pid=$!
    will_end "$pid"
    wait "$pid" || status=$?
    has_ended "$pid"
    return "$status"
}

# end_process PID: asks, waits up to ten seconds, then insists.
end_process() {
    local pid=$1 tries
    has_ended "$pid"
    kill -TERM "$pid" 2>/dev/null || return 0
    for ((tries = 0; tries < 100; tries++)); do
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
    done
    kill -KILL "$pid" 2>/dev/null || true
}

# kill_process PID: kill -9, and back only when it is gone.
kill_process() {
    has_ended "$1"
    kill -KILL "$1"
    while kill -0 "$1" 2>/dev/null; do sleep 0.02; done
}

# Whatever a test left behind that was ended before it could clean up. A process is ours when its
# command line names the scratch folder, whose name is like no other. Those that start others are
# asked first.
end_strays() {
    local process pid program mounted loop file loops=()
    # Now: once a mount is gone, nobody can tell any more whose file a loop device is over.
    while read -r loop file; do
        [[ $file != "$SCRATCH"/* ]] || loops+=("$loop")
    done < <(losetup --noheadings --list --output NAME,BACK-FILE 2>/dev/null)
    for process in python3 ''; do
        while IFS= read -r pid; do
            program=$(readlink "/proc/$pid/exe" 2>/dev/null) || continue
            # The search names the folder too.
            [[ $program == *"$process"* && $program != */grep ]] || continue
            warn "ending what a test left behind: $pid $program"
            end_process "$pid"
        done < <(grep -lsF -- "$SCRATCH/" /proc/[0-9]*/cmdline | tr -dc '0-9\n')
    done
    while read -r _ mounted _; do
        [[ $mounted != "$SCRATCH"/* ]] || as_root umount --lazy "$mounted" || true
    done </proc/mounts
    for loop in ${loops[@]+"${loops[@]}"}; do as_root losetup --detach "$loop" || true; done
}

# A script may define at_cleanup: called once its processes are gone and before SCRATCH is.
cleanup() {
    local status=$? pid
    trap - EXIT
    # Whoever insists waits: it is bounded, and what it would leave stays.
    trap '' INT TERM HUP
    remove_policy
    for pid in ${STARTED_PIDS[@]+"${STARTED_PIDS[@]}"}; do end_process "$pid"; done
    if [[ -n $SCRATCH && -d $SCRATCH ]]; then
        end_strays
        if declare -F at_cleanup >/dev/null; then at_cleanup; fi
        if [[ $KEEP_SCRATCH == yes ]]; then
            say "kept: $SCRATCH"
        else
            rm -rf "$SCRATCH"
        fi
    fi
    exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# ---------------------------------------------------------------- the daemon

# start_poold BIN DIR [ARGUMENT...]: starts it, waits until it answers, sets POOLD_PID.
# Its log goes to DIR.log.
start_poold() {
    local bin=$1 directory=$2 tries
    shift 2
    "$bin/poold" --dir "$directory" "$@" 2>>"$directory.log" &
    POOLD_PID=$!
    # Its end, violent ones included, is ours to report, not the shell's.
    disown "$POOLD_PID"
    will_end "$POOLD_PID"
    for ((tries = 0; tries < 300; tries++)); do
        if "$bin/poolctl" pool ls --dir "$directory" >/dev/null 2>&1; then return 0; fi
        kill -0 "$POOLD_PID" 2>/dev/null || break
        sleep 0.1
    done
    tail -n 20 "$directory.log" >&2
    fail "poold did not come up" "its log ends above; the whole of it: $directory.log"
}
