#!/usr/bin/python3
"""Cuts the power of a pool's disks under load, again and again, and checks what a FLUSH promised.

    power_cut.py --bin DIR --scratch DIR --plugin volatile_disk.so [--rounds N | --minutes M]
                 [--resiliency KIND] [--depart] [--state] [--seed N] [--lie N]

The disks are tools/powercut/volatile_disk.c in nbdkit, each mounted as a file by nbdfuse: what was
not flushed is in their memory, and a cut takes it away on all disks in one instant, but for a
random part. Each round writes stamped sectors over several connections (a flush on one covers the
others) and makes and destroys spaces, cuts the power in the middle, sometimes again while poold
recovers, and looks at everything. A sector may hold the version that was last made durable, or any
version written after it; nothing else, and the same one at every read. A command that poolctl said
was done is done. With --state the daemon's own folder, its witness in it, is on an ext4 on one more
disk of that kind (needs root). With --depart disks leave, come back and are replaced meanwhile, and
most cuts fall while one is away, being brought up to date, or being emptied; at the end a scrub has
to find nothing, and without each set of disks that may be lost everything has to be there.

With --lie N a FLUSH forgets one sector in N. Then the run has to fail: it exits 1.
The seed decides the work and the disks' luck; where a cut lands in it is up to the machine.
"""

import argparse
import contextlib
import fcntl
import os
import random
import signal
import subprocess
import sys
import time

import nbd

from checker import SPAN_SECTORS, Client, Daemon, Violation
from departures import Troublemaker
from meddling import Meddler, Refused
from mounts import Mount, MountError, unmount

LEAST_DISKS = {"simple": 1, "mirror2": 2, "mirror3": 3, "parity1": 3, "parity2": 4}
# Disks that may be lost.
TOLERANCE = {"simple": 0, "mirror2": 1, "mirror3": 2, "parity1": 1, "parity2": 2}
SPACES = 2
# Less to check after each cut, since what a cut is about is more.
SECTORS_OF_DEPARTURES = SPAN_SECTORS // 3
EXTRA_SPACES = 4


class Bench:
    """The disks and their switch: one nbdkit, and an nbdfuse for each disk."""

    def __init__(self, scratch, plugin, seed, lie, with_state, count):
        self.scratch = scratch
        self.count = count
        self.with_state = with_state
        self.socket = os.path.join(scratch, "disks.sock")
        self.plugin = [os.path.abspath(plugin), f"seed={seed}", f"lie={lie}"]
        self.processes = []
        self.mounts = []
        self.disks = []
        self.state = None
        self.switch = None
        self.log = open(os.path.join(scratch, "disks.log"), "ab")

    def start(self):
        names = [f"disk{number}" for number in range(self.count)]
        media = [os.path.join(self.scratch, name) for name in names]
        if self.with_state:
            media.append(os.path.join(self.scratch, "state"))
        for medium in media:
            with open(medium, "xb") as file:
                file.truncate(2 << 30)
        arguments = self.plugin + [f"disk={medium}" for medium in media]
        self.run(["nbdkit", "-f", "-t", "32", "-U", self.socket, *arguments], "nbdkit.pid")
        self.wait_for(self.socket)
        for name in names:
            mount = os.path.join(self.scratch, "mounted-" + name)
            os.mkdir(mount)
            self.mounts.append(mount)
            self.disks.append(os.path.join(mount, "disk"))
            uri = f"nbd+unix:///{name}?socket={self.socket}"
            self.run(["nbdfuse", self.disks[-1], uri], f"nbdfuse-{name}.pid")
        for disk in self.disks:
            self.wait_for(disk)
        self.switch = nbd.NBD()
        self.switch.set_export_name("switch")
        self.switch.connect_unix(self.socket)
        if self.with_state:
            uri = f"nbd+unix:///state?socket={self.socket}"
            folder = os.path.join(self.scratch, "poold")
            self.state = Mount(uri, self.scratch, folder, self.log)
            self.state.make()

    def run(self, command, record):
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log
        )
        self.processes.append(process)
        with open(os.path.join(self.scratch, record), "w", encoding="ascii") as file:
            file.write(str(process.pid))

    def wait_for(self, path):
        deadline = time.monotonic() + 30
        while not os.path.exists(path):
            if time.monotonic() > deadline or self.processes[-1].poll() is not None:
                raise MountError(f"{path} did not appear, see {self.log.name}")
            time.sleep(0.02)

    def turn(self, word):
        self.switch.pwrite(word.encode().ljust(512, b"\0"), 0)

    def report(self):
        """What the last cut did: sectors kept and lost, over all disks."""
        text = bytes(self.switch.pread(512, 0)).rstrip(b"\0").decode()
        rows = [line.split() for line in text.splitlines()]
        return sum(int(row[2]) for row in rows), sum(int(row[4]) for row in rows)

    def wait_until_unused(self):
        """Until the kernel has let go of the last request of the daemon that was killed."""
        deadline = time.monotonic() + 60
        for disk in self.disks:
            with open(disk, "rb", buffering=0) as file:
                while True:
                    try:
                        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        break
                    except BlockingIOError:
                        if time.monotonic() > deadline:
                            raise Violation(f"{disk} is still in use after 60 s") from None
                        time.sleep(0.01)

    def stop(self):
        """Takes everything down, in whatever state it is; a hung switch is released first."""
        for word in ("drain", "on"):
            try:
                if self.switch is not None:
                    self.turn(word)
            except nbd.Error:
                pass
        # What of it fails keeps the rest from nothing.
        with contextlib.ExitStack() as left:
            for process in self.processes:
                left.callback(end, process)
            for mount in self.mounts:
                left.callback(unmount, mount, with_fuse=True)
            if self.state is not None:
                left.callback(self.state.down, clean=False)
            # nbdkit waits for its connections to end.
            self.switch = None


