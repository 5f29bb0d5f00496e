"""What the loops that break things share: a daemon to break, and clients that know what each
sector of a space may hold.

Each sector is stamped with its space, the version of the write and its own number. A model keeps,
for each sector, the version that has to survive and those written after it.
"""

import collections
import os
import signal
import struct
import subprocess
import time

import nbd

SECTOR = 512
SPAN_SECTORS = (48 << 20) // SECTOR
QUEUE_DEPTH = 24
HISTORY_WRITES = 20_000
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

    def control(self, *arguments, timeout=60):
        command = [os.path.join(self.bin, "poolctl"), *arguments, "--dir", self.directory]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout)

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
        self.must_have_been_killed()

    def must_have_been_killed(self):
        """Waits for its end, which nothing but the kill may have been."""
        status = self.process.wait()
        if status != -signal.SIGKILL:
            raise Violation(f"poold ended by itself with status {status}, before it was killed")

    def stop(self):
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise Violation("poold did not stop within 20 s of SIGTERM") from None
        if self.process.returncode != 0:
            raise Violation(f"poold, told to stop, ended with status {self.process.returncode}")


class Write:
    """One write, trim or zeroing in flight, or acknowledged and not yet known durable."""

    def __init__(self, version, first, count, durable_at_once, what="write"):
        self.version = version
        self.first = first
        self.count = count
        self.durable_at_once = durable_at_once
        self.what = what + (" with FUA" if durable_at_once else "")
        # Seconds, each of them on the same clock.
        self.issued_at = self.acknowledged_at = self.durable_at = None

    def __str__(self):
        moments = (("issued", self.issued_at), ("acknowledged", self.acknowledged_at),
                   ("durable", self.durable_at))
        said = ", ".join(f"{what} at {at:.3f}" for what, at in moments if at is not None)
        return f"{self.what} {self.version} of {self.first}+{self.count}: {said}"


