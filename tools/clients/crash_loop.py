#!/usr/bin/python3
"""Kills a poold under load, again and again, and checks that nothing acknowledged is lost.

    crash_loop.py --bin DIR --scratch DIR [--depart] [--rounds N | --minutes M] [--seed N]

Each round writes stamped sectors to a simple space, a mirror and a parity, each over two
connections, kills the daemon with SIGKILL in the middle, sometimes again while it recovers, and
reads everything back. A sector may hold the version that was last acknowledged, flushed or not, or
one that was on its way; nothing else, and the same one at every read.

With --depart the spaces are mirrors of two and of three copies, and a parity. Disks leave them,
come back and are replaced meanwhile, most kills fall while one is away, being brought up to date or
being emptied, and sometimes a disk is not there at the next start. At the end a scrub has to find
nothing, and without each disk everything has to be there.

The seed decides the work; where the kill lands in it is up to the machine.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import time

import nbd

from checker import SPAN_SECTORS, Client, Daemon, Violation
from departures import Troublemaker

# Less to check after each kill, since what a kill is about is more.
SECTORS_OF_DEPARTURES = SPAN_SECTORS // 3


def make_pool(daemon, scratch, spaces):
    disks = [os.path.join(scratch, f"disk{number}") for number in range(4)]
    makes = [["pool", "create", "crash", *disks, "--create-size", "2G"]]
    for name, resiliency in spaces.items():
        makes.append(["space", "create", name, "--size", "1G", "--resiliency", resiliency])
    for arguments in makes:
        done = daemon.control(*arguments)
        if done.returncode != 0:
            raise Violation(f"poolctl {' '.join(arguments)}: {done.stderr.strip()}")


def hide_a_disk(trouble, dice):
    """While nothing runs: of a pool that was whole one disk is not found. Returns its path."""
    path = dice.choice(trouble.disks_seen)["path"]
    # Beside the others it would be found under any name.
    folder = os.path.join(os.path.dirname(path), "hidden")
    os.makedirs(folder, exist_ok=True)
    os.rename(path, os.path.join(folder, os.path.basename(path)))
    return path


def show(path):
    os.rename(os.path.join(os.path.dirname(path), "hidden", os.path.basename(path)), path)


def run_round(daemon, clients, dice, trouble):
    busy_until = time.monotonic() + dice.uniform(0.05, 1.5)
    if trouble is not None:
        trouble.start()
        busy_until = time.monotonic() + 10
    while time.monotonic() < busy_until and (trouble is None or not trouble.now.is_set()):
        for client in clients:
            client.keep_busy()
    if trouble is not None:
        trouble.expect_end()
    daemon.kill()
    if trouble is not None:
        trouble.finish()
    for client in clients:
        client.drop_connections()
        client.model.keep_acknowledged()
    # A crash of the recovery itself, wherever it happens to be.
    while dice.random() < 0.4:
        daemon.start()
        time.sleep(dice.uniform(0, 0.3))
        daemon.kill()
    daemon.start()
    daemon.wait_until_ready()
    verify(clients)
    if trouble is None:
        return
    trouble.verify()
    if trouble.is_whole() and dice.random() < 0.5:
        start_without_a_disk(daemon, clients, dice, trouble)


def start_without_a_disk(daemon, clients, dice, trouble):
    daemon.kill()
    for client in clients:
        client.drop_connections()
    hidden = hide_a_disk(trouble, dice)
    daemon.start()
    daemon.wait_until_ready()
    verify(clients)
    # It comes back by itself, or when somebody says so, or there is another crash before.
    show(hidden)
    trouble.absences += 1


def verify(clients):
    for client in clients:
        try:
            client.verify()
        except (Violation, nbd.Error) as problem:
            raise Violation(f"{client.export}: {problem}") from problem


def main():
    # Ended by a signal, the daemon still is: sys.exit runs every `finally`.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", required=True, help="where poold and poolctl are")
    parser.add_argument("--scratch", required=True, help="an empty folder")
    parser.add_argument("--depart", action="store_true", help="disks leave and come back")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--minutes", type=float, help="instead of --rounds")
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
    print(f"crash loop: seed {seed}", flush=True)
    dice = random.Random(seed)
    deadline = None if options.minutes is None else time.monotonic() + options.minutes * 60
    daemon = Daemon(options.bin, options.scratch)
    trouble, sectors = None, SPAN_SECTORS
    spaces = {"crash/plain": "simple", "crash/mirror": "mirror2", "crash/parity": "parity1"}
    if options.depart:
        spaces = {"crash/two": "mirror2", "crash/three": "mirror3", "crash/parity": "parity1"}
        spare = os.path.join(options.scratch, "spare")
        with open(spare, "xb") as file:
            file.truncate(2 << 30)
        trouble = Troublemaker(daemon, "crash", [spare], random.Random(dice.random()))
        sectors = SECTORS_OF_DEPARTURES
    rounds = 0
    try:
        daemon.start()
        daemon.wait_until_ready()
        make_pool(daemon, options.scratch, spaces)
        clients = [
            Client(daemon, name, number, random.Random(dice.random()), sectors=sectors)
            for number, name in enumerate(spaces, start=1)
        ]
        for client in clients:
            client.connect()
        while time.monotonic() < deadline if deadline is not None else rounds < options.rounds:
            run_round(daemon, clients, dice, trouble)
            rounds += 1
        if trouble is not None:
            trouble.scrub()
            trouble.pull_each(clients, 1)
            trouble.scrub()
        daemon.stop()
    except (Violation, nbd.Error, subprocess.TimeoutExpired) as problem:
        print(f"FAILED in round {rounds + 1}, seed {seed}: {problem}", flush=True)
        print(f"the daemon's log: {daemon.log.name}", flush=True)
        return 1
    finally:
        if trouble is not None:
            trouble.expect_end()
        if daemon.process is not None and daemon.process.poll() is None:
            daemon.process.kill()
            daemon.process.wait()
        if trouble is not None:
            trouble.join()
    operations = sum(client.operations for client in clients)
    flushes = sum(client.flushes for client in clients)
    print(f"ok: {rounds} kills, {operations} writes and {flushes} flushes checked, seed {seed}")
    if trouble is not None:
        print(f"kills under load by phase: {trouble.crashes}, {trouble.commands} commands and "
              f"{trouble.refusals} refused, {trouble.absences} starts without a disk")
    return 0


if __name__ == "__main__":
    sys.exit(main())
