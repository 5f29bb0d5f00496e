#!/usr/bin/python3
"""An export as this machine's own file system: nbdfuse, a loop device, ext4. Needs root.

    host_mount.py life   --bin DIR --scratch DIR
    host_mount.py sqlite --bin DIR --scratch DIR [--rounds N] [--seed N]

life    mkfs, mount, files, mounted again and compared, fstrim, umount, fsck.
sqlite  a database that commits with synchronous=FULL while the daemon is killed. The mount dies
        with it, as it would with its machine; mounted again, every transaction that was committed
        is there, and PRAGMA integrity_check finds nothing.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time

from checker import Daemon, Violation
from mounts import Mount, MountError, must, wait_until

EXPORT = "host/files"
# What is removed and trimmed.
LARGE = 48 << 20


def prepare(daemon, scratch):
    daemon.start()
    daemon.wait_until_ready()
    disks = [os.path.join(scratch, f"disk{number}") for number in range(3)]
    for arguments in (
        ["pool", "create", "host", *disks, "--create-size", "2G"],
        ["space", "create", EXPORT, "--size", "1G", "--resiliency", "mirror2"],
    ):
        done = daemon.control(*arguments)
        if done.returncode != 0:
            raise Violation(f"poolctl {' '.join(arguments)}: {done.stderr.strip()}")


def mapped_bytes(daemon):
    return json.loads(daemon.control("space", "status", EXPORT, "--json").stdout)["mapped_bytes"]


# ---------------------------------------------------------------- a file system's life


def life(daemon, mount, options, dice):
    mount.make()
    sums = {}
    for number in range(120):
        content = dice.randbytes(dice.choice((0, 100, 4096, 70_000, 1_000_003)))
        name = os.path.join(mount.folder, f"file{number}")
        with open(name, "wb") as file:
            file.write(content)
        sums[name] = hashlib.sha256(content).hexdigest()
    mount.down()
    mount.up()
    compare(sums)
    large = os.path.join(mount.folder, "large")
    with open(large, "wb") as file:
        file.write(dice.randbytes(LARGE))
    must("sync", "-f", mount.folder)
    before = mapped_bytes(daemon)
    os.unlink(large)
    must("sync", "-f", mount.folder)
    print(must("fstrim", "-v", mount.folder).strip())
    after = mapped_bytes(daemon)
    # Room is mapped by the MiB: some of it may hold another file's end as well.
    if before - after < LARGE * 3 // 4:
        raise Violation(f"{LARGE} bytes trimmed, mapped {before} before and {after} after")
    compare(sums)
    must("umount", mount.folder)
    must("e2fsck", "-fn", mount.loop)
    mount.mount()
    mount.down()
    print(f"ok: {len(sums)} files compared, mapped {before >> 20} MiB, trimmed {after >> 20} MiB")


def compare(sums):
    for name, wanted in sums.items():
        with open(name, "rb") as file:
            if hashlib.sha256(file.read()).hexdigest() != wanted:
                raise Violation(f"{name} differs")


# ---------------------------------------------------------------- a database


def row(number):
    """What row `number` holds: a few hundred to a few thousand bytes that depend on it."""
    return hashlib.sha256(str(number).encode()).digest() * (10 + number * 37 % 120)


def write_transactions(database, journal, record):
    """Runs in a process of its own until the disk is gone. A transaction is recorded, outside the
    file system under test, once its COMMIT has returned."""
    connection = sqlite3.connect(database, isolation_level=None)
    connection.execute(f"PRAGMA journal_mode={journal}")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE IF NOT EXISTS rows (number INTEGER PRIMARY KEY, content BLOB)")
    (last,) = connection.execute("SELECT coalesce(max(number), 0) FROM rows").fetchone()
    with open(record, "ab", buffering=0) as committed:
        while True:
            connection.execute("BEGIN")
            for _ in range(1 + last % 5):
                last += 1
                connection.execute("INSERT INTO rows VALUES (?, ?)", (last, row(last)))
            connection.execute("COMMIT")
            committed.write(f"{last}\n".encode())


def check_database(database, committed):
    """Returns how many rows there are: those committed, and at most one transaction more."""
    connection = sqlite3.connect(database)
    (verdict,) = connection.execute("PRAGMA integrity_check").fetchone()
    if verdict != "ok":
        raise Violation(f"integrity_check: {verdict}")
    found = 0
    for number, content in connection.execute("SELECT number, content FROM rows ORDER BY number"):
        found += 1
        if number != found or content != row(number):
            raise Violation(f"row {number} in place {found} is wrong")
    connection.close()
    if not committed <= found <= committed + 5:
        raise Violation(f"{found} rows, but {committed} were committed")
    return found


def sqlite(daemon, mount, options, dice):
    database = os.path.join(mount.folder, "database")
    record = os.path.join(options.scratch, "committed")
    mount.make()
    rows = transactions = 0
    for round_number in range(options.rounds):
        open(record, "wb").close()
        # Not DELETE: with FULL it does not sync the folder it has removed the journal from, and a
        # crash may undo the last transaction on any disk.
        journal = ("WAL", "TRUNCATE", "PERSIST")[round_number % 3]
        writer = subprocess.Popen(
            [sys.executable, __file__, "writer", database, journal, record],
            stdin=subprocess.DEVNULL, stdout=mount.log, stderr=mount.log,
        )
        try:
            wait_until(lambda: os.path.getsize(record) > 0, "no transaction in 30 s")
            time.sleep(dice.uniform(0.1, 1.5))
            if writer.poll() is not None:
                raise Violation(
                    f"the writer ended with status {writer.returncode} before the daemon did")
            daemon.kill()
            # It ends by itself, at the first error; the mount is of no more use to it.
            writer.wait(60)
        finally:
            writer.kill()
            writer.wait()
        mount.down(clean=False)
        daemon.start()
        daemon.wait_until_ready()
        mount.up()
        with open(record, encoding="ascii") as file:
            numbers = file.read().split()
        transactions += len(numbers)
        rows = check_database(database, int(numbers[-1]))
        print(f"round {round_number + 1}: {journal}, {len(numbers)} transactions", flush=True)
    mount.down()
    mount.attach()
    must("e2fsck", "-fn", mount.loop)
    mount.down(clean=False)
    print(f"ok: {options.rounds} kills, {transactions} transactions, {rows} rows")


def main():
    if sys.argv[1:2] == ["writer"]:
        return write_transactions(*sys.argv[2:])
    # Ended by a signal, everything that was started still is: sys.exit runs every `finally`.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["life", "sqlite"])
    parser.add_argument("--bin", required=True, help="where poold and poolctl are")
    parser.add_argument("--scratch", required=True, help="an empty folder")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
    print(f"{options.what}: seed {seed}", flush=True)
    daemon = Daemon(options.bin, options.scratch)
    uri = f"nbd+unix:///{EXPORT}?socket={daemon.socket}"
    log = open(os.path.join(options.scratch, "mount.log"), "ab")
    mount = Mount(uri, options.scratch, os.path.join(options.scratch, "mounted"), log)
    try:
        prepare(daemon, options.scratch)
        {"life": life, "sqlite": sqlite}[options.what](daemon, mount, options, random.Random(seed))
        daemon.stop()
    except (Violation, MountError, OSError, sqlite3.Error, subprocess.SubprocessError) as problem:
        print(f"FAILED, seed {seed}: {problem}", flush=True)
        return 1
    finally:
        if daemon.process is not None and daemon.process.poll() is None:
            daemon.process.kill()
            daemon.process.wait()
        mount.down(clean=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
