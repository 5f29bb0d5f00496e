"""Mount points, as the kernel lists them: os.path.ismount takes one whose server is dead for none."""

import subprocess
import time


def is_mounted(folder):
    with open("/proc/self/mounts", encoding="utf-8") as mounts:
        return any(line.split()[1] == folder for line in mounts)


def unmount(folder, *, with_fuse=False, seconds=10):
    """Waits so long for the last user to go, then detaches it from under whoever is left."""
    gently, firmly = (
        (["fusermount3", "-u"], ["fusermount3", "-uz"])
        if with_fuse
        else (["umount"], ["umount", "--lazy"])
    )
    deadline = time.monotonic() + seconds
    while is_mounted(folder):
        command = gently if time.monotonic() < deadline else firmly
        subprocess.run([*command, folder], check=False, capture_output=True, timeout=60)
        time.sleep(0.02)
