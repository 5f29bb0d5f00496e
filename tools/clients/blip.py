"""A blip: a disk of a mirror is away for some seconds under random writes, and comes back.

What counts is how much has to be written to it then, against what was written while it was away.
The disk is a loop device, whose counters in /sys know every byte that reaches it. The load rests
from the moment the disk comes back, so whatever is written to it after that is its resync.
"""

import contextlib
import json
import random
import time

import nbd

from loops import loop_disks
from measuring import GIB, MIB, BenchError, Poold

BLOCK = 4096
SPACE_BYTES = 100 * GIB
DISK_BYTES = 110 * GIB
PATIENCE_SECONDS = 600


class Writes:
    """Random blocks at a rate, over one connection, each flush covering some hundred."""

    def __init__(self, socket, export):
        self.handle = nbd.NBD()
        self.handle.set_export_name(export)
        self.handle.connect_unix(socket)
        self.dice = random.Random(1)
        self.buffer = nbd.Buffer.from_bytearray(bytearray(self.dice.randbytes(BLOCK)))
        self.in_flight = set()
        self.count = 0

    def write_block(self, block):
        while len(self.in_flight) >= 64:
            self.take_completed(-1)
        self.in_flight.add(self.handle.aio_pwrite(self.buffer, block * BLOCK))
        self.count += 1

    def take_completed(self, milliseconds=0):
        self.handle.poll(milliseconds)
        while self.in_flight:
            cookie = self.handle.aio_peek_command_completed()
            if cookie <= 0:
                return
            self.handle.aio_command_completed(cookie)
            self.in_flight.discard(cookie)

    def drain(self):
        while self.in_flight:
            self.take_completed(-1)
        self.handle.flush()

    def run(self, seconds, rate):
        """Returns how many were written; a flush each second."""
        begun, before = time.monotonic(), self.count
        flushed_at = begun
        while time.monotonic() < begun + seconds:
            due = int((time.monotonic() - begun) * rate)
            while self.count - before < due:
                self.write_block(self.dice.randrange(SPACE_BYTES // BLOCK))
            self.take_completed(1)
            if time.monotonic() - flushed_at >= 1:
                self.in_flight.add(self.handle.aio_flush())
                flushed_at = time.monotonic()
        self.drain()
        return self.count - before


def blip(options):
    with contextlib.ExitStack() as left:
        loops = left.enter_context(loop_disks(options, 2, DISK_BYTES))
        poold = Poold(options, "blip")
        left.callback(poold.stop)
        poold.start()
        poold.control("pool", "create", "blip", *(loop.device for loop in loops))
        poold.control(
            "space", "create", "blip/space", "--size", "100G", "--resiliency", "mirror2")
        writes = Writes(poold.socket, "blip/space")
        # Mapped from end to end: its metadata is as large as it gets.
        for grain in range(SPACE_BYTES // MIB):
            writes.write_block(grain * (MIB // BLOCK) + grain % 256)
        writes.drain()
        writes.run(5, options.rate)
        poold.control("disk", "offline", "blip", "disk2")
        written = writes.run(options.away, options.rate) * BLOCK
        before, begun = loops[1].written_bytes(), time.monotonic()
        poold.control("disk", "online", "blip", "disk2")
        wait_until_healthy(poold)
        seconds = time.monotonic() - begun
        moved = loops[1].written_bytes() - before
        return {"away_seconds": options.away, "rate": options.rate, "written_bytes": written,
                "moved_bytes": moved, "ratio": moved / written, "resync_seconds": seconds}


def wait_until_healthy(poold):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        pool = json.loads(poold.control("pool", "status", "blip", "--json"))
        if pool["health"] == "healthy" and all(d["state"] == "online" for d in pool["disks"]):
            return
        time.sleep(0.1)
    raise BenchError(f"not healthy after {PATIENCE_SECONDS} s")


def print_blip(result):
    print(f"\na disk away for {result['away_seconds']} s under {result['rate']} random 4 KiB writes"
          " a second, mirror2, 100 GiB, thin\n")
    print(f"  written meanwhile          {result['written_bytes'] / MIB:8.1f} MiB")
    print(f"  written by its resync      {result['moved_bytes'] / MIB:8.1f} MiB")
    print(f"  ratio                      {result['ratio']:8.2f}  (less than 2 is the aim)")
    print(f"  healthy again after        {result['resync_seconds']:8.1f} s")
