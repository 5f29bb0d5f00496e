#!/usr/bin/python3
"""The NBD face, checked from outside with libnbd: one function for each promise.

    nbd_contract.py --list
    nbd_contract.py SOCKET EXPORT CHECK...       # all of them: --all

The export has to be writable, larger than 4 GiB and of no value: checks write to it. Prints
`ok CHECK` or `FAILED CHECK: WHY`; exits 1 when one failed. The server must be alive afterwards:
every check that sends something improper ends by using a second, proper connection.
"""

import argparse
import errno
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import traceback

import nbd

MIB = 1 << 20
ALLOCATION = nbd.CONTEXT_BASE_ALLOCATION
HOLE_AND_ZERO = nbd.STATE_HOLE | nbd.STATE_ZERO
CHECKS = {}


def check(function):
    CHECKS[function.__name__] = function
    return function


class Server:
    """Where the server listens, and which of its exports the checks may spoil."""

    def __init__(self, path, export):
        self.path = path
        self.export = export

    def connect(self, *, structured=True, strict=True, contexts=(ALLOCATION,)):
        handle = nbd.NBD()
        handle.set_export_name(self.export)
        handle.set_request_structured_replies(structured)
        if structured:
            for context in contexts:
                handle.add_meta_context(context)
        if not strict:
            # Lets requests out that libnbd itself would refuse: the server has to.
            handle.set_strict_mode(0)
        handle.connect_unix(self.path)
        return handle

    def negotiate(self, export):
        handle = nbd.NBD()
        handle.set_export_name(export)
        handle.set_opt_mode(True)
        handle.connect_unix(self.path)
        return handle

    def raw(self):
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        stream.settimeout(10)
        stream.connect(self.path)
        return stream

    def uri(self):
        return f"nbd+unix:///{self.export}?socket={self.path}"

    def must_be_alive(self):
        handle = self.connect()
        must_equal(len(handle.pread(4096, 0)), 4096, "a proper connection reads")
        handle.shutdown()


class Failure(Exception):
    pass


def must(condition, what):
    if not condition:
        raise Failure(what)


def must_equal(found, wanted, what):
    if found != wanted:
        if isinstance(found, (bytes, bytearray)):
            at = next((i for i, (a, b) in enumerate(zip(found, wanted)) if a != b), -1)
            raise Failure(f"{what}: differs at byte {at} of {len(wanted)}")
        raise Failure(f"{what}: {found!r}, not {wanted!r}")


def must_refuse(numbers, what, request):
    """`request` fails with one of `numbers`."""
    try:
        request()
    except nbd.Error as problem:
        must(
            problem.errnum in numbers,
            f"{what}: {problem.errno or problem.string}, not "
            + " or ".join(errno.errorcode[number] for number in numbers),
        )
        return
    raise Failure(f"{what}: was accepted")


def pattern(length, seed):
    """Bytes that differ from sector to sector and from seed to seed."""
    sectors = (length + 511) // 512
    return b"".join(struct.pack("<QQ", seed, s) * 32 for s in range(sectors))[:length]


def receive(stream, count):
    received = b""
    while len(received) < count:
        some = stream.recv(count - len(received))
        must(some, f"the server closed after {len(received)} of {count} bytes")
        received += some
    return received


# ---------------------------------------------------------------- what is advertised


@check
def advertised(server):
    handle = server.connect()
    must(handle.get_size() % MIB == 0, "the size is a multiple of 1 MiB")
    must_equal(handle.get_block_size(nbd.SIZE_MINIMUM), 512, "minimum block size")
    must_equal(handle.get_block_size(nbd.SIZE_PREFERRED), 4096, "preferred block size")
    must_equal(handle.get_block_size(nbd.SIZE_MAXIMUM), 32 * MIB, "maximum block size")
    must(not handle.is_read_only(), "writable")
    for name in ("flush", "fua", "trim", "zero", "fast_zero", "cache", "df", "multi_conn"):
        must(getattr(handle, f"can_{name}")(), f"can_{name}")
    must(handle.get_structured_replies_negotiated(), "structured replies")
    must(handle.can_meta_context(ALLOCATION), ALLOCATION)
    handle.shutdown()


