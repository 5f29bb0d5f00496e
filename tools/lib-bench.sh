# Shared by the scripts that measure: disks that cost next to nothing, and the programs to measure.
# Sourced after lib.sh.
# shellcheck shell=bash

MOUNTED=''
DISKS=''

# choose_disks MEBIBYTES: sets DISKS to a folder with that much room. /dev/shm where it has it,
# else a tmpfs of our own, so that what is measured is the software. O_DIRECT on tmpfs needs
# Linux 6.6; without it, plain files.
choose_disks() {
    local available
    available=$(df --output=avail -BM /dev/shm 2>/dev/null | tail -n 1 | tr -dc '0-9')
    if ((${available:-0} >= $1)); then
        DISKS=$(mktemp -d /dev/shm/poold-bench.XXXXXX)
    elif [[ $(id -u) == 0 ]] && mkdir "$SCRATCH/disks" &&
        mount -t tmpfs -o "size=$1m" poold-bench "$SCRATCH/disks" 2>/dev/null; then
        DISKS=$SCRATCH/disks
        MOUNTED=$DISKS
    else
        DISKS=$SCRATCH
        warn "no tmpfs with room: the disks are files in $SCRATCH, and slow"
    fi
    if ! dd if=/dev/zero of="$DISKS/probe" bs=4k count=1 oflag=direct status=none 2>/dev/null
    then
        warn "no O_DIRECT on $DISKS: the disks are files in $SCRATCH, and slow"
        release_disks
        DISKS=$SCRATCH
    fi
    rm -f "$DISKS/probe"
}

# Where python was killed before it could clean up: what it made of the disks goes before they do.
release_disks() {
    local loop file group=/sys/fs/cgroup/blkio/${SCRATCH##*/} tries
    while read -r loop file; do
        [[ -z $DISKS || $file != "$DISKS"/* ]] || losetup --detach "$loop" ||
            warn "still attached: $loop"
    done < <(losetup --noheadings --list --output NAME,BACK-FILE 2>/dev/null)
    for ((tries = 0; tries < 50; tries++)); do
        [[ -d $group ]] || break
        rmdir "$group" 2>/dev/null || sleep 0.1
    done
    [[ ! -d $group ]] || warn "a control group stays: $group"
    if [[ -n $MOUNTED ]]; then umount "$MOUNTED" || warn "still mounted: $MOUNTED"; fi
    MOUNTED=''
    case $DISKS in /dev/shm/poold-bench.*) rm -rf "$DISKS" ;; esac
}

at_cleanup() { release_disks; }

# find_programs [FOLDER]: sets BIN to a folder with poold and poolctl: the one given, or a release
# build made here.
find_programs() {
    local product
    BIN=${1:-}
    if [[ -n $BIN ]]; then
        BIN=$(cd "$BIN" && pwd) || fail "there is no folder $1" "name one with --bin"
        for product in poold poolctl; do
            [[ -x $BIN/$product ]] || fail "there is no $product in $BIN" "name another --bin"
        done
        return
    fi
    need_packages "${BUILD_PACKAGES[@]}"
    need_swift
    say "building poold and poolctl (release)"
    for product in poold poolctl; do
        attended swift build --package-path "$REPOSITORY" -c release --product "$product" \
            >>"$SCRATCH/build.log" 2>&1 || {
            tail -n 30 "$SCRATCH/build.log" >&2
            fail "the build failed" "swift build -c release shows the rest"
        }
    done
    BIN=$(swift build --package-path "$REPOSITORY" -c release --show-bin-path)
}

# need_storage_daemon: qemu-storage-daemon comes with qemu-utils in Debian 13 and Ubuntu 24.04, and
# with qemu-system-common in Debian 12.
need_storage_daemon() {
    need_packages qemu-utils
    command -v qemu-storage-daemon >/dev/null || need_packages qemu-system-common
    command -v qemu-storage-daemon >/dev/null ||
        fail "no package brings qemu-storage-daemon" "install it, or measure without it"
}