class Model:
    """What each sector of one space may hold."""

    def __init__(self, sectors):
        self.durable = [ZEROES] * sectors
        # sector -> versions issued after the durable one, oldest first.
        self.later = {}
        # Acknowledged since the last flush that covered them.
        self.acknowledged = []
        self.busy = set()
        # For people, should something be wrong: the last of them.
        self.history = collections.deque(maxlen=HISTORY_WRITES)

    def issue(self, write):
        write.issued_at = time.monotonic()
        self.history.append(write)
        for sector in range(write.first, write.first + write.count):
            self.later.setdefault(sector, []).append(write)
            self.busy.add(sector)

    def acknowledge(self, write):
        write.acknowledged_at = time.monotonic()
        self.busy.difference_update(range(write.first, write.first + write.count))
        if write.durable_at_once:
            self.make_durable(write)
        else:
            self.acknowledged.append(write)

    def make_durable(self, write):
        write.durable_at = time.monotonic()
        for sector in range(write.first, write.first + write.count):
            after = self.later.get(sector, [])
            if write in after:
                del after[: after.index(write) + 1]
                self.durable[sector] = write.version
                if not after:
                    del self.later[sector]

    def current(self, sector):
        """What a read finds there while no write is on its way to it."""
        after = self.later.get(sector)
        return after[-1].version if after else self.durable[sector]

    def keep_acknowledged(self):
        """The process alone has ended."""
        for write in self.acknowledged:
            self.make_durable(write)
        self.acknowledged.clear()

    def settle(self, sector, found):
        """After a crash `found` was read: it has to be allowed, and is the value from now on."""
        allowed = [self.durable[sector]] + [w.version for w in self.later.get(sector, [])]
        if found not in allowed:
            raise Violation(
                f"sector {sector} holds version {found}, allowed are {allowed}"
                f"{self.past(sector)}"
            )
        self.durable[sector] = found

    def past(self, sector):
        """What was done to it lately, a line each."""
        done = [w for w in self.history if w.first <= sector < w.first + w.count]
        return "".join(f"\n    {write}" for write in done[-8:])

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
    """Keeps one space busy over two connections, and checks it after a crash.

    `read_share` of its requests are reads, each checked when it is answered.
    """

    def __init__(
        self, daemon, export, name_tag, dice, *, read_share=0.0, sectors=SPAN_SECTORS
    ):
        self.daemon = daemon
        self.export = export
        self.name_tag = name_tag
        self.dice = dice
        self.read_share = read_share
        self.sectors = sectors
        self.model = Model(sectors)
        self.version = 0
        self.operations = 0
        self.reads = 0
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
            self.take_completed(side, handle)

    def take_completed(self, side, handle):
        handle.poll(1)
        while self.in_flight[side]:
            cookie = handle.aio_peek_command_completed()
            if cookie <= 0:
                break
            handle.aio_command_completed(cookie)
            self.in_flight[side].pop(cookie)()

    def drain(self, seconds=60):
        """Until everything in flight is answered."""
        deadline = time.monotonic() + seconds
        while any(self.in_flight):
            for side, handle in enumerate(self.handles):
                self.take_completed(side, handle)
            if time.monotonic() > deadline:
                raise Violation(f"{sum(map(len, self.in_flight))} requests got no answer")

    def issue_one(self, side, handle):
        """Puts one request into flight; false when the place picked is busy."""
        if self.dice.random() < 0.04:
            covered = list(self.model.acknowledged)
            cookie = handle.aio_flush()
            self.in_flight[side][cookie] = lambda: self.flushed(covered)
            return True
        count = self.dice.choice((1, 3, 8, 8, 8, 16, 64, 256, 2048))
        # Half of the work goes to a tenth of the addresses, so that versions pile up there.
        span = self.sectors if self.dice.random() < 0.5 else self.sectors // 10
        first = self.dice.randrange(0, span - count)
        if self.dice.random() < 0.7 and count >= 8:
            first -= first % 8
        if any(s in self.model.busy for s in range(first, first + count)):
            return False
        if self.read_share > 0 and self.dice.random() < self.read_share:
            self.submit_read(side, handle, first, count)
        else:
            self.submit_write(side, handle, first, count)
        return True

    def submit_read(self, side, handle, first, count):
        # Until it is answered nothing is written there: what has to be found is known.
        sectors = range(first, first + count)
        self.model.busy.update(sectors)
        buffer = nbd.Buffer(count * SECTOR)
        cookie = handle.aio_pread(buffer, first * SECTOR)
        self.in_flight[side][cookie] = lambda: self.answered(sectors, buffer.to_bytearray())

    def answered(self, sectors, content):
        self.reads += 1
        self.model.busy.difference_update(sectors)
        for index, sector in enumerate(sectors):
            piece = bytes(content[index * SECTOR : (index + 1) * SECTOR])
            found = version_of(self.name_tag, sector, piece)
            if found != self.model.current(sector):
                current = self.model.current(sector)
                raise Violation(f"sector {sector} reads as version {found}, {current} is there")

    def submit_write(self, side, handle, first, count):
        kind = self.dice.random()
        flags = nbd.CMD_FLAG_FUA if self.dice.random() < 0.05 else 0
        self.version += 1
        version = self.version if kind < 0.85 else ZEROES
        what = "write" if kind < 0.85 else "trim" if kind < 0.93 else "zeroing"
        write = Write(version, first, count, flags != 0, what)
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

    def check_now(self):
        """Nothing has crashed: every sector holds just what was acknowledged last."""
        self.drain()
        self.model.keep_acknowledged()
        self.read_all()

    def verify(self):
        """Reads the whole span twice: every sector is allowed, and both reads agree."""
        self.connect()
        self.read_all()

    def read_all(self):
        piece = 1 << 20
        total = self.sectors * SECTOR
        for offset in range(0, total, piece):
            content = bytes(self.handles[0].pread(piece, offset))
            for at in range(0, piece, SECTOR):
                sector = (offset + at) // SECTOR
                found = version_of(self.name_tag, sector, content[at : at + SECTOR])
                self.model.settle(sector, found)
            if bytes(self.handles[1].pread(piece, offset)) != content:
                raise Violation(f"two reads of the MiB at {offset} differ")
        self.model.forget_unconfirmed()