@check
def listed(server):
    handle = server.negotiate(server.export)
    names = []
    handle.opt_list(lambda name, description: names.append(name))
    must(server.export in names, f"{server.export} is not among {names}")
    handle.opt_abort()


@check
def unknown_export(server):
    """An unknown name is refused, and the negotiation goes on."""
    for name in ("no/such", "", server.export + "x", server.export.split("/")[0]):
        handle = server.negotiate(name)
        must_refuse([errno.ENOENT, errno.EINVAL], f"export {name!r}", handle.opt_go)
        handle.set_export_name(server.export)
        handle.opt_info()
        handle.opt_go()
        must(handle.get_size() > 0, "the right name is taken after a wrong one")
        handle.shutdown()


@check
def export_name_option(server):
    """The oldest way in: NBD_OPT_EXPORT_NAME, no structured replies."""
    stream = server.raw()
    must_equal(receive(stream, 16), b"NBDMAGICIHAVEOPT", "the greeting")
    (flags,) = struct.unpack(">H", receive(stream, 2))
    must(flags & 1, "fixed newstyle")
    name = server.export.encode()
    stream.sendall(struct.pack(">I", 1))
    stream.sendall(b"IHAVEOPT" + struct.pack(">II", 1, len(name)) + name)
    size, transmission = struct.unpack(">QH", receive(stream, 10))
    # This client did not ask for NO_ZEROES, so they come.
    must_equal(receive(stream, 124), bytes(124), "the reserved bytes")
    handle = server.connect()
    must_equal(size, handle.get_size(), "the size")
    must(transmission & 1, "transmission flags are there")
    handle.shutdown()
    # READ of 512 bytes at 0, answered simply.
    stream.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 0, 77, 0, 512))
    magic, error, cookie = struct.unpack(">IIQ", receive(stream, 16))
    must_equal((magic, error, cookie), (0x67446698, 0, 77), "the simple reply")
    receive(stream, 512)
    stream.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 2, 78, 0, 0))
    must_equal(stream.recv(1), b"", "closed after DISC")


@check
def unknown_option(server):
    stream = server.raw()
    receive(stream, 18)
    stream.sendall(struct.pack(">I", 3))
    stream.sendall(b"IHAVEOPT" + struct.pack(">II", 0x7FFF, 5) + b"hello")
    magic, option, reply, length = struct.unpack(">QIII", receive(stream, 20))
    receive(stream, length)
    must_equal((magic, option), (0x3E889045565A9, 0x7FFF), "the option reply")
    must_equal(reply, 0x80000001, "ERR_UNSUP")
    stream.sendall(b"IHAVEOPT" + struct.pack(">II", 2, 0))
    magic, option, reply, length = struct.unpack(">QIII", receive(stream, 20))
    must_equal((option, reply), (2, 1), "ABORT is acknowledged")


# ---------------------------------------------------------------- reading and writing


@check
def round_trip(server):
    """Every alignment and size a client may use, in one connection."""
    handle = server.connect()
    cases = [(0, 512), (512, 512), (7 * 512, 1024), (4096, 4096), (MIB - 512, 1024)]
    cases += [(3 * MIB + 512, MIB), (8 * MIB - 4096, 3 * MIB), (16 * MIB, 32 * MIB)]
    cases += [(handle.get_size() - 512, 512)]
    for seed, (offset, length) in enumerate(cases, start=1):
        data = pattern(length, seed)
        handle.pwrite(data, offset)
        must_equal(handle.pread(length, offset), data, f"{length} bytes at {offset}")
    handle.shutdown()


@check
def neighbours_untouched(server):
    handle = server.connect()
    base = 64 * MIB
    before = pattern(64 << 10, 1)
    handle.pwrite(before, base)
    wanted = bytearray(before)
    for seed, (offset, length) in enumerate([(512, 512), (8192 - 512, 1024), (29696, 5120)]):
        data = pattern(length, 100 + seed)
        handle.pwrite(data, base + offset)
        wanted[offset : offset + length] = data
    must_equal(bytes(handle.pread(64 << 10, base)), bytes(wanted), "neighbours")
    handle.shutdown()


