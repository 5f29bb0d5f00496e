#!/bin/bash
# The init of a User-Mode Linux guest that uses poold through the kernel's own NBD client.
#
# Started by tools/clients/kernel_client with the host's root, read-only, as its own; from the
# kernel's command line:
#   POOLD_BIN          where poold and poolctl are
#   POOLD_TOOLS        the folder of this script
#   POOLD_SCRATCH      a folder of the host: the file `report` there takes what is said here
#   POOLD_FILE_SYSTEM  ext4 or xfs
#
# The pool lies on two raw disks (ubda, ubdb); poold's folder and everything else that is written
# to live in the guest's memory. The report ends with `guest: passed` or `guest: failed`.

set -euo pipefail
export PATH=/usr/sbin:/usr/bin:/sbin:/bin TMPDIR=/run

# Of the host, the scratch folder alone can be written to.
mount -t tmpfs run /run
mkdir /run/host
# Kernels since 6.11 name the folder's option; earlier ones take all that is there for its path.
mount -t hostfs -o "hostfs=$POOLD_SCRATCH" host /run/host 2>/dev/null ||
    mount -t hostfs -o "$POOLD_SCRATCH" host /run/host
exec >>/run/host/report 2>&1
cd /run

DIRECTORY=/run/poold
POOLD=0
DEVICE=/dev/nbd0
MOUNTED=/mnt/mounted
FILES=40

power_off() {
    local status=$?
    trap - EXIT
    if ((status == 0)); then
        echo "guest: passed"
    else
        dmesg | tail -n 25
        tail -n 25 /run/poold.log
        echo "guest: failed with status $status"
    fi
    # At once: there is nothing to be saved.
    echo o >/proc/sysrq-trigger
    sleep 60
}
trap power_off EXIT
trap 'echo "in line $LINENO"' ERR

fail() {
    echo "error: $*"
    exit 1
}
step() { echo "[$(cut -d ' ' -f 1 /proc/uptime)] $*"; }

poolctl() { "$POOLD_BIN/poolctl" "$@" --dir "$DIRECTORY"; }

# mapped: the bytes of the space that hold data.
mapped() {
    poolctl space status demo/files --json |
        /usr/bin/python3 -c 'import json, sys; print(json.load(sys.stdin)["mapped_bytes"])'
}

# eventually SECONDS WHAT COMMAND...
eventually() {
    local tries=$(($1 * 5)) what=$2
    shift 2
    while ! "$@" >/dev/null 2>&1; do
        ((tries-- > 0)) || fail "$what"
        sleep 0.2
    done
}

start_poold() {
    "$POOLD_BIN/poold" --dir "$DIRECTORY" 2>>/run/poold.log &
    POOLD=$!
    disown "$POOLD"
    eventually 60 "poold did not come up" poolctl space status demo/files
}

kill_poold() {
    kill -KILL "$POOLD"
    while kill -0 "$POOLD" 2>/dev/null; do sleep 0.05; done
}

set_up() {
    mount -t proc proc /proc
    mount -t sysfs sys /sys
    mountpoint -q /dev || mount -t devtmpfs dev /dev
    mount -t tmpfs -o size=200m memory /mnt
    mkdir "$MOUNTED"
    ip link set lo up
    insmod "/usr/lib/uml/modules/$(uname -r)/kernel/drivers/block/nbd.ko" nbds_max=2
    "$POOLD_BIN/poold" --dir "$DIRECTORY" 2>>/run/poold.log &
    POOLD=$!
    disown "$POOLD"
    eventually 60 "poold did not come up" poolctl pool ls
    poolctl pool create demo /dev/ubda /dev/ubdb
    poolctl space create demo/files --size 1G --resiliency mirror2
    poolctl space create demo/raw --size 256M --resiliency mirror2
}

setting() { cat "/sys/block/nbd0/queue/$1"; }

make_file_system() {
    case $POOLD_FILE_SYSTEM in
    ext4) mkfs.ext4 -q "$DEVICE" ;;
    xfs) mkfs.xfs -q "$DEVICE" ;;
    *) fail "no such file system: $POOLD_FILE_SYSTEM" ;;
    esac
}

check_file_system() {
    case $POOLD_FILE_SYSTEM in
    ext4) e2fsck -fn "$DEVICE" ;;
    xfs) xfs_repair -n "$DEVICE" ;;
    esac >/run/fsck 2>&1 || fail "the file system is damaged: $(tail -n 20 /run/fsck)"
}

no_io_errors() {
    ! dmesg | grep -E 'I/O error|EXT4-fs error|XFS.*([Cc]orrupt|[Ss]hut)|aborted|lost .*write' ||
        fail "the kernel saw errors, above"
}

drop_caches() { sync && echo 3 >/proc/sys/vm/drop_caches; }

# What was written and made durable is listed, with its sum, in the guest's memory.
verify_files() {
    drop_caches
    cp /run/sums /run/sums-now
    (cd "$MOUNTED" && sha256sum --check --quiet /run/sums-now) || fail "files differ, above"
}

