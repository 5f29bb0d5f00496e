"""Disks that are loop devices, and how fast they may be. Needs root.

Whatever ends a measurement, a signal in the middle of its preparation included, nothing is left:
what is to be taken away again is known before it is made.
"""

import contextlib
import os
import subprocess
import time

from measuring import BenchError, empty_file

BLKIO = "/sys/fs/cgroup/blkio"


class Loop:
    """A file as a block device, whose counters in /sys know every byte that reaches it."""

    def __init__(self, path):
        self.path = path
        self.device = None

    def attach(self):
        self.device = losetup("--find", "--show", "--direct-io=on", self.path).strip()

    def written_bytes(self):
        name = os.path.basename(self.device)
        with open(f"/sys/block/{name}/stat", encoding="ascii") as file:
            return int(file.read().split()[6]) * 512

    def detach(self):
        """Asks for what lies over the file: who was interrupted may not know the device."""
        listed = losetup("--noheadings", "--list", "--output", "NAME", "--associated", self.path)
        for device in listed.split():
            losetup("--detach", device)


def losetup(*arguments):
    done = subprocess.run(["losetup", *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        raise BenchError(f"losetup, which needs root: {done.stderr.strip()}")
    return done.stdout


@contextlib.contextmanager
def loop_disks(options, count, size_bytes):
    """`count` sparse files as loop devices, all of them gone afterwards."""
    paths = [os.path.join(options.disks, f"disk{number}") for number in range(count)]
    with contextlib.ExitStack() as left:
        loops = []
        for path in paths:
            loop = Loop(path)
            left.callback(remove, path)
            left.callback(loop.detach)
            empty_file(path, size_bytes)
            loop.attach()
            loops.append(loop)
        yield loops


def remove(path):
    with contextlib.suppress(FileNotFoundError):
        os.remove(path)


class Throttle:
    """A control group that this process, and whatever it starts, is in."""

    def __init__(self, options):
        # The name is known to whoever cleans up after a measurement that was killed.
        self.folder = os.path.join(BLKIO, os.path.basename(options.scratch))

    def begin(self):
        try:
            os.mkdir(self.folder)
            self.write("cgroup.procs", str(os.getpid()))
        except OSError as problem:
            raise BenchError(f"no block throttle here: {problem}") from problem

    def write(self, name, text):
        with open(os.path.join(self.folder, name), "w", encoding="ascii") as file:
            file.write(text)

    def limit(self, loop, what, value):
        """`what`: read_iops, write_bps ...; `value` 0: none."""
        number = os.stat(loop.device).st_rdev
        place = f"{os.major(number)}:{os.minor(number)}"
        self.write(f"blkio.throttle.{what}_device", f"{place} {value}")

    def end(self):
        """Its limits go with the group; nobody may be in it then."""
        deadline = time.monotonic() + 10
        while os.path.isdir(self.folder):
            try:
                self.empty()
                os.rmdir(self.folder)
            except OSError as problem:
                if time.monotonic() > deadline:
                    raise BenchError(f"{self.folder} stays: {problem}") from problem
                time.sleep(0.1)

    def empty(self):
        with open(os.path.join(self.folder, "cgroup.procs"), encoding="ascii") as file:
            members = file.read().split()
        for member in members:
            with contextlib.suppress(ProcessLookupError):
                with open(os.path.join(BLKIO, "cgroup.procs"), "w", encoding="ascii") as file:
                    file.write(member)


@contextlib.contextmanager
def throttle(options):
    made = Throttle(options)
    try:
        made.begin()
        yield made
    finally:
        made.end()