@check
def never_written_reads_zeros(server):
    handle = server.connect()
    offset = handle.get_size() // 2
    must_equal(bytes(handle.pread(4 * MIB, offset)), bytes(4 * MIB), "never written")
    # A sector of a fresh grain: the rest of its block and of its grain stays zero.
    data = pattern(512, 5)
    handle.pwrite(data, offset + 512)
    read = bytes(handle.pread(MIB, offset))
    must_equal(read, bytes(512) + data + bytes(MIB - 1024), "around a first write")
    handle.trim(MIB, offset)
    handle.shutdown()


@check
def fua_and_flush(server):
    handle = server.connect()
    data = pattern(12288, 9)
    handle.pwrite(data, 80 * MIB, nbd.CMD_FLAG_FUA)
    handle.flush()
    handle.flush()
    must_equal(bytes(handle.pread(12288, 80 * MIB)), data, "a FUA write")
    handle.trim(4096, 80 * MIB, nbd.CMD_FLAG_FUA)
    handle.zero(4096, 80 * MIB + 4096, nbd.CMD_FLAG_FUA)
    must_equal(bytes(handle.pread(12288, 80 * MIB)), bytes(8192) + data[8192:], "FUA trim, zero")
    handle.shutdown()


@check
def trim_reads_zeros(server):
    handle = server.connect()
    base = 96 * MIB
    wanted = bytearray(pattern(4 * MIB, 11))
    handle.pwrite(bytes(wanted), base)
    ranges = [(512, 512), (8192, 4096), (20480 - 512, 9216), (MIB, MIB)]
    for offset, length in ranges + [(2 * MIB - 1024, MIB + 2048)]:
        handle.trim(length, base + offset)
        wanted[offset : offset + length] = bytes(length)
    must_equal(bytes(handle.pread(4 * MIB, base)), bytes(wanted), "trimmed ranges")
    handle.shutdown()


@check
def write_zeroes(server):
    handle = server.connect()
    base = 104 * MIB
    length = 2 * MIB + 3072
    fast = nbd.CMD_FLAG_FAST_ZERO
    for seed, flags in enumerate([0, nbd.CMD_FLAG_NO_HOLE, fast, fast | nbd.CMD_FLAG_NO_HOLE]):
        data = pattern(4 * MIB, 20 + seed)
        handle.pwrite(data, base)
        wanted = data[:512] + bytes(length) + data[512 + length :]
        handle.zero(length, base + 512, flags)
        must_equal(bytes(handle.pread(4 * MIB, base)), wanted, f"zeroes with flags {flags}")
    handle.shutdown()


@check
def four_gibibytes_at_once(server):
    """Requests without data take lengths up to 4 GiB - 1 (here the last multiple of 512)."""
    handle = server.connect()
    length = (1 << 32) - 512
    data = pattern(MIB, 31)
    handle.pwrite(data, 200 * MIB)
    handle.cache(length, 0)
    handle.trim(length, 0)
    must_equal(bytes(handle.pread(MIB, 200 * MIB)), bytes(MIB), "after a 4 GiB trim")
    must_equal(extents(handle, 0, length), [(length, HOLE_AND_ZERO)], "4 GiB of status")
    handle.pwrite(data, 200 * MIB)
    handle.zero(length, 0)
    must_equal(bytes(handle.pread(MIB, 200 * MIB)), bytes(MIB), "after 4 GiB of zeroes")
    handle.shutdown()