# write_files FIRST LAST: each is made durable, its name with it, and then listed.
write_files() {
    /usr/bin/python3 - "$MOUNTED" "$1" "$2" <<'END'
import hashlib, os, sys
folder, first, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
names = os.open(folder, os.O_RDONLY)
for number in range(first, last + 1):
    content = os.urandom(number * 1500)
    with open(f"{folder}/file{number}", "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.fsync(names)
    with open("/run/sums", "a") as sums:
        print(hashlib.sha256(content).hexdigest(), f" file{number}", file=sums)
END
}

# A file system's life: made, filled, verified, emptied, trimmed, checked.
whole_life() {
    local before after block=512
    [[ $POOLD_FILE_SYSTEM == ext4 ]] || block=4096
    step "nbd-client, two connections, blocks of $block"
    nbd-client -unix "$DIRECTORY/nbd.sock" "$DEVICE" -name demo/files -connections 2 \
        -block-size "$block"
    [[ $(setting logical_block_size) == "$block" ]] ||
        fail "blocks of $(setting logical_block_size)"
    [[ $(setting fua) == 1 ]] || fail "the kernel does not use FUA"
    (($(setting discard_max_bytes) > 0)) || fail "the kernel does not discard"
    [[ $(cat /sys/block/nbd0/size) == $((1 << 21)) ]] || fail "the size is wrong"
    [[ $(cat /sys/block/nbd0/ro) == 0 ]] || fail "it is read-only"

    step "mkfs.$POOLD_FILE_SYSTEM, files, fio"
    make_file_system
    mount "$DEVICE" "$MOUNTED"
    : >/run/sums
    write_files 1 $FILES
    fio --name=verify --directory="$MOUNTED" --rw=randwrite --bs=4k --size=3m --direct=1 \
        --ioengine=libaio --iodepth=8 --verify=crc32c --verify_fatal=1 --fsync=64 --thread \
        --output=/run/fio || fail "fio: $(tail -n 20 /run/fio)"
    verify_files

    step "fstrim"
    head -c 64M /dev/urandom >"$MOUNTED/large"
    sync
    before=$(mapped)
    rm "$MOUNTED/large" "$MOUNTED"/verify*
    sync
    fstrim -v "$MOUNTED"
    after=$(mapped)
    ((after + (48 << 20) < before)) || fail "$after bytes mapped after fstrim, $before before"
    verify_files

    step "umount, check"
    umount "$MOUNTED"
    check_file_system
    no_io_errors
    nbd-client -d "$DEVICE"
}

# attach EXPORT NUMBER: sets ATTACHED. A mount on it outlives the daemon.
attach() {
    local log=/run/attach$2
    /usr/bin/python3 "$POOLD_TOOLS/kernel_attach.py" "$DIRECTORY/nbd.sock" "$1" "$2" \
        --connections 2 >"$log" 2>&1 &
    ATTACHED=$!
    eventually 30 "$1 is not attached" grep -q '^attached$' "$log"
}

attached_again() { (($(grep -c '^attached again$' "/run/attach$1") >= $2)); }

read_files() {
    while [[ ! -e /run/enough ]]; do verify_files; done
}

# Files, as fast as they come, until it is enough.
keep_writing() {
    local number
    for ((number = FILES + 1; number < 2000; number += 10)); do
        write_files "$number" $((number + 9))
        [[ ! -e /run/enough ]] || break
    done
}

# The daemon is killed three times while a raw device is written to, each write durable at its
# return, and while a mount's files are written and read from the device. Requests wait, nothing
# fails, and of what was acknowledged nothing is missing: the kernel does not know that there was
# another daemon, so its next FLUSH has to cover what the first one had taken.
survives_kills() {
    local attached=() jobs=() job round
    step "attached for good"
    rm -f /run/enough
    attach demo/files 0 && attached+=("$ATTACHED")
    attach demo/raw 1 && attached+=("$ATTACHED")
    mount -o noatime "$DEVICE" "$MOUNTED"
    sync
    /usr/bin/python3 "$POOLD_TOOLS/kernel_writer.py" /dev/nbd1 /run/enough >/run/writer 2>&1 &
    jobs+=("$!")
    keep_writing &
    jobs+=("$!")
    read_files &
    jobs+=("$!")
    for round in 1 2 3; do
        sleep 1
        step "kill -9, raw writes: $(tail -n 1 /run/writer)"
        kill_poold
        sleep 0.3
        start_poold
        eventually 60 "the mount is not attached again" attached_again 0 "$round"
        eventually 60 "the raw device is not attached again" attached_again 1 "$round"
    done
    sleep 1
    : >/run/enough
    for job in "${jobs[@]}"; do wait "$job" || fail "I/O failed: $(tail -n 3 /run/writer)"; done
    step "$(tail -n 1 /run/writer)"
    verify_files
    umount "$MOUNTED"
    check_file_system
    no_io_errors
    for job in "${attached[@]}"; do
        kill "$job"
        wait "$job" || fail "detaching: $(cat /run/attach?)"
    done
}

set_up
whole_life
survives_kills
kill "$POOLD"
eventually 15 "poold did not stop" test ! -d "/proc/$POOLD"
