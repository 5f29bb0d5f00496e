#!/usr/bin/python3
"""Kills a poold under load, again and again, and checks what a FLUSH promised.

    crash_loop.py --bin DIR --scratch DIR [--rounds N | --minutes M] [--seed N]

Each round writes stamped sectors to a simple and a mirrored space, each over two connections
(a flush on one covers the other), kills the daemon with SIGKILL in the middle, sometimes again
while it recovers, and reads everything back. A sector may hold the version that was last made
durable, or any version written after it; nothing else, and the same one at every read.

The seed decides the work; where the kill lands in it is up to the machine.
"""

import argparse
import os
import random
import signal
import struct
import subprocess
import sys
import time

import nbd

SECTOR = 512
SPAN_SECTORS = (48 << 20) // SECTOR
QUEUE_DEPTH = 24
ZEROES = 0


class Violation(Exception):
    pass


class Daemon:
    def __init__(self, bin_folder, scratch):
        self.bin = bin_folder
        self.directory = os.path.join(scratch, "poold")
        self.log = open(os.path.join(scratch, "poold.log"), "ab")
        self.process = None

    @property
    def socket(self):
        return os.path.join(self.directory, "nbd.sock")

    def control(self, *arguments):
        command = [os.path.join(self.bin, "poolctl"), *arguments, "--dir", self.directory]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    def start(self):
        command = [os.path.join(self.bin, "poold"), "--dir", self.directory]
        self.process = subprocess.Popen(command, stderr=self.log, stdin=subprocess.DEVNULL)
        # Should this script be killed itself, whoever cleans the scratch folder finds the id here.
        with open(self.directory + ".pid", "w", encoding="ascii") as file:
            file.write(str(self.process.pid))

    def wait_until_ready(self):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise Violation(f"poold ended by itself with status {self.process.returncode}")
            if self.control("pool", "ls").returncode == 0:
                return
            time.sleep(0.02)
        raise Violation("poold did not answer within 60 s")

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise Violation("poold did not stop within 20 s of SIGTERM")


class Write:
    """One write, trim or zeroing in flight, or acknowledged and not yet known durable."""

    def __init__(self, version, first, count, durable_at_once):
        self.version = version
        self.first = first
        self.count = count
        self.durable_at_once = durable_at_once


class Model:
    """What each sector of one space may hold."""

    def __init__(self):
        self.durable = [ZEROES] * SPAN_SECTORS
        # sector -> versions issued after the durable one, oldest first.
        self.later = {}
        # Acknowledged since the last flush that covered them.
        self.acknowledged = []
        self.busy = set()

    def issue(self, write):
        for sector in range(write.first, write.first + write.count):
            self.later.setdefault(sector, []).append(write)
            self.busy.add(sector)

    def acknowledge(self, write):
        self.busy.difference_update(range(write.first, write.first + write.count))
        if write.durable_at_once:
            self.make_durable(write)
        else:
            self.acknowledged.append(write)

    def make_durable(self, write):
        for sector in range(write.first, write.first + write.count):
            after = self.later.get(sector, [])
            if write in after:
                del after[: after.index(write) + 1]
                self.durable[sector] = write.version
                if not after:
                    del self.later[sector]

    def settle(self, sector, found):
        """After a crash `found` was read: it has to be allowed, and is the value from now on."""
        allowed = [self.durable[sector]] + [w.version for w in self.later.get(sector, [])]
        if found not in allowed:
            raise Violation(f"sector {sector} holds version {found}, allowed are {allowed}")
        self.durable[sector] = found

    def forget_unconfirmed(self):
        self.later.clear()
        self.acknowledged.clear()
        self.busy.clear()


def stamp(name_tag, version, first, count):
    """`count` sectors, each filled with whose, which and where it is."""
    return b"".join(
        struct.pack("<IIQ", name_tag, version, sector) * 32
        for sector in range(first, first + count)
    )


def version_of(name_tag, sector, content):
    if content == bytes(SECTOR):
        return ZEROES
    tag, version, where = struct.unpack_from("<IIQ", content)
    if content != struct.pack("<IIQ", tag, version, where) * 32:
        raise Violation(f"sector {sector} is torn or garbage: {content[:32].hex()}...")
    if tag != name_tag or where != sector:
        raise Violation(f"sector {sector} holds sector {where} of space {tag}")
    return version