@check
def structured_reads(server):
    """The chunks of a structured read cover the range once, in whatever order they come."""
    handle = server.connect()
    base, length = 120 * MIB, 3 * MIB
    handle.trim(length, base)
    data = pattern(MIB, 41)
    handle.pwrite(data, base + MIB)
    wanted = bytes(MIB) + data + bytes(MIB)
    seen = bytearray(length)

    def chunk(content, offset, status, error):
        must(status in (nbd.READ_DATA, nbd.READ_HOLE), f"a chunk of kind {status}")
        for at in range(offset - base, offset - base + len(content), 512):
            must(not seen[at], f"offset {at} twice")
            seen[at] = 1
        return 0

    read = handle.pread_structured(length, base, chunk)
    must_equal(bytes(read), wanted, "structured read")
    must_equal(sum(seen), length // 512, "sectors covered")
    handle.shutdown()


@check
def simple_replies(server):
    handle = server.connect(structured=False)
    must(not handle.get_structured_replies_negotiated(), "simple replies")
    data = pattern(5 * MIB, 43)
    handle.pwrite(data, 130 * MIB)
    must_equal(bytes(handle.pread(5 * MIB, 130 * MIB)), data, "simple read")
    handle.shutdown()


def extents(handle, offset, length, flags=0):
    """[(length, flags)] of one request."""
    found = []
    handle.block_status(length, offset, lambda c, o, entries, e: found.extend(entries), flags)
    return list(zip(found[0::2], found[1::2]))


@check
def block_status(server):
    """What was trimmed is a hole, what was zeroed is zero, exact to the 4 KiB block."""
    handle = server.connect()
    base = 140 * MIB
    handle.trim(8 * MIB, base)
    handle.pwrite(pattern(MIB, 47), base + 2 * MIB)
    handle.pwrite(pattern(512, 48), base + 5 * MIB + 8192)
    handle.zero(65536, base + 2 * MIB + 4096, nbd.CMD_FLAG_NO_HOLE)
    handle.zero(MIB, base + 6 * MIB, nbd.CMD_FLAG_NO_HOLE)
    zero = nbd.STATE_ZERO
    wanted = [
        (2 * MIB, HOLE_AND_ZERO), (4096, 0), (65536, zero), (MIB - 69632, 0),
        (2 * MIB, HOLE_AND_ZERO), (8192, zero), (4096, 0), (2 * MIB - 12288, zero),
        (MIB, HOLE_AND_ZERO),
    ]
    must_equal(extents(handle, base, 8 * MIB), wanted, "extents")
    one = nbd.CMD_FLAG_REQ_ONE
    must_equal(extents(handle, base, 8 * MIB, one), wanted[:1], "one extent")
    must_equal(extents(handle, base + MIB, 512, one), [(512, HOLE_AND_ZERO)], "one sector")
    cut = extents(handle, base + 2 * MIB + 3584, 1024)
    must_equal(cut, [(512, 0), (512, zero)], "an edge between two sectors")
    handle.trim(8 * MIB, base)
    must_equal(extents(handle, base, 8 * MIB), [(8 * MIB, HOLE_AND_ZERO)], "trimmed again")
    handle.shutdown()


@check
def long_maps_go_on(server):
    """A map with more extents than one reply holds comes in parts that join."""
    handle = server.connect()
    base, count = 150 * MIB, 3000
    handle.trim(24 * MIB, base)
    data = pattern(4096, 51)
    cookies = set()
    for index in range(count):
        source = nbd.Buffer.from_bytearray(bytearray(data))
        cookies.add(handle.aio_pwrite(source, base + index * 8192))
        if len(cookies) == 64:
            drain(handle, cookies)
    drain(handle, cookies)
    found, at = [], 0
    while at < count * 8192:
        part = extents(handle, base + at, count * 8192 - at)
        must(part, "a reply without extents")
        found += part
        at += sum(length for length, _ in part)
    must_equal(found, [(4096, 0), (4096, nbd.STATE_ZERO)] * count, "every other block")
    handle.trim(24 * MIB, base)
    handle.shutdown()


@check
def contexts(server):
    """What can be selected, and that nothing comes of what was not."""
    for queries, wanted in [
        ([], [ALLOCATION]), (["base:"], [ALLOCATION]), ([ALLOCATION, "qemu:x"], [ALLOCATION]),
        (["qemu:"], []), (["base:nothing"], []),
    ]:
        handle = server.negotiate(server.export)
        handle.set_strict_mode(0)
        for query in queries:
            handle.add_meta_context(query)
        listed = []
        handle.opt_list_meta_context(listed.append)
        must_equal(listed, wanted, f"listed for {queries}")
        # Selects the same queries on its way.
        handle.opt_go()
        if ALLOCATION in queries:
            must(handle.can_meta_context(ALLOCATION), f"selected by {queries}")
            must(extents(handle, 0, 4096), "status with the context")
        else:
            must_refuse(
                [errno.EINVAL, errno.ENOTSUP], f"status after {queries}",
                lambda: extents(handle, 0, 4096))
        handle.shutdown()


@check
def unfragmented_reads(server):
    handle = server.connect(strict=False)
    data = pattern(4 * MIB, 53)
    handle.pwrite(data, 160 * MIB)
    for offset, length in [(0, 512), (MIB - 512, 1024), (MIB - 32768, 65536), (512, MIB)]:
        chunks = []
        read = handle.pread_structured(
            length, 160 * MIB + offset, lambda c, o, s, e: chunks.append(o) or 0,
            nbd.CMD_FLAG_DF)
        must_equal(len(chunks), 1, f"chunks of {length} at {offset}")
        must_equal(bytes(read), data[offset : offset + length], f"{length} at {offset}")
    must_refuse(
        [errno.EOVERFLOW], "an unfragmented read of 2 MiB",
        lambda: handle.pread_structured(
            2 * MIB, 160 * MIB, lambda c, o, s, e: 0, nbd.CMD_FLAG_DF))
    handle.shutdown()


@check
def cached_ranges(server):
    handle = server.connect(strict=False)
    handle.pwrite(pattern(MIB, 57), 170 * MIB)
    handle.cache(64 * MIB, 160 * MIB + 512)
    handle.cache(512, handle.get_size() - 512)
    must_equal(bytes(handle.pread(MIB, 170 * MIB)), pattern(MIB, 57), "what was cached")
    invalid, last = [errno.EINVAL], handle.get_size() - 512
    must_refuse(invalid, "beyond the end", lambda: handle.cache(1024, last))
    must_refuse(invalid, "part of a sector", lambda: handle.cache(100, 0))
    handle.shutdown()


def sample_map(server):
    """Empties the export, and writes 3 MiB in two places: [(offset, bytes)]."""
    handle = server.connect()
    size, longest = handle.get_size(), (1 << 32) - 512
    for offset in range(0, size, longest):
        handle.trim(min(longest, size - offset), offset)
    places = [(2 * MIB, pattern(MIB, 61)), (4 << 30, pattern(2 * MIB, 62))]
    for offset, data in places:
        handle.pwrite(data, offset)
    handle.flush()
    handle.shutdown()
    return size, places


def output_of(*command):
    finished = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=100,
        check=False)
    must_equal(finished.returncode, 0, f"{command[0]} said {finished.stdout[-500:]!r}")
    return finished.stdout


