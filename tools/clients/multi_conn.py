#!/usr/bin/python3
"""Multi-conn between processes: some write, others read, one flushes for all; then kill -9.

    multi_conn.py --bin DIR --scratch DIR [--rounds N] [--resiliency simple|mirror2] [--seed N]
                  [--no-flush]

Every process has a connection of its own. A writer's n-th write, where and how long, follows from
the seed, so that everyone can tell what a sector may hold from two numbers a writer: how many of
its writes are acknowledged, and how many were when the last completed FLUSH began, on another
process's connection. Readers check while it goes on: nothing older than what was acknowledged
before the read, nothing newer than what was issued after it. After the kill, which takes
DIR/restart with it as a power cut would, every sector has to hold what was last made durable, or
something later. With --no-flush nobody flushes, nor writes with FUA, and everybody believes it:
then the run has to fail.
"""

import argparse
import hashlib
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import nbd

from checker import SECTOR, ZEROES, Daemon, Violation, stamp, version_of
from crash_loop import make_pool

WRITERS = 5
READERS = 2
STRIPE_SECTORS = (4 << 20) // SECTOR


class Script:
    """What every writer does, decided by the seed alone."""

    def __init__(self, seed):
        self.seed = seed

    def write(self, writer, number):
        """The `number`-th write: first sector, count of sectors, whether it is a trim, FUA."""
        digest = hashlib.blake2b(f"{self.seed} {writer} {number}".encode(), digest_size=8).digest()
        count = (1, 2, 8, 8, 16, 64)[digest[0] % 6]
        # Half of it goes to a sixteenth of the stripe, so that versions pile up there.
        span = STRIPE_SECTORS if digest[1] % 2 else STRIPE_SECTORS // 16
        first = int.from_bytes(digest[2:6], "little") % (span - count)
        return writer * STRIPE_SECTORS + first, count, digest[6] % 8 == 0, digest[7] % 16 == 0

    def apply(self, sectors, writer, first_number, last_number):
        """Lets the writes of this range pass over `sectors`: sector -> what it holds."""
        for number in range(first_number, last_number + 1):
            first, count, is_trim, _ = self.write(writer, number)
            for sector in range(first, first + count):
                sectors[sector] = ZEROES if is_trim else number

    def later(self, writer, first_number, last_number):
        """sector -> everything that this range of writes may have left there."""
        possible = {}
        for number in range(first_number, last_number + 1):
            first, count, is_trim, _ = self.write(writer, number)
            for sector in range(first, first + count):
                possible.setdefault(sector, set()).add(ZEROES if is_trim else number)
        return possible


class Shared:
    """What the processes tell each other: two numbers a writer, each written by one process."""

    def __init__(self, begun):
        self.acknowledged = multiprocessing.Array("Q", begun, lock=False)
        self.durable = multiprocessing.Array("Q", begun, lock=False)
        self.flushes = multiprocessing.Value("Q", 0, lock=False)
        self.reads = multiprocessing.Array("Q", READERS, lock=False)


def connect(daemon, export):
    handle = nbd.NBD()
    handle.set_export_name(export)
    handle.connect_unix(daemon.socket)
    return handle


def write_on(daemon, export, script, shared, writer, really):
    handle = connect(daemon, export)
    number = shared.acknowledged[writer]
    while True:
        number += 1
        first, count, is_trim, is_fua = script.write(writer, number)
        flags = nbd.CMD_FLAG_FUA if is_fua and really else 0
        if is_trim:
            handle.trim(count * SECTOR, first * SECTOR, flags)
        else:
            handle.pwrite(stamp(writer + 1, number, first, count), first * SECTOR, flags)
        shared.acknowledged[writer] = number


def flush_on(daemon, export, shared, dice, really):
    handle = connect(daemon, export)
    while True:
        covered = list(shared.acknowledged)
        if really:
            handle.flush()
        else:
            handle.pread(SECTOR, 0)
        for writer, number in enumerate(covered):
            shared.durable[writer] = number
        shared.flushes.value += 1
        time.sleep(dice.uniform(0, 0.05))


def read_on(daemon, export, script, shared, state, reader, dice):
    handle = connect(daemon, export)
    base, begun = state
    sectors, applied = dict(base), list(begun)
    while True:
        writer = dice.randrange(WRITERS)
        before = shared.acknowledged[writer]
        script.apply(sectors, writer, applied[writer] + 1, before)
        applied[writer] = before
        # Most likely something recent: that is where a mistake would be.
        first, count, _, _ = script.write(writer, max(1, before + 1 - dice.randrange(20)))
        content = bytes(handle.pread(count * SECTOR, first * SECTOR))
        later = script.later(writer, before + 1, shared.acknowledged[writer] + 1)
        for index in range(count):
            sector = first + index
            found = version_of(writer + 1, sector, content[index * SECTOR : (index + 1) * SECTOR])
            allowed = {sectors.get(sector, ZEROES)} | later.get(sector, set())
            if found not in allowed:
                raise Violation(f"sector {sector} reads as {found} under load, allowed: {allowed}")
        shared.reads[reader] += 1