def end(process):
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Administrator(Meddler):
    """Makes and destroys spaces, one command after the other, and knows which there have to be."""

    def __init__(self, daemon, resiliency, dice, may_be_refused):
        super().__init__(daemon)
        self.resiliency = resiliency
        self.dice = dice
        # Too few disks may be there for a new space.
        self.may_be_refused = may_be_refused
        self.exists = {f"cut/extra{number}": False for number in range(EXTRA_SPACES)}
        # The space of a command that has not answered: it may be there or not.
        self.undecided = None

    def meddle(self):
        """Until it is time to lose the power."""
        while not self.leaving.wait(self.dice.uniform(0, 0.05)):
            name = self.dice.choice(list(self.exists))
            verb = ["destroy", name, "--yes"]
            if not self.exists[name]:
                verb = ["create", name, "--size", "64M", "--resiliency", self.resiliency]
            self.undecided = name
            try:
                self.command("space", *verb)
                self.exists[name] = not self.exists[name]
            except Refused as refusal:
                if not self.may_be_refused:
                    raise Violation(str(refusal)) from refusal
            self.undecided = None

    def verify(self):
        found = {space["name"] for space in self.ask("space", "ls")["spaces"]}
        for name, wanted in self.exists.items():
            if name != self.undecided and (name in found) != wanted:
                raise Violation(f"{name} should {'' if wanted else 'not '}be there: {found}")
            self.exists[name] = name in found
        self.undecided = None


class Loop:
    """The daemon on those disks, and the clients that remember what it promised."""

    def __init__(self, options, dice, bench):
        self.dice = dice
        self.bench = bench
        self.daemon = Daemon(options.bin, options.scratch)
        self.clients = [
            Client(
                self.daemon, f"cut/space{number}", number + 1, random.Random(dice.random()),
                sectors=SECTORS_OF_DEPARTURES if options.depart else SPAN_SECTORS,
            )
            for number in range(SPACES)
        ]
        self.resiliency = options.resiliency
        self.tolerance = TOLERANCE[options.resiliency]
        self.is_departing = options.depart
        self.administrator = Administrator(
            self.daemon, options.resiliency, random.Random(dice.random()),
            may_be_refused=options.depart,
        )
        self.trouble = Troublemaker(self.daemon, "cut", [], random.Random(dice.random()))
        self.cuts = self.kept = self.lost = 0

    def prepare(self):
        self.daemon.start()
        self.daemon.wait_until_ready()
        members = self.bench.disks
        if self.is_departing:
            members, self.trouble.spares = members[:-1], set(members[-1:])
        self.must("pool", "create", "cut", *members)
        for client in self.clients:
            self.must(
                "space", "create", client.export, "--size", "1G", "--resiliency", self.resiliency
            )
            client.connect()

    def must(self, *arguments):
        done = self.daemon.control(*arguments)
        if done.returncode != 0:
            raise Violation(f"poolctl {' '.join(arguments)}: {done.stderr.strip()}")

    def lose_power(self):
        """The disks first: nothing the daemon does between that and its end reaches them."""
        self.administrator.expect_end()
        self.trouble.expect_end()
        self.bench.turn("cut")
        self.daemon.process.send_signal(signal.SIGKILL)
        self.bench.turn("drain")
        self.daemon.must_have_been_killed()
        self.administrator.finish()
        self.trouble.finish()
        self.bench.wait_until_unused()
        if self.bench.state is not None:
            self.bench.state.down(clean=False)
        self.bench.turn("on")
        if self.bench.state is not None:
            self.bench.state.up()
        kept, lost = self.bench.report()
        self.cuts += 1
        self.kept += kept
        self.lost += lost

    def round(self):
        self.administrator.start()
        busy_until = time.monotonic() + self.dice.uniform(0.05, 1.5)
        if self.is_departing:
            self.trouble.start()
            busy_until = time.monotonic() + 10
        while time.monotonic() < busy_until and not self.trouble.now.is_set():
            for client in self.clients:
                client.keep_busy()
        self.lose_power()
        for client in self.clients:
            client.drop_connections()
        while self.dice.random() < 0.4:
            self.daemon.start()
            time.sleep(self.dice.uniform(0, 0.4))
            self.lose_power()
        self.daemon.start()
        self.daemon.wait_until_ready()
        self.administrator.verify()
        if self.is_departing:
            self.trouble.verify()
        for client in self.clients:
            try:
                client.verify()
            except (Violation, nbd.Error) as problem:
                raise Violation(f"{client.export}: {problem}") from problem

    def finish(self):
        if self.is_departing:
            self.trouble.scrub()
            self.trouble.pull_each(self.clients, self.tolerance)
            self.trouble.scrub()
        self.daemon.stop()