class Client:
    """Keeps one space busy over two connections, and checks it after a crash."""

    def __init__(self, daemon, export, name_tag, dice):
        self.daemon = daemon
        self.export = export
        self.name_tag = name_tag
        self.dice = dice
        self.model = Model()
        self.version = 0
        self.operations = 0
        self.flushes = 0
        self.handles = []
        self.in_flight = []

    def connect(self):
        self.handles = []
        self.in_flight = [{}, {}]
        for _ in range(2):
            handle = nbd.NBD()
            handle.set_export_name(self.export)
            handle.connect_unix(self.daemon.socket)
            self.handles.append(handle)

    def keep_busy(self):
        """Fills the queues, then takes what has completed. Returns without waiting."""
        for side, handle in enumerate(self.handles):
            while len(self.in_flight[side]) < QUEUE_DEPTH:
                if not self.issue_one(side, handle):
                    break
            handle.poll(1)
            while self.in_flight[side]:
                cookie = handle.aio_peek_command_completed()
                if cookie <= 0:
                    break
                handle.aio_command_completed(cookie)
                self.in_flight[side].pop(cookie)()

    def issue_one(self, side, handle):
        """Puts one request into flight; false when the place picked is busy."""
        if self.dice.random() < 0.04:
            covered = list(self.model.acknowledged)
            cookie = handle.aio_flush()
            self.in_flight[side][cookie] = lambda: self.flushed(covered)
            return True
        count = self.dice.choice((1, 3, 8, 8, 8, 16, 64, 256, 2048))
        # Half of the work goes to a tenth of the addresses, so that versions pile up there.
        span = SPAN_SECTORS if self.dice.random() < 0.5 else SPAN_SECTORS // 10
        first = self.dice.randrange(0, span - count)
        if self.dice.random() < 0.7 and count >= 8:
            first -= first % 8
        if any(s in self.model.busy for s in range(first, first + count)):
            return False
        self.submit_write(side, handle, first, count)
        return True

    def submit_write(self, side, handle, first, count):
        kind = self.dice.random()
        flags = nbd.CMD_FLAG_FUA if self.dice.random() < 0.05 else 0
        self.version += 1
        version = self.version if kind < 0.85 else ZEROES
        write = Write(version, first, count, flags != 0)
        self.model.issue(write)
        buffer = None
        if kind < 0.85:
            data = bytearray(stamp(self.name_tag, version, first, count))
            buffer = nbd.Buffer.from_bytearray(data)
            cookie = handle.aio_pwrite(buffer, first * SECTOR, flags=flags)
        elif kind < 0.93:
            cookie = handle.aio_trim(count * SECTOR, first * SECTOR, flags=flags)
        else:
            cookie = handle.aio_zero(count * SECTOR, first * SECTOR, flags=flags)
        # The buffer is held until its request is done.
        self.in_flight[side][cookie] = lambda held=buffer: self.acknowledged(write)

    def acknowledged(self, write):
        self.operations += 1
        self.model.acknowledge(write)

    def flushed(self, covered):
        self.flushes += 1
        for write in covered:
            self.model.make_durable(write)
        done = set(map(id, covered))
        self.model.acknowledged = [w for w in self.model.acknowledged if id(w) not in done]

    def drop_connections(self):
        self.handles = []
        self.in_flight = [{}, {}]

    def verify(self):
        """Reads the whole span twice: every sector is allowed, and both reads agree."""
        self.connect()
        piece = 1 << 20
        total = SPAN_SECTORS * SECTOR
        for offset in range(0, total, piece):
            content = bytes(self.handles[0].pread(piece, offset))
            for at in range(0, piece, SECTOR):
                sector = (offset + at) // SECTOR
                found = version_of(self.name_tag, sector, content[at : at + SECTOR])
                self.model.settle(sector, found)
            if bytes(self.handles[1].pread(piece, offset)) != content:
                raise Violation(f"two reads of the MiB at {offset} differ")
        self.model.forget_unconfirmed()


def make_pool(daemon, scratch):
    disks = [os.path.join(scratch, f"disk{number}") for number in range(4)]
    for arguments in (
        ["pool", "create", "crash", *disks, "--create-size", "2G"],
        ["space", "create", "crash/plain", "--size", "1G", "--resiliency", "simple"],
        ["space", "create", "crash/mirror", "--size", "1G", "--resiliency", "mirror2"],
    ):
        done = daemon.control(*arguments)
        if done.returncode != 0:
            raise Violation(f"poolctl {' '.join(arguments)}: {done.stderr.strip()}")


def run_round(daemon, clients, dice):
    busy_until = time.monotonic() + dice.uniform(0.05, 1.5)
    while time.monotonic() < busy_until:
        for client in clients:
            client.keep_busy()
    daemon.kill()
    for client in clients:
        client.drop_connections()
    # A crash of the recovery itself, wherever it happens to be.
    while dice.random() < 0.4:
        daemon.start()
        time.sleep(dice.uniform(0, 0.3))
        daemon.kill()
    daemon.start()
    daemon.wait_until_ready()
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
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--minutes", type=float, help="instead of --rounds")
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
    print(f"crash loop: seed {seed}", flush=True)
    dice = random.Random(seed)
    deadline = None if options.minutes is None else time.monotonic() + options.minutes * 60
    daemon = Daemon(options.bin, options.scratch)
    rounds = 0
    try:
        daemon.start()
        daemon.wait_until_ready()
        make_pool(daemon, options.scratch)
        clients = [
            Client(daemon, "crash/plain", 1, random.Random(dice.random())),
            Client(daemon, "crash/mirror", 2, random.Random(dice.random())),
        ]
        for client in clients:
            client.connect()
        while time.monotonic() < deadline if deadline is not None else rounds < options.rounds:
            run_round(daemon, clients, dice)
            rounds += 1
        daemon.stop()
    except (Violation, nbd.Error, subprocess.TimeoutExpired) as problem:
        print(f"FAILED in round {rounds + 1}, seed {seed}: {problem}", flush=True)
        print(f"the daemon's log: {daemon.log.name}", flush=True)
        return 1
    finally:
        if daemon.process is not None and daemon.process.poll() is None:
            daemon.process.kill()
            daemon.process.wait()
    operations = sum(client.operations for client in clients)
    flushes = sum(client.flushes for client in clients)
    print(f"ok: {rounds} kills, {operations} writes and {flushes} flushes checked, seed {seed}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
