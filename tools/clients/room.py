#!/usr/bin/python3
"""Space that comes back, and a pool that fills.

    room.py WHAT --bin DIR --scratch DIR

scattered   every second MiB trimmed: another space gets the room
waiting     a write waits for room while all else goes on
fixed       2 TiB, with all its slabs from the start
filesystem  filled, deleted, fstrim: back to within 2 %; root
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time

import nbd

from checker import Daemon, Violation
from mounts import Mount, MountError, must, wait_until

MIB = 1 << 20
GIB = 1 << 30


def poolctl(daemon, *arguments):
    done = daemon.control(*arguments)
    if done.returncode != 0:
        raise Violation(f"poolctl {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def status(daemon, space):
    return json.loads(poolctl(daemon, "space", "status", space, "--json"))


def make_pool(daemon, scratch, *, disks, size):
    daemon.start()
    daemon.wait_until_ready()
    paths = [os.path.join(scratch, f"disk{number}") for number in range(disks)]
    poolctl(daemon, "pool", "create", "room", *paths, "--create-size", size)


def make_space(daemon, name, size, *arguments):
    poolctl(daemon, "space", "create", f"room/{name}", "--size", size, *arguments)
    handle = nbd.NBD()
    handle.connect_uri(f"nbd+unix:///room/{name}?socket={daemon.socket}")
    return handle


def content(mib):
    return bytes([mib % 251 + 1]) * 4096


def fill(handle, start=0):
    """One block in each MiB until there is no more room; returns the first without one."""
    mib = start
    while True:
        try:
            handle.pwrite(content(mib), mib * MIB)
        except nbd.Error as error:
            if error.errno != "ENOSPC":
                raise
            handle.flush()
            return mib
        mib += 1


def compare(handle, mibs):
    for mib in mibs:
        if bytes(handle.pread(4096, mib * MIB)) != content(mib):
            raise Violation(f"MiB {mib} differs")


# ---------------------------------------------------------------- trims of any shape


def scattered(daemon, scratch):
    make_pool(daemon, scratch, disks=3, size="3G")
    first = make_space(
        daemon, "first", "64G", "--resiliency", "simple", "--when-full", "enospc")
    filled = fill(first)
    second = make_space(
        daemon, "second", "64G", "--resiliency", "simple", "--when-full", "enospc")
    try:
        second.pwrite(content(0), 0)
        raise Violation("a write found room in a full pool")
    except nbd.Error as error:
        if error.errno != "ENOSPC":
            raise
    for mib in range(0, filled, 2):
        first.trim(MIB, mib * MIB)
    first.flush()
    began = time.monotonic()
    room = fill(second)
    took = time.monotonic() - began
    # Half of it was trimmed; each space keeps less than one slab group to itself, which has to
    # leave something to be found.
    least = filled // 2 - 2 * 3 * 256
    if least < filled // 4 or room < least:
        raise Violation(f"{filled} MiB filled, every second trimmed, {room} MiB for another space")
    compare(first, range(1, filled, 2))
    compare(second, range(room))
    daemon.kill()
    daemon.start()
    daemon.wait_until_ready()
    again = nbd.NBD()
    again.connect_uri(f"nbd+unix:///room/first?socket={daemon.socket}")
    compare(again, range(1, filled, 2))
    print(f"ok: {filled} MiB filled, {filled // 2} trimmed, {room} for the other, {took:.1f} s")


# ---------------------------------------------------------------- a full pool


def waiting(daemon, scratch):
    make_pool(daemon, scratch, disks=2, size="1280M")
    space = make_space(daemon, "space", "64G", "--resiliency", "mirror2", "--when-full", "enospc")
    filled = fill(space)
    poolctl(daemon, "space", "set", "room/space", "when_full=wait")
    ended = []
    cookie = space.aio_pwrite(
        nbd.Buffer.from_bytearray(bytearray(content(filled))), filled * MIB,
        completion=lambda error: ended.append(error) or 1)
    # In any order but behind it: flush, read, overwrite, trim.
    other = nbd.NBD()
    other.connect_uri(f"nbd+unix:///room/space?socket={daemon.socket}")
    wait_until(
        lambda: status(daemon, "room/space")["waiting_writes"] == 1,
        "the status does not say that a write waits")
    other.flush()
    compare(other, [0, filled - 1])
    other.pwrite(content(5), 5 * MIB, nbd.CMD_FLAG_FUA)
    other.trim(4096, 5 * MIB + 8192)
    if status(daemon, "room/space")["health"] != "healthy":
        raise Violation("a full pool took a space offline")
    space.poll(0)
    if ended:
        raise Violation(f"the write did not wait: {ended}")
    more = [os.path.join(scratch, f"more{number}") for number in range(2)]
    poolctl(daemon, "pool", "add", "room", *more, "--create-size", "2G")
    while not ended:
        if space.poll(30_000) == 0:
            raise Violation("the write did not go on when disks came")
    if [int(getattr(error, "value", error)) for error in ended] != [0]:
        raise Violation(f"the write ended with {ended}")
    del cookie
    compare(space, range(0, filled + 1, 16))
    compare(space, [filled])
    print(f"ok: full at {filled} MiB, the write went on when disks came")


# ---------------------------------------------------------------- fixed


def fixed(daemon, scratch):
    make_pool(daemon, scratch, disks=4, size="1200G")
    began = time.monotonic()
    space = make_space(
        daemon, "fixed", "2T", "--resiliency", "mirror2", "--provisioning", "fixed")
    took = time.monotonic() - began
    found = status(daemon, "room/fixed")
    if found["provisioning"] != "fixed" or found["allocated_bytes"] < 4 << 40:
        raise Violation(f"{found['allocated_bytes']} bytes for 2 TiB on two disks")
    thin = make_space(daemon, "thin", "2T", "--resiliency", "simple", "--when-full", "enospc")
    places = range(0, 2048 * GIB // MIB, 256 * GIB // MIB)
    for mib in places:
        space.pwrite(content(mib), mib * MIB)
        thin.pwrite(content(mib), mib * MIB)
    daemon.kill()
    daemon.start()
    daemon.wait_until_ready()
    for name in ("fixed", "thin"):
        space = nbd.NBD()
        space.connect_uri(f"nbd+unix:///room/{name}?socket={daemon.socket}")
        compare(space, places)
    if status(daemon, "room/fixed")["allocated_bytes"] < found["allocated_bytes"]:
        raise Violation("a restart took room from a fixed space")
    print(f"ok: 2 TiB of mirror2 in {took:.2f} s")


# ---------------------------------------------------------------- a file system


def filesystem(daemon, scratch):
    make_pool(daemon, scratch, disks=3, size="4G")
    make_space(daemon, "files", "4G", "--resiliency", "mirror2").shutdown()
    log = open(os.path.join(scratch, "mount.log"), "ab")
    uri = f"nbd+unix:///room/files?socket={daemon.socket}"
    mount = Mount(uri, scratch, os.path.join(scratch, "mounted"), log)
    try:
        mount.attach()
        # Whole from the start: nothing is initialised behind the measurement's back.
        must("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", mount.loop)
        mount.mount()
        must("sync", "-f", mount.folder)
        start = status(daemon, "room/files")["allocated_bytes"]
        name = os.path.join(mount.folder, "large")
        written = 0
        with open(name, "wb") as file:
            while written < 768 * MIB:
                written += file.write(os.urandom(4 * MIB))
        must("sync", "-f", mount.folder)
        full = status(daemon, "room/files")["allocated_bytes"]
        if full < start + written:
            raise Violation(f"{written} bytes written, {start} allocated before and {full} after")
        os.unlink(name)
        must("sync", "-f", mount.folder)
        must("fstrim", mount.folder)
        wait_until(
            lambda: status(daemon, "room/files")["allocated_bytes"] <= start * 102 // 100,
            f"{start} bytes allocated at the start, {full} when full, and not back", 120)
        after = status(daemon, "room/files")["allocated_bytes"]
        must("umount", mount.folder)
        must("e2fsck", "-fn", mount.loop)
        mount.mount()
        mount.down()
    finally:
        mount.down(clean=False)
    print(f"ok: {start >> 20} MiB, {full >> 20} when full, {after >> 20} after fstrim")


def main():
    # Ended by a signal, everything that was started still is: sys.exit runs every `finally`.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    tests = {test.__name__: test for test in (scattered, waiting, fixed, filesystem)}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=tests)
    parser.add_argument("--bin", required=True, help="where poold and poolctl are")
    parser.add_argument("--scratch", required=True, help="an empty folder")
    parser.add_argument("--seed", help="not used: nothing here is drawn by lot")
    options = parser.parse_args()
    daemon = Daemon(options.bin, options.scratch)
    try:
        tests[options.what](daemon, options.scratch)
        daemon.stop()
    except (Violation, MountError, OSError, nbd.Error, subprocess.SubprocessError) as problem:
        print(f"FAILED: {problem}", flush=True)
        return 1
    finally:
        if daemon.process is not None and daemon.process.poll() is None:
            daemon.process.kill()
            daemon.process.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
