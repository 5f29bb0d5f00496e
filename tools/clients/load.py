#!/usr/bin/python3
"""Keeps a space busy while somebody else breaks its disks, and checks every sector of it.

    load.py --socket NBD_SOCKET --export POOL/SPACE [--seed N]

Stamped sectors are written, trimmed and flushed over two connections, and read back all the time:
each read has to find what was acknowledged last. Words on the standard input, a line each, have
one line of answer:

    check  lets everything in flight come to its end, and reads the whole space twice; goes on
    pause  likewise, and then rests with no connection
    stop   as pause, and ends

The answer is `ok` with what was done so far, or `FAILED` with why. Whatever fails between two
words is the answer to the next. Ends with the standard input.
"""

import argparse
import random
import select
import sys
import time

import nbd

from checker import SECTOR, Client, Violation

READ_SHARE = 0.4
SPAN_SECTORS = (24 << 20) // SECTOR
# Between two turns: whatever else goes on has to have some of the machine, too.
REST_SECONDS = 0.02


class Socket:
    """All that a client needs of a daemon that somebody else has started."""

    def __init__(self, path):
        self.socket = path


def obey(word, client):
    if word not in ("check", "pause", "stop"):
        raise Violation(f"no such word: {word}")
    if not client.handles:
        client.connect()
    client.check_now()
    if word != "check":
        client.drop_connections()
    return f"ok {client.operations} writes, {client.reads} reads, {client.flushes} flushes"


def work(client, words):
    problem = None
    is_resting = False
    while True:
        if select.select([words], [], [], 1 if is_resting or problem else 0)[0]:
            word = words.readline().strip()
            if not word:
                return 1
            try:
                if problem is not None:
                    raise problem
                print(obey(word, client), flush=True)
            except (Violation, nbd.Error) as failure:
                print(f"FAILED {failure}".replace("\n", ";"), flush=True)
                return 1
            if word == "stop":
                return 0
            is_resting = word == "pause"
        elif problem is None and not is_resting:
            try:
                client.keep_busy()
                time.sleep(REST_SECONDS)
            except (Violation, nbd.Error) as failure:
                problem = failure


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--socket", required=True, help="poold's NBD socket")
    parser.add_argument("--export", required=True, help="POOL/SPACE, empty so far")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    client = Client(
        Socket(options.socket), options.export, options.seed & 0xFFFF, random.Random(options.seed),
        read_share=READ_SHARE, sectors=SPAN_SECTORS,
    )
    client.connect()
    return work(client, sys.stdin)


if __name__ == "__main__":
    sys.exit(main())