@check
def nbdinfo_map(server):
    size, places = sample_map(server)
    listed = json.loads(output_of("nbdinfo", "--json", "--map", server.uri()))
    must_equal(listed[0]["offset"], 0, "the first offset")
    must_equal(sum(extent["length"] for extent in listed), size, "bytes in the map")
    data = [(e["offset"], e["length"]) for e in listed if e["type"] == 0]
    must_equal(data, [(offset, len(content)) for offset, content in places], "data")
    must(all(e["type"] in (0, HOLE_AND_ZERO) for e in listed), f"kinds of {listed}")


@check
def qemu_map_and_convert(server):
    size, places = sample_map(server)
    listed = json.loads(
        output_of("qemu-img", "map", "-f", "raw", "--output=json", server.uri()))
    data = [(e["start"], e["length"]) for e in listed if e["data"]]
    must_equal(data, [(offset, len(content)) for offset, content in places], "data")
    copied(server, size, places, lambda to: output_of(
        "qemu-img", "convert", "-f", "raw", "-O", "raw", server.uri(), to))


@check
def nbdcopy_skips_holes(server):
    size, places = sample_map(server)
    # Without looking for zeroes by itself, so that what stays a hole is what the server called one.
    copied(server, size, places, lambda to: output_of("nbdcopy", "--sparse=0", server.uri(), to))


