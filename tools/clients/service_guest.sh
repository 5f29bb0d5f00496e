#!/bin/bash
# A User-Mode Linux guest whose systemd runs poold as the service that tools/install installs.
#
# Started by tools/check-service as the guest's init with hostfs as its root; from the kernel's
# command line:
#   POOLD_ROOT    where it was installed: --destdir
#   POOLD_REPORT  a folder of the host: the file `report` there takes what is said here
#
# The guest gets a root of its own in memory: with the host's /usr, read-only as all of hostfs, and
# with nothing of the host's /etc, so that no service of the host is started. The report ends with
# `guest: passed` or `guest: failed`. Run again as a service of that root, with the argument
# `check`, it looks at poold's service from inside.

set -euo pipefail
export PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

power_off() {
    local status=$?
    trap - EXIT
    if ((status == 0)); then
        echo "guest: passed"
    else
        journalctl --no-pager --output=cat --unit=poold.service | tail -n 25 || true
        echo "guest: failed with status $status"
    fi
    echo o >/proc/sysrq-trigger
    sleep 60
}

fail() {
    echo "error: $*"
    exit 1
}
step() { echo "[$(cut -d ' ' -f 1 /proc/uptime)] $*"; }

# ---------------------------------------------------------------- the root

make_root() {
    local name root=/mnt
    mount -t proc proc /proc
    mount -t tmpfs -o size=70%,mode=755 root "$root"
    mkdir "$root"/{dev,etc,home,mnt,old,proc,report,root,run,srv,sys,tmp,usr,var} "$root/var/lib"
    chmod 1777 "$root/tmp"
    mount --bind /usr "$root/usr"
    mount --bind "$POOLD_ROOT/usr/local" "$root/usr/local"
    # The one place of the host that can be written to.
    # Kernels since 6.11 name the folder's option; earlier ones take all that is there for its path.
    mount -t hostfs -o "hostfs=$POOLD_REPORT" report "$root/report" 2>/dev/null ||
        mount -t hostfs -o "$POOLD_REPORT" report "$root/report"
    for name in bin lib lib64 sbin; do cp -a "/$name" "$root/$name"; done
    cp -a "$POOLD_ROOT/etc/." "$root/etc"
    # The users and groups that every Debian begins with, disk among them.
    cp /usr/share/base-passwd/passwd.master "$root/etc/passwd"
    cp /usr/share/base-passwd/group.master "$root/etc/group"
    cp -a /etc/ld.so.* "$root/etc"
    ln -s ../usr/lib/os-release "$root/etc/os-release"
    # No first boot: nobody is there to answer its questions.
    echo 706f6f6c640000000000000000000001 >"$root/etc/machine-id"
    mkdir -p "$root/etc/systemd/system"
    cp "$0" "$root/root/check"
    cat >"$root/etc/systemd/system/check.service" <<END
[Unit]
After=basic.target systemd-sysusers.service
Requires=basic.target
[Service]
ExecStart=/bin/bash /root/check check
END
    cd "$root"
    pivot_root . old
    cd /
    mount -t proc proc /proc
    umount --lazy /old
    exec /lib/systemd/systemd --unit=check.service
}

# ---------------------------------------------------------------- the checks

URI='nbd+unix:///data/home?socket=/var/lib/poold/nbd.sock'

main_pid() { systemctl show --property=MainPID --value poold.service; }

# eventually COMMAND...: it succeeds within two minutes.
eventually() {
    local tries
    for ((tries = 0; tries < 240; tries++)); do
        if "$@" >/dev/null 2>&1; then return 0; fi
        sleep 0.5
    done
    fail "this never came true: $*"
}

same() {
    nbdcopy "$URI" /tmp/after
    cmp --bytes="$(stat --format=%s /tmp/before)" /tmp/before /tmp/after || fail "other bytes: $1"
}

has_a_ring() {
    if find "/proc/$(main_pid)/fd" -lname '*io_uring*' | grep -q .; then echo yes; else echo no; fi
}

has_restarted() { [[ $(main_pid) != "$1" ]] && poolctl pool status data; }

privileges() {
    local pid status
    pid=$(main_pid)
    status=$(cat "/proc/$pid/status")
    [[ $(stat --format=%U "/proc/$pid") == poold ]] || fail "it runs as another user"
    [[ $status == *$'CapEff:\t0000000000000000'* ]] || fail "it has capabilities"
    [[ $status == *$'NoNewPrivs:\t1'* && $status == *$'Seccomp:\t2'* ]] || fail "it is not confined"
    [[ $(stat --format='%U %G %a' /var/lib/poold) == 'poold poold 750' ]] ||
        fail "its folder is $(stat --format='%U %G %a' /var/lib/poold)"
    # Who may talk to it: the group, and nobody else.
    setpriv --reuid=nobody --regid=poold --clear-groups poolctl pool ls >/dev/null ||
        fail "a member of its group is refused"
    if setpriv --reuid=nobody --regid=nogroup --clear-groups poolctl pool ls 2>/dev/null; then
        fail "nobody may use it"
    fi
}

check() {
    local pid engine
    local -A expected=([libaio]=no [io_uring]=yes)
    export LD_LIBRARY_PATH=/usr/local/lib/poold-libraries
    step "systemd $(systemctl show --property=Version --value)"
    # A device manager does this where there is one.
    chgrp disk /dev/ubda /dev/ubdb
    chmod 660 /dev/ubda /dev/ubdb
    systemctl start poold.service || fail "it does not start"
    step "started"
    poolctl pool create data /dev/ubda /dev/ubdb
    poolctl space create data/home --size 256M --resiliency mirror2
    head --bytes=8M /dev/urandom >/tmp/before
    nbdcopy --flush /tmp/before "$URI"
    same "as written"
    privileges
    step "serves, as itself and nobody else"
    pid=$(main_pid)
    kill -KILL "$pid"
    eventually has_restarted "$pid"
    same "after kill -9"
    step "was started again after kill -9"
    for engine in libaio io_uring; do
        sed -i '/^engine = /d' /etc/poold.conf
        echo "engine = $engine" >>/etc/poold.conf
        systemctl restart poold.service || fail "it does not start with $engine"
        same "with $engine"
        [[ $(has_a_ring) == "${expected[$engine]}" ]] || fail "it runs on something else"
        step "runs on $engine"
    done
    systemctl stop poold.service
    [[ $(systemctl show --property=Result --value poold.service) == success ]] ||
        fail "it does not stop cleanly"
    step "stopped cleanly"
}

if [[ ${1:-} == check ]]; then
    exec >>/report/report 2>&1
    trap power_off EXIT
    trap 'echo "in line $LINENO"' ERR
    check
else
    trap power_off EXIT
    make_root
fi