def run_child(work, *arguments):
    """Ends with 0 when the server went away, with 1 when something was wrong before."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        work(*arguments)
    except nbd.Error:
        sys.exit(0)
    except Violation as problem:
        print(f"{work.__name__}: {problem}", flush=True)
        sys.exit(1)


def verify(daemon, export, script, base, begun, shared):
    """Returns what every sector holds now; all of it has to be allowed, and two reads agree."""
    allowed = {}
    expected = dict(base)
    for writer in range(WRITERS):
        durable, issued = shared.durable[writer], shared.acknowledged[writer] + 1
        script.apply(expected, writer, begun[writer] + 1, durable)
        allowed.update(script.later(writer, durable + 1, issued))
        make_fua_durable(script, expected, allowed, writer, durable, issued - 1)
    one, two = connect(daemon, export), connect(daemon, export)
    for writer in range(WRITERS):
        start = writer * STRIPE_SECTORS
        content = bytes(one.pread(STRIPE_SECTORS * SECTOR, start * SECTOR))
        if bytes(two.pread(STRIPE_SECTORS * SECTOR, start * SECTOR)) != content:
            raise Violation(f"two reads of stripe {writer} differ")
        for index in range(STRIPE_SECTORS):
            sector = start + index
            found = version_of(writer + 1, sector, content[index * SECTOR : (index + 1) * SECTOR])
            possible = {expected.get(sector, ZEROES)} | allowed.get(sector, set())
            if found not in possible:
                raise Violation(f"sector {sector} holds {found}, allowed: {sorted(possible)}")
            expected[sector] = found
    return expected


def make_fua_durable(script, expected, allowed, writer, durable, acknowledged):
    """An acknowledged write with FUA is durable by itself: what was before it is gone."""
    for number in range(durable + 1, acknowledged + 1):
        first, count, is_trim, is_fua = script.write(writer, number)
        if not is_fua:
            continue
        after = script.later(writer, number + 1, acknowledged + 1)
        for sector in range(first, first + count):
            expected[sector] = ZEROES if is_trim else number
            allowed[sector] = after.get(sector, set())


def run_round(daemon, export, script, state, dice, flushes):
    """Load, kill, restart, check. Returns the next state and how much was done."""
    base, begun = state
    shared = Shared(begun)
    work = [
        (write_on, daemon, export, script, shared, writer, flushes) for writer in range(WRITERS)
    ]
    work += [
        (read_on, daemon, export, script, shared, state, reader, random.Random(dice.random()))
        for reader in range(READERS)
    ]
    work.append((flush_on, daemon, export, shared, random.Random(dice.random()), flushes))
    children = [multiprocessing.Process(target=run_child, args=one, daemon=True) for one in work]
    for child in children:
        child.start()
    try:
        deadline = time.monotonic() + 60
        while shared.flushes.value < 3 and all(child.is_alive() for child in children):
            if time.monotonic() > deadline:
                raise Violation("no three flushes within 60 s")
            time.sleep(0.01)
        time.sleep(dice.uniform(0, 1.0))
        # An early end is judged below, by its status: only the kill may end anyone with 0.
        early = [child.exitcode for child in children if not child.is_alive()]
        daemon.kill()
        for child in children:
            child.join(30)
        if early or any(child.exitcode != 0 for child in children):
            raise Violation(f"processes ended with {[child.exitcode for child in children]}")
    finally:
        for child in children:
            child.kill()
    # What a daemon keeps for the one after it covers every acknowledged write, flushed or not.
    shutil.rmtree(os.path.join(daemon.directory, "restart"))
    daemon.start()
    daemon.wait_until_ready()
    holds = verify(daemon, export, script, base, begun, shared)
    after = [number + 1 for number in shared.acknowledged]
    done = (sum(after) - sum(begun), sum(shared.reads), shared.flushes.value)
    return (holds, after), done


def main():
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", required=True, help="where poold and poolctl are")
    parser.add_argument("--scratch", required=True, help="an empty folder")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--resiliency", default="mirror2", choices=["simple", "mirror2"])
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--no-flush", action="store_true", help="only pretend to flush")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
    print(f"multi-conn: {options.resiliency}, seed {seed}", flush=True)
    dice = random.Random(seed)
    export = "crash/space"
    daemon = Daemon(options.bin, options.scratch)
    totals = [0, 0, 0]
    try:
        daemon.start()
        daemon.wait_until_ready()
        make_pool(daemon, options.scratch, {export: options.resiliency})
        state = ({}, [0] * WRITERS)
        for _ in range(options.rounds):
            state, done = run_round(
                daemon, export, Script(seed), state, dice, not options.no_flush
            )
            totals = [total + some for total, some in zip(totals, done)]
        daemon.stop()
    except (Violation, nbd.Error, subprocess.SubprocessError) as problem:
        print(f"FAILED, seed {seed}: {problem}", flush=True)
        return 1
    finally:
        if daemon.process is not None and daemon.process.poll() is None:
            daemon.process.kill()
            daemon.process.wait()
    writes, reads, flushes = totals
    print(f"ok: {options.rounds} kills, {writes} writes, {reads} reads, {flushes} flushes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