def copied(server, size, places, copy):
    """`copy` makes a file that holds the sample, and holes elsewhere."""
    with tempfile.TemporaryDirectory(dir=os.path.dirname(server.path)) as folder:
        path = os.path.join(folder, "copy")
        copy(path)
        status = os.stat(path)
        must_equal(status.st_size, size, "the copy's size")
        held = sum(len(content) for _, content in places)
        must(status.st_blocks * 512 < 2 * held + MIB, f"{status.st_blocks} blocks in the copy")
        with open(path, "rb") as file:
            for offset, content in places:
                file.seek(offset)
                must_equal(file.read(len(content)), content, f"the copy at {offset}")


# ---------------------------------------------------------------- several at once


@check
def deep_queue(server):
    """More in flight than any client would ask for, answered in any order."""
    handle = server.connect()
    base, count = 256 * MIB, 512
    cookies = set()
    for index in range(count):
        data = nbd.Buffer.from_bytearray(bytearray(pattern(16384, 1000 + index)))
        cookies.add(handle.aio_pwrite(data, base + index * 16384))
    drain(handle, cookies)
    buffers = [nbd.Buffer(16384) for _ in range(count)]
    cookies = {handle.aio_pread(b, base + i * 16384) for i, b in enumerate(buffers)}
    drain(handle, cookies)
    for index, buffer in enumerate(buffers):
        must_equal(bytes(buffer.to_bytearray()), pattern(16384, 1000 + index), f"slot {index}")
    handle.shutdown()


def drain(handle, cookies):
    """Waits for `cookies`, which are all that is in flight on this handle."""
    while cookies:
        done = handle.aio_peek_command_completed()
        if done > 0:
            handle.aio_command_completed(done)
            cookies.discard(done)
        else:
            handle.poll(-1)


@check
def overlapping_writes_settle(server):
    """Writes to one place at once: some one of them wins each sector, and all reads agree on it."""
    handle = server.connect()
    other = server.connect()
    base, length = 300 * MIB, 65536
    for round_number in range(8):
        versions = [pattern(length, round_number * 100 + v) for v in range(12)]
        cookies = [set(), set()]
        for index, data in enumerate(versions):
            source = nbd.Buffer.from_bytearray(bytearray(data))
            side = index % 2
            cookies[side].add((handle, other)[side].aio_pwrite(source, base))
        drain(handle, cookies[0])
        drain(other, cookies[1])
        first = bytes(handle.pread(length, base))
        for at in range(0, length, 512):
            must(
                any(first[at : at + 512] == v[at : at + 512] for v in versions),
                f"sector {at // 512} holds no version that was written",
            )
        for reader in (handle, other) * 4:
            must_equal(bytes(reader.pread(length, base)), first, "repeated reads")
    handle.shutdown()
    other.shutdown()


@check
def two_connections_see_each_other(server):
    one, two = server.connect(), server.connect()
    data = pattern(8192, 61)
    one.pwrite(data, 310 * MIB)
    two.flush()
    must_equal(bytes(two.pread(8192, 310 * MIB)), data, "what the other wrote")
    two.trim(8192, 310 * MIB)
    must_equal(bytes(one.pread(8192, 310 * MIB)), bytes(8192), "what the other trimmed")
    one.shutdown()
    two.shutdown()


# ---------------------------------------------------------------- what is improper


@check
def unaligned_is_refused(server):
    """Not a multiple of 512: EINVAL, nothing changes, and the connection lives."""
    handle = server.connect(strict=False)
    base = 320 * MIB
    data = pattern(8192, 71)
    handle.pwrite(data, base)
    invalid = [errno.EINVAL]
    for offset, length in [(1, 512), (0, 511), (513, 1), (0, 4097)]:
        at = f"{length} at {offset}"
        must_refuse(invalid, f"read {at}", lambda: handle.pread(length, base + offset))
        must_refuse(invalid, f"write {at}", lambda: handle.pwrite(bytes(length), base + offset))
        must_refuse(invalid, f"trim {at}", lambda: handle.trim(length, base + offset))
        must_refuse(invalid, f"zero {at}", lambda: handle.zero(length, base + offset))
        must_equal(bytes(handle.pread(8192, base)), data, f"after {at}")
    handle.shutdown()


