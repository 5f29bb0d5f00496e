#!/usr/bin/python3
"""Writes to a block device with O_DIRECT and O_DSYNC: each write is durable when it returns.

    kernel_writer.py DEVICE STOP_FILE

Goes on until STOP_FILE exists, whatever becomes of the server meanwhile, then reads everything back
and compares. Prints how many writes there were; exits 1 when one failed, or was lost.
"""

import mmap
import os
import random
import struct
import sys

BLOCK = 4096
BLOCKS = (32 << 20) // BLOCK


def fill(buffer, block, version):
    buffer[:] = struct.pack("<QQ", block, version) * (BLOCK // 16)


def main():
    device, stop_file = sys.argv[1:]
    descriptor = os.open(device, os.O_RDWR | os.O_DIRECT | os.O_DSYNC)
    # Anonymous memory is aligned to pages, which is what O_DIRECT asks for.
    buffer = mmap.mmap(-1, BLOCK)
    written = {}
    version = 0
    while not os.path.exists(stop_file):
        version += 1
        block = random.randrange(BLOCKS)
        fill(buffer, block, version)
        if os.pwritev(descriptor, [buffer], block * BLOCK) != BLOCK:
            sys.exit(f"short write of block {block}")
        written[block] = version
        if version % 64 == 0:
            print(version, flush=True)
    wanted = mmap.mmap(-1, BLOCK)
    for block, last in written.items():
        fill(wanted, block, last)
        os.preadv(descriptor, [buffer], block * BLOCK)
        if buffer[:] != wanted[:]:
            sys.exit(f"block {block} does not hold version {last}")
    print(f"{version} writes, {len(written)} blocks read back")


if __name__ == "__main__":
    main()
