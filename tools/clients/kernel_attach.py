#!/usr/bin/python3
"""Attaches an export to the kernel's NBD client in such a way that a mount outlives the server.

    kernel_attach.py SOCKET EXPORT DEVICE_NUMBER [--connections N]

nbd-client 3.24 cannot do it, with or without -persist: a kernel of these days answers EIO as soon
as a connection is gone, and ends the call in which that client waits for it. This asks over netlink
for NBD_ATTR_DEAD_CONN_TIMEOUT, so requests wait for a new connection instead, and hands the kernel
new sockets whenever it has lost the old ones.

Prints `attached` once the device is there and `attached again` after each loss; runs until SIGTERM,
and then detaches the device.
"""

import argparse
import select
import signal
import socket
import struct
import sys
import time

# linux/netlink.h, linux/genetlink.h, linux/nbd-netlink.h
NLM_F_REQUEST, NLM_F_ACK = 1, 4
NLMSG_ERROR = 2
GENL_ID_CTRL, CTRL_CMD_GETFAMILY = 16, 3
CTRL_ATTR_FAMILY_ID, CTRL_ATTR_FAMILY_NAME = 1, 2
NBD_CMD_CONNECT, NBD_CMD_DISCONNECT, NBD_CMD_RECONFIGURE = 1, 2, 3
NBD_ATTR_INDEX, NBD_ATTR_SIZE_BYTES, NBD_ATTR_BLOCK_SIZE_BYTES = 1, 2, 3
NBD_ATTR_TIMEOUT, NBD_ATTR_SERVER_FLAGS, NBD_ATTR_SOCKETS = 4, 5, 7
NBD_ATTR_DEAD_CONN_TIMEOUT = 8
NBD_SOCK_ITEM, NBD_SOCK_FD = 1, 1
NESTED = 0x8000

# Seconds after which a request on a lost connection goes to another one, and for which the kernel
# waits when there is none.
REQUEST_TIMEOUT = 3
DEAD_CONNECTION_TIMEOUT = 120


def attribute(kind, content):
    if isinstance(content, str):
        content = content.encode() + b"\0"
    padding = -len(content) % 4
    return struct.pack("=HH", 4 + len(content), kind) + content + bytes(padding)


def u32(kind, value):
    return attribute(kind, struct.pack("=I", value))


def u64(kind, value):
    return attribute(kind, struct.pack("=Q", value))


class Netlink:
    """Requests to the kernel's nbd family."""

    def __init__(self):
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 16)
        self.socket.bind((0, 0))
        self.sequence = 0
        name = attribute(CTRL_ATTR_FAMILY_NAME, "nbd")
        answer = self.request(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, name, wanted=GENL_ID_CTRL)
        self.family = struct.unpack("=H", self.find(answer, CTRL_ATTR_FAMILY_ID))[0]

    def command(self, command, attributes):
        self.request(self.family, command, attributes, wanted=None)

    def request(self, family, command, attributes, wanted):
        """Sends one request and waits for its acknowledgement. Returns the `wanted` answer."""
        self.sequence += 1
        body = struct.pack("=BBH", command, 1, 0) + attributes
        flags = NLM_F_REQUEST | NLM_F_ACK
        header = struct.pack("=IHHII", 16 + len(body), family, flags, self.sequence, 0)
        self.socket.send(header + body)
        answer = b""
        while True:
            received = self.socket.recv(65536)
            while len(received) >= 16:
                length, kind = struct.unpack_from("=IH", received)
                if kind == NLMSG_ERROR:
                    (problem,) = struct.unpack_from("=i", received, 16)
                    if problem != 0:
                        raise OSError(-problem, "the kernel refused")
                    return answer
                if kind == wanted:
                    answer = received[20:length]
                received = received[(length + 3) & ~3 :]

    @staticmethod
    def find(attributes, wanted):
        while len(attributes) >= 4:
            length, kind = struct.unpack_from("=HH", attributes)
            if kind == wanted:
                return attributes[4:length]
            attributes = attributes[(length + 3) & ~3 :]
        raise OSError(f"no attribute {wanted} in the kernel's answer")


class Export:
    def __init__(self, path, name):
        self.path = path
        self.name = name.encode()
        self.size = self.flags = 0

    def connect(self):
        """One connection, negotiated, ready to be the kernel's."""
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        stream.settimeout(10)
        stream.connect(self.path)
        receive(stream, 18)
        # Fixed newstyle, no zeroes; the kernel's client takes simple replies only.
        stream.sendall(struct.pack(">I", 3))
        body = struct.pack(">I", len(self.name)) + self.name + struct.pack(">H", 0)
        stream.sendall(b"IHAVEOPT" + struct.pack(">II", 7, len(body)) + body)
        while True:
            _, _, kind, length = struct.unpack(">QIII", receive(stream, 20))
            content = receive(stream, length)
            if kind == 3 and content[:2] == b"\0\0":
                self.size, self.flags = struct.unpack_from(">QH", content, 2)
            elif kind == 1:
                stream.settimeout(None)
                return stream
            elif kind & 0x80000000:
                raise OSError(f"the server refused: {kind:#x} {content!r}")

    def connect_all(self, count):
        streams = []
        try:
            for _ in range(count):
                streams.append(self.connect())
        except OSError:
            for stream in streams:
                stream.close()
            raise
        return streams


def receive(stream, count):
    received = b""
    while len(received) < count:
        some = stream.recv(count - len(received))
        if not some:
            raise OSError("the server closed the connection")
        received += some
    return received


def sockets(streams):
    items = b"".join(
        attribute(NBD_SOCK_ITEM | NESTED, u32(NBD_SOCK_FD, stream.fileno())) for stream in streams
    )
    return attribute(NBD_ATTR_SOCKETS | NESTED, items)


def wait_until_lost(streams):
    """The kernel reads from them; here only their end is looked for, all of them together."""
    poll = select.poll()
    for stream in streams:
        poll.register(stream, select.POLLRDHUP)
    left = len(streams)
    while left > 0:
        for descriptor, _ in poll.poll():
            poll.unregister(descriptor)
            left -= 1


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("socket")
    parser.add_argument("export")
    parser.add_argument("device", type=int)
    parser.add_argument("--connections", type=int, default=1)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    netlink = Netlink()
    index = u32(NBD_ATTR_INDEX, options.device)
    export = Export(options.socket, options.export)
    streams = export.connect_all(options.connections)
    netlink.command(
        NBD_CMD_CONNECT,
        index
        + u64(NBD_ATTR_SIZE_BYTES, export.size)
        + u64(NBD_ATTR_BLOCK_SIZE_BYTES, 512)
        + u64(NBD_ATTR_SERVER_FLAGS, export.flags)
        + u64(NBD_ATTR_TIMEOUT, REQUEST_TIMEOUT)
        + u64(NBD_ATTR_DEAD_CONN_TIMEOUT, DEAD_CONNECTION_TIMEOUT)
        + sockets(streams),
    )
    print("attached", flush=True)
    try:
        while True:
            wait_until_lost(streams)
            streams = None
            while streams is None:
                try:
                    streams = export.connect_all(options.connections)
                    netlink.command(NBD_CMD_RECONFIGURE, index + sockets(streams))
                except OSError:
                    # Not back yet, or not all sockets known dead yet.
                    streams = None
                    time.sleep(0.1)
            print("attached again", flush=True)
    finally:
        netlink.command(NBD_CMD_DISCONNECT, index)


if __name__ == "__main__":
    main()