@check
def beyond_the_end_is_refused(server):
    handle = server.connect(strict=False)
    size = handle.get_size()
    refused = [errno.EINVAL, errno.ENOSPC]
    for offset in (size - 512, size, size + MIB, (1 << 63) - 512, (1 << 63) - 1024):
        must_refuse(refused, f"read at {offset}", lambda: handle.pread(1024, offset))
        must_refuse(refused, f"write at {offset}", lambda: handle.pwrite(bytes(1024), offset))
        must_refuse(refused, f"trim at {offset}", lambda: handle.trim(1024, offset))
        must_refuse(refused, f"zero at {offset}", lambda: handle.zero(1024, offset))
    must_equal(len(handle.pread(512, size - 512)), 512, "the last sector")
    handle.shutdown()


@check
def requests_from_hell(server):
    """Garbage in place of a request, at every stage: the server lives, others do not notice."""
    bystander = server.connect()
    data = pattern(4096, 81)
    bystander.pwrite(data, 330 * MIB)
    name = server.export.encode()
    go = b"IHAVEOPT" + struct.pack(">II", 7, 4 + len(name) + 2)
    go += struct.pack(">I", len(name)) + name + struct.pack(">H", 0)
    client_flags = struct.pack(">I", 3)
    request = lambda kind, offset, length: struct.pack(
        ">IHHQQI", 0x25609513, 0, kind, 1, offset, length
    )
    streams = [
        b"\0" * 64,
        os.urandom(4096),
        struct.pack(">I", 0xFFFFFFFF),
        client_flags + b"IHAVEOPT" + struct.pack(">II", 7, 0xFFFFFFFF) + b"x" * 100,
        client_flags + b"IHAVEOPT" + struct.pack(">II", 7, 8) + struct.pack(">II", 0xFFFFFFFF, 0),
        client_flags + b"IHAVENOT" + struct.pack(">II", 7, 0),
        client_flags + (b"IHAVEOPT" + struct.pack(">II", 3, 0)) * 500,
        client_flags + go + b"\xff" * 28,
        client_flags + go + request(99, 0, 0),
        client_flags + go + request(1, 0, 0xFFFFFFFF),
        client_flags + go + request(0, 0, 0xFFFFFE00),
        client_flags + go + request(1, 0, 4096) + b"half of a payload",
        client_flags + go + request(0, 0xFFFFFFFFFFFFFE00, 1024),
        client_flags + go + os.urandom(65536),
    ]
    for index, stream_bytes in enumerate(streams):
        stream = server.raw()
        try:
            stream.sendall(stream_bytes)
            stream.shutdown(socket.SHUT_WR)
            while stream.recv(65536):
                pass
        except ConnectionError:
            pass
        except socket.timeout:
            raise Failure(f"stream {index}: neither answered nor closed")
        finally:
            stream.close()
        must_equal(bytes(bystander.pread(4096, 330 * MIB)), data, f"bystander, stream {index}")
    bystander.shutdown()


@check
def abandoned_connections(server):
    """A client that vanishes with requests in flight costs the others nothing."""
    for index in range(16):
        handle = server.connect()
        for slot in range(32):
            data = nbd.Buffer.from_bytearray(bytearray(pattern(131072, index)))
            handle.aio_pwrite(data, 340 * MIB + slot * 131072)
            handle.poll(0)
        del handle
    server.must_be_alive()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true", help="print the checks' names")
    parser.add_argument("--all", action="store_true", help="run every check")
    parser.add_argument("socket", nargs="?")
    parser.add_argument("export", nargs="?")
    parser.add_argument("checks", nargs="*")
    options = parser.parse_args()
    if options.list:
        print("\n".join(CHECKS))
        return 0
    names = list(CHECKS) if options.all else options.checks
    if not names or options.export is None or any(name not in CHECKS for name in names):
        parser.print_usage(sys.stderr)
        return 64
    server = Server(options.socket, options.export)
    failed = 0
    for name in names:
        try:
            CHECKS[name](server)
            server.must_be_alive()
            print(f"ok {name}", flush=True)
        except (Failure, nbd.Error, OSError, struct.error) as problem:
            failed += 1
            print(f"FAILED {name}: {problem}", flush=True)
            if not isinstance(problem, Failure):
                traceback.print_exc()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
