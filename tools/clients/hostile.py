#!/usr/bin/python3
"""Clients that mean harm, against a running poold: one function for each attack.

    hostile.py --list
    hostile.py --pid PID SOCKET EXPORT ATTACK...     # all of them: --all

The export has to be writable, at least 5 GiB and of no value. Where the daemon listens on 127.0.0.1
too, some of the attacks come from there. After each attack a client that was
there all the time and one that comes new write and read, the daemon has as many descriptors open
as before, and no more memory in use. Prints `ok ATTACK: FIGURES` or `FAILED ATTACK: WHY`; exits 1
when one failed. Needs nothing but Python.
"""

import argparse
import os
import random
import resource
import socket
import statistics
import struct
import sys
import time

MIB = 1 << 20
GIB = 1 << 30
HAVE_OPTION = b"IHAVEOPT"
READ, WRITE, DISCONNECT, FLUSH, TRIM, CACHE, ZEROES, STATUS = range(8)
# The bystanders' part of the export; attacks stay below it.
QUIET = 4 * GIB + 512 * MIB
# Nothing here decides by time; waits end in failure after this long.
PATIENCE = 20
# What a daemon at rest may differ by: pages of the engine's caches and of the allocator.
MEMORY_SLACK = 24 * MIB
ATTACKS = {}


def attack(function):
    ATTACKS[function.__name__] = function
    return function


class Failure(Exception):
    pass


def must(condition, what):
    if not condition:
        raise Failure(what)


# ---------------------------------------------------------------- the protocol, by hand


def option(number, data=b""):
    return HAVE_OPTION + struct.pack(">II", number, len(data)) + data


def information(name, kinds=()):
    return (
        struct.pack(">I", len(name)) + name + struct.pack(">H", len(kinds))
        + b"".join(struct.pack(">H", kind) for kind in kinds)
    )


def contexts(name, queries):
    return (
        struct.pack(">I", len(name)) + name + struct.pack(">I", len(queries))
        + b"".join(struct.pack(">I", len(query)) + query for query in queries)
    )


def request(kind, offset=0, length=0, *, flags=0, cookie=1, payload=b"", magic=0x25609513):
    return struct.pack(">IHHQQI", magic, flags, kind, cookie, offset, length) + payload


def receive(stream, count):
    received = bytearray()
    while len(received) < count:
        some = stream.recv(count - len(received))
        if not some:
            raise ConnectionError(f"closed after {len(received)} of {count} bytes")
        received += some
    return bytes(received)


class Client:
    """A proper client in the transmission phase, with simple replies."""

    def __init__(self, server, *, structured=False, tcp=False):
        self.stream = server.raw(tcp=tcp)
        receive(self.stream, 18)
        opening = struct.pack(">I", 3)
        if structured:
            opening += option(8) + option(10, contexts(server.name, [b"base:allocation"]))
        self.stream.sendall(opening + option(7, information(server.name)))
        while True:
            _, number, reply, length = struct.unpack(">QIII", receive(self.stream, 20))
            receive(self.stream, length)
            must(reply < 1 << 31, f"option {number} was refused: {reply:#x}")
            if (number, reply) == (7, 1):
                break

    def simple(self, length=0):
        magic, error, cookie = struct.unpack(">IIQ", receive(self.stream, 16))
        must(magic == 0x67446698, f"no simple reply: {magic:#x}")
        return error, receive(self.stream, length if error == 0 else 0)

    def chunk(self):
        """(done, type, payload) of a structured reply; a simple one looks like an error or none."""
        (magic,) = struct.unpack(">I", receive(self.stream, 4))
        if magic == 0x67446698:
            (error,) = struct.unpack(">IQ", receive(self.stream, 12))[:1]
            return True, 0x8001 if error else 0, struct.pack(">IH", error, 0)
        must(magic == 0x668E33EF, f"no reply: {magic:#x}")
        flags, kind, _, length = struct.unpack(">HHQI", receive(self.stream, 16))
        return bool(flags & 1), kind, receive(self.stream, length)

    def write(self, offset, data):
        self.stream.sendall(request(WRITE, offset, len(data), payload=data))
        error, _ = self.simple()
        must(error == 0, f"a write failed: {error}")

    def read(self, offset, length):
        self.stream.sendall(request(READ, offset, length))
        error, data = self.simple(length)
        must(error == 0, f"a read failed: {error}")
        return data

    def close(self):
        self.stream.close()


