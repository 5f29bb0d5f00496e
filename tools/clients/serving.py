"""A client of the daemon, and how long it takes until there is one."""

import time

import nbd

from measuring import BenchError


def seconds_to_serve(poold, export):
    """Starts it. Returns the seconds until a client has read a block of `export`."""
    begun = time.monotonic()
    poold.launch()
    while time.monotonic() < begun + 300:
        if poold.process.poll() is not None:
            raise BenchError(f"poold ended with status {poold.process.returncode}")
        try:
            handle = connect(poold.socket, export)
            handle.pread(4096, 0)
            seconds = time.monotonic() - begun
            handle.shutdown()
            return seconds
        except nbd.Error:
            time.sleep(0.005)
    raise BenchError("poold did not serve within 300 s")


def connect(path, export):
    handle = nbd.NBD()
    handle.set_export_name(export)
    handle.connect_unix(path)
    return handle