def main():
    # Ended by a signal, everything that was started still is: sys.exit runs every `finally`.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", required=True, help="where poold and poolctl are")
    parser.add_argument("--scratch", required=True, help="an empty folder")
    parser.add_argument("--plugin", required=True, help="volatile_disk.so")
    parser.add_argument("--resiliency", default="mirror2", choices=list(TOLERANCE))
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--minutes", type=float, help="instead of --rounds")
    parser.add_argument("--depart", action="store_true", help="disks leave and come back")
    parser.add_argument("--state", action="store_true", help="poold's folder is cut as well")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--lie", type=int, default=0, help="FLUSH forgets one sector in N")
    options = parser.parse_args()
    if options.depart and TOLERANCE[options.resiliency] == 0:
        parser.error("--depart is for spaces that may lose a disk")
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
    print(f"power cuts: {options.resiliency}, seed {seed}", flush=True)
    dice = random.Random(seed)
    deadline = None if options.minutes is None else time.monotonic() + options.minutes * 60
    luck = dice.randrange(1 << 32)
    # One more than it takes, and one that is nobody's.
    least = LEAST_DISKS[options.resiliency]
    count = least + 2 if options.depart else max(3, least)
    bench = Bench(options.scratch, options.plugin, luck, options.lie, options.state, count)
    loop = Loop(options, dice, bench)
    rounds = 0
    try:
        bench.start()
        loop.prepare()
        while time.monotonic() < deadline if deadline is not None else rounds < options.rounds:
            loop.round()
            rounds += 1
        loop.finish()
    except MountError as problem:
        print(f"could not go on, seed {seed}: {problem}", flush=True)
        return 2
    except (Violation, nbd.Error, OSError, subprocess.SubprocessError) as problem:
        print(f"FAILED in round {rounds + 1}, seed {seed}: {problem}", flush=True)
        print(f"the daemon's log: {loop.daemon.log.name}", flush=True)
        return 1
    finally:
        if loop.daemon.process is not None and loop.daemon.process.poll() is None:
            loop.daemon.process.kill()
        loop.administrator.join()
        loop.trouble.join()
        try:
            bench.stop()
        finally:
            if loop.daemon.process is not None:
                loop.daemon.process.wait()
    operations = sum(client.operations for client in loop.clients)
    flushes = sum(client.flushes for client in loop.clients)
    print(
        f"ok: {rounds} rounds, {loop.cuts} cuts that lost {loop.lost} sectors and kept {loop.kept},"
        f" {operations} writes, {flushes} flushes and {loop.administrator.commands} commands"
        f" checked, seed {seed}"
    )
    if options.depart:
        print(f"cuts under load by phase: {loop.trouble.crashes}, {loop.trouble.commands} commands "
              f"and {loop.trouble.refusals} refused")
    return 0


if __name__ == "__main__":
    sys.exit(main())