class Server:
    def __init__(self, path, export, pid):
        self.path = path
        self.name = export.encode()
        self.pid = pid
        self.tcp = self.listening_address()
        self.random = random.Random(1)

    def listening_address(self):
        """(host, port) of a listening TCP socket of the daemon on 127.0.0.1, or None."""
        inodes = set()
        for descriptor in os.listdir(f"/proc/{self.pid}/fd"):
            target = os.readlink(f"/proc/{self.pid}/fd/{descriptor}")
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
        with open(f"/proc/{self.pid}/net/tcp", encoding="ascii") as file:
            for line in list(file)[1:]:
                fields = line.split()
                host, port = fields[1].split(":")
                if fields[3] == "0A" and host == "0100007F" and fields[9] in inodes:
                    return "127.0.0.1", int(port, 16)
        return None

    def raw(self, *, tcp=False):
        if tcp and self.tcp:
            stream = socket.create_connection(self.tcp, timeout=PATIENCE)
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return stream
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # With Python's timeout, connect would not wait at all where the daemon's queue is full.
        patience = struct.pack("ll", int(PATIENCE), 0)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, patience)
        stream.connect(self.path)
        stream.settimeout(PATIENCE)
        return stream

    def verify(self, client):
        """Verified I/O: what is written now, and what was written before."""
        at = QUIET + self.random.randrange(64) * 8192
        data = self.random.randbytes(8192)
        client.write(at, data)
        must(client.read(at, 8192) == data, "the bystander reads what it wrote")

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def resident(self):
        with open(f"/proc/{self.pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * resource.getpagesize()

    def processor_seconds(self):
        with open(f"/proc/{self.pid}/stat", encoding="ascii") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def must_end(stream, what):
    """The server closes the connection, whatever it says before."""
    try:
        while stream.recv(1 << 16):
            pass
    except ConnectionError:
        pass
    except TimeoutError:
        raise Failure(f"{what}: neither answered nor closed") from None
    finally:
        stream.close()


def reset(stream):
    """Closes in such a way that the other side gets a reset, where the socket can do that."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.close()


def send_some(stream, data):
    """As much as the server takes; it may have hung up already."""
    try:
        stream.sendall(data)
    except (ConnectionError, TimeoutError):
        pass


# ---------------------------------------------------------------- handshakes


@attack
def idle_handshakes(server):
    """A thousand clients that say nothing, held open: a new one is served in half a second."""
    idle = [server.raw() for _ in range(1000)]
    times = []
    for _ in range(41):
        started = time.monotonic()
        client = Client(server)
        server.verify(client)
        times.append(time.monotonic() - started)
        client.close()
    for stream in idle:
        stream.close()
    middle = statistics.median(times)
    must(middle < 0.5, f"a new client waits {middle * 1000:.1f} ms")
    return f"a new client is served in {middle * 1000:.2f} ms, at worst {max(times) * 1000:.2f} ms"


@attack
def dripping_handshakes(server):
    """A byte every half second: the deadline counts from accept."""
    dripping = [server.raw() for _ in range(50)]
    talk = iter(struct.pack(">I", 3) + option(3) * 50)
    alive, started = list(dripping), time.monotonic()
    while alive:
        must(time.monotonic() - started < 10 + PATIENCE, f"{len(alive)} are still shaking hands")
        byte = bytes([next(talk)])
        for stream in list(alive):
            try:
                stream.sendall(byte)
                stream.settimeout(0)
                while stream.recv(4096):
                    pass
                alive.remove(stream)
            except BlockingIOError:
                stream.settimeout(PATIENCE)
            except ConnectionError:
                alive.remove(stream)
        time.sleep(0.5)
    seconds = time.monotonic() - started
    for stream in dripping:
        stream.close()
    must(seconds > 8, f"ended after {seconds:.1f} s, a slow client needs longer")
    return f"ended after {seconds:.1f} s"


@attack
def improper_handshakes(server):
    """Wrong magics, senseless lengths and floods of options."""
    flags = struct.pack(">I", 3)
    huge = struct.pack(">I", 0xFFFFFFFF)
    talks = [
        bytes(64), os.urandom(4096), huge, flags + b"IHAVENOT" + struct.pack(">II", 7, 0),
        flags + option(7, huge + b"\0\0"), flags + HAVE_OPTION + struct.pack(">I", 7) + huge,
        flags + HAVE_OPTION + struct.pack(">II", 1, 1 << 20) + bytes(1 << 20),
        flags + option(1), flags + option(1, b"no/such"), flags + option(1, bytes(5000)),
        flags + option(8) + option(10, contexts(server.name, [])[:-4] + huge),
        flags + option(8) + option(9, struct.pack(">II", 0, 0xFFFFFFFF) + bytes(8000)),
        flags + option(8) + option(10, contexts(server.name, [b"base:allocation"] * 400)),
        flags + option(3) * 5000, flags + option(99, bytes(60000)) * 100,
        flags + option(5) + option(11) + option(8) * 3000,
        flags + option(7, information(server.name, range(4000))),
    ]
    for tcp in (False, True):
        for number, talk in enumerate(talks):
            stream = server.raw(tcp=tcp)
            send_some(stream, talk)
            try:
                stream.shutdown(socket.SHUT_WR)
            except OSError:
                pass
            must_end(stream, f"talk {number}")
    return f"{len(talks)} kinds of talk"


@attack
def come_and_go(server):
    """Thousands of connections that are closed at once, and empty names with a close behind."""
    for index in range(3000):
        stream = server.raw(tcp=index % 3 == 0)
        if index % 2:
            stream.sendall(struct.pack(">I", 3) + option(1))
        if index % 5 == 0:
            reset(stream)
        else:
            stream.close()
    for _ in range(300):
        Client(server).close()
    return "3300 connections"


@attack
def out_of_descriptors(server):
    """No descriptor is left for a new client: the others go on, and waiting costs no processor."""
    before = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
    waiting = []
    client = Client(server)
    # It has come to the shard of its space, and has all the descriptors it is going to have.
    server.verify(client)
    try:
        limit = server.descriptors() + 2
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (limit, before[1]))
        waiting = [server.raw() for _ in range(20)]
        time.sleep(0.3)
        spent = server.processor_seconds()
        time.sleep(1)
        spent = server.processor_seconds() - spent
        server.verify(client)
    finally:
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, before)
    must(spent < 0.5, f"{spent:.2f} s of processor time in a second of waiting")
    for stream in waiting:
        stream.close()
    client.close()
    return f"{spent * 1000:.0f} ms of processor time in a second"


# ---------------------------------------------------------------- requests


@attack
def flags_and_commands(server):
    """Every flag bit on every command, and commands that do not exist."""
    client = Client(server, structured=True)
    allowed = {READ: 1 | 4, ZEROES: 1 | 2 | 16, STATUS: 1 | 8}
    count = 0
    for kind in [*range(20), 255, 256, 0x7FFF, 0xFFFF]:
        if kind == DISCONNECT:
            continue
        for bit in range(16):
            length = 0 if kind == FLUSH else 512
            payload = bytes(512) if kind == WRITE else b""
            client.stream.sendall(request(kind, 0, length, flags=1 << bit, payload=payload))
            done, found = False, 0
            while not done:
                done, reply, data = client.chunk()
                if reply & 0x8000:
                    (found,) = struct.unpack(">I", data[:4])
            taken = kind <= STATUS and (1 << bit) & allowed.get(kind, 1)
            must(found == (0 if taken else 22), f"command {kind} with bit {bit}: {found}")
            count += 1
    client.close()
    return f"{count} requests"


@attack
def ranges(server):
    """Offsets and lengths that overflow, lie outside, or are not whole sectors."""
    client = Client(server, structured=True)
    top = 1 << 64
    count = 0
    for kind in (READ, TRIM, CACHE, ZEROES, STATUS):
        for offset in (top - 512, top - 4096, top // 2, top // 2 - 512, 1 << 62, 1 << 40, 7, 100):
            for length in (512, 1024, 0xFFFFFE00, 0xFFFFFFFF, 1):
                client.stream.sendall(request(kind, offset, length))
                done, reply, data = client.chunk()
                must(done and reply == 0x8001, f"command {kind} at {offset:#x} was taken")
                must(struct.unpack(">I", data[:4])[0] in (22, 28, 75), "the error")
                count += 1
    client.close()
    return f"{count} requests"


@attack
def payloads(server):
    """WRITEs that are too long: drained and refused, or the end of the connection."""
    client = Client(server)
    for length in (32 * MIB + 512, 33 * MIB, 8193):
        client.stream.sendall(request(WRITE, 0, length))
        client.stream.sendall(bytes(length))
        must(client.simple()[0] == 22, f"a WRITE of {length} bytes is refused")
    server.verify(client)
    client.stream.sendall(request(WRITE, 0, 0xFFFFFE00))
    must_end(client.stream, "a WRITE of 4 GiB")
    # Half of a payload, held back: no other client's memory.
    halves = [Client(server) for _ in range(24)]
    for half in halves:
        half.stream.sendall(request(WRITE, 0, 32 * MIB) + bytes(MIB + 100))
    server.verify(server.bystander)
    for half in halves:
        half.close()
    return ""


@attack
def wrong_magic(server):
    """Garbage between requests ends that connection, and none of its writes goes astray."""
    for position in range(4):
        client = Client(server)
        talk = b"".join(request(FLUSH) for _ in range(position)) + os.urandom(4096)
        client.stream.sendall(talk)
        must_end(client.stream, "garbage")
    for tcp in (False, True):
        client = Client(server, tcp=tcp)
        client.stream.sendall(request(FLUSH, magic=0x25609512) + request(FLUSH))
        must_end(client.stream, "a wrong magic")
    return ""


@attack
def break_off(server):
    """A session broken off behind each of its bytes: end of stream, close, reset."""
    session = struct.pack(">I", 3) + option(8)
    session += option(10, contexts(server.name, [b"base:allocation"]))
    session += option(7, information(server.name, [3]))
    session += request(WRITE, MIB - 512, 1024, flags=1, payload=bytes(range(256)) * 4)
    session += request(READ, 0, 2 * MIB) + request(STATUS, 0, GIB) + request(TRIM, 0, 8 * MIB)
    session += request(ZEROES, 512, 3 * MIB) + request(CACHE, 0, GIB) + request(FLUSH)
    session += request(DISCONNECT)
    for cut in range(len(session) + 1):
        for way in range(3):
            stream = server.raw(tcp=way == 2)
            send_some(stream, session[:cut])
            if way == 2:
                reset(stream)
            else:
                if way == 0:
                    stream.shutdown(socket.SHUT_WR)
                stream.close()
    return f"{3 * (len(session) + 1)} sessions"


@attack
def half_open(server):
    """A client that says it will send no more still gets its answers."""
    for tcp in (False, True):
        client = Client(server, tcp=tcp)
        client.stream.sendall(request(READ, 0, 4 * MIB) + request(FLUSH, cookie=2))
        client.stream.shutdown(socket.SHUT_WR)
        got = 0
        while some := client.stream.recv(1 << 16):
            got += len(some)
        must(got == 4 * MIB + 32, f"{got} bytes of answers")
        client.close()
    return ""


# ---------------------------------------------------------------- greed


@attack
def unread_replies(server):
    """Reads whose replies nobody takes, then a close; and held, while others go on."""
    for tcp in (False, True):
        for structured in (False, True):
            client = Client(server, structured=structured, tcp=tcp)
            client.stream.sendall(b"".join(request(READ, 0, 32 * MIB) for _ in range(8)))
            client.close()
    deaf = [Client(server) for _ in range(32)]
    for client in deaf:
        client.stream.sendall(b"".join(request(READ, 0, 32 * MIB) for _ in range(64)))
    times = []
    for _ in range(40):
        started = time.monotonic()
        server.verify(server.bystander)
        times.append(time.monotonic() - started)
    fresh = Client(server)
    server.verify(fresh)
    fresh.close()
    for client in deaf:
        client.close()
    return f"the bystander's write and read take {statistics.median(times) * 1000:.2f} ms beside it"


@attack
def endless_ranges(server):
    """Four gibibytes of TRIM, CACHE, WRITE_ZEROES and BLOCK_STATUS, hundreds at a time."""
    greedy = [Client(server, structured=True) for _ in range(4)]
    length = (1 << 32) - 512
    for client, kind in zip(greedy, (TRIM, CACHE, ZEROES, STATUS)):
        client.stream.sendall(b"".join(request(kind, 0, length) for _ in range(200)))
    times = []
    for _ in range(40):
        started = time.monotonic()
        server.verify(server.bystander)
        times.append(time.monotonic() - started)
    middle = statistics.median(times)
    must(middle < 0.5, f"the bystander waits {middle * 1000:.1f} ms")
    for client in greedy:
        client.close()
    return f"the bystander's write and read take {middle * 1000:.2f} ms beside it"


@attack
def never_reading(server):
    """Who takes nothing of its replies is let go in the end, though nobody waits for its memory."""
    started = server.deaf_since
    server.deaf.stream.settimeout(1)
    while True:
        # The replies stay unread: the server's end is told by an error only, asked for by sending.
        try:
            server.deaf.stream.send(b"\0", socket.MSG_DONTWAIT)
        except BlockingIOError:
            pass
        except ConnectionError:
            break
        waited = time.monotonic() - started
        must(waited < 30 + PATIENCE + 10, f"still there after {waited:.0f} s")
        time.sleep(0.1)
    seconds = time.monotonic() - started
    # Sooner than 30 s where others had to wait for what it held.
    must(seconds > 9, f"let go after {seconds:.1f} s only")
    server.deaf.close()
    server.deaf = None
    return f"let go after {seconds:.1f} s"


# ---------------------------------------------------------------- running them


def warm_up(server):
    """Touches what any client's work makes the daemon keep, so that later figures compare."""
    for structured in (False, True):
        client = Client(server, structured=structured)
        for _ in range(2):
            client.stream.sendall(request(WRITE, 0, 32 * MIB, payload=bytes(32 * MIB)))
            must(client.chunk()[1] == 0 if structured else client.simple()[0] == 0, "a write")
        client.close()
    for _ in range(4):
        clients = [Client(server) for _ in range(8)]
        for client in clients:
            client.stream.sendall(b"".join(request(READ, 0, 16 * MIB) for _ in range(8)))
        server.verify(server.bystander)
        for client in clients:
            client.close()


def settle(server, descriptors):
    """Waits until the daemon has closed what the attack left."""
    deadline = time.monotonic() + PATIENCE
    while server.descriptors() > descriptors + (server.deaf is not None):
        must(
            time.monotonic() < deadline,
            f"{server.descriptors()} descriptors are open, {descriptors} before",
        )
        time.sleep(0.02)


def run(server, names):
    server.bystander = Client(server)
    server.deaf = None
    server.verify(server.bystander)
    warm_up(server)
    time.sleep(0.2)
    descriptors, resident = server.descriptors(), server.resident()
    if "never_reading" in names:
        server.deaf = Client(server)
        server.deaf.stream.sendall(b"".join(request(READ, 0, 32 * MIB) for _ in range(8)))
        server.deaf_since = time.monotonic()
    failed = 0
    for name in names:
        try:
            figures = ATTACKS[name](server)
            server.verify(server.bystander)
            fresh = Client(server)
            server.verify(fresh)
            fresh.close()
            settle(server, descriptors)
            grown = server.resident() - resident
            must(grown < MEMORY_SLACK, f"{grown // MIB} MiB more memory than before")
            print(f"ok {name}: {figures or 'done'}; {grown >> 10:+d} KiB", flush=True)
        except (Failure, OSError, struct.error) as problem:
            failed += 1
            print(f"FAILED {name}: {type(problem).__name__} {problem}", flush=True)
    return 1 if failed else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true", help="print the attacks' names")
    parser.add_argument("--all", action="store_true", help="run every attack")
    parser.add_argument("--pid", type=int, help="the daemon's process")
    parser.add_argument("socket", nargs="?")
    parser.add_argument("export", nargs="?")
    parser.add_argument("attacks", nargs="*")
    options = parser.parse_args()
    if options.list:
        print("\n".join(ATTACKS))
        return 0
    names = list(ATTACKS) if options.all else options.attacks
    unknown = [name for name in names if name not in ATTACKS]
    if not names or unknown or options.export is None or options.pid is None:
        parser.print_usage(sys.stderr)
        return 64
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
    return run(Server(options.socket, options.export, options.pid), names)


if __name__ == "__main__":
    sys.exit(main())
