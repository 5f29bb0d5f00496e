"""Exports as mounted file systems, and their mount points taken away again whatever happened."""

import contextlib
import os
import subprocess
import time


class MountError(Exception):
    pass


def must(*command, timeout=120):
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    if done.returncode != 0:
        raise MountError(f"{' '.join(command)}: status {done.returncode} {done.stderr.strip()}")
    return done.stdout


class Mount:
    """The chain from an export to a mounted folder: nbdfuse, a loop device, ext4. Needs root.

    `down` takes apart what there is of it.
    """

    def __init__(self, uri, scratch, folder, log):
        self.uri = uri
        self.fuse = os.path.join(scratch, "fuse-" + os.path.basename(folder))
        self.folder = folder
        self.log = log
        self.nbdfuse = None
        self.loop = None
        os.mkdir(self.fuse)
        os.mkdir(self.folder)

    def attach(self):
        """Up to the loop device."""
        disk = os.path.join(self.fuse, "disk")
        self.nbdfuse = subprocess.Popen(
            ["nbdfuse", disk, self.uri], stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log
        )
        wait_until(lambda: os.path.exists(disk), "nbdfuse did not come up")
        self.loop = must("losetup", "--find", "--show", disk).strip()

    def make(self):
        """A new file system, mounted."""
        self.attach()
        must("mkfs.ext4", "-q", self.loop)
        self.mount()

    def up(self):
        self.attach()
        self.mount()

    def mount(self):
        must("mount", "-t", "ext4", "-o", "noatime", self.loop, self.folder)

    def down(self, clean=True):
        """`clean`: nothing may fail. Otherwise the export is gone, and what is left is pulled off,
        all of it, whichever step fails."""
        steps = [self.detach, self.unmount_fuse, self.end_nbdfuse]
        if clean:
            must("umount", self.folder)
            for step in steps:
                step()
            return
        with contextlib.ExitStack() as left:
            for step in reversed(steps):
                left.callback(step)
            unmount(self.folder)

    def detach(self):
        if self.loop is not None:
            must("losetup", "--detach", self.loop)
            wait_until(lambda: not is_attached(self.loop), f"{self.loop} stays attached")
            self.loop = None

    def unmount_fuse(self):
        unmount(self.fuse, with_fuse=True)

    def end_nbdfuse(self):
        if self.nbdfuse is not None:
            try:
                self.nbdfuse.wait(20)
            except subprocess.TimeoutExpired:
                self.nbdfuse.kill()
                self.nbdfuse.wait()
            self.nbdfuse = None


def wait_until(condition, what, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise MountError(what)
        time.sleep(0.02)


def is_attached(loop):
    return loop in must("losetup", "--noheadings", "--output", "NAME", "--list").split()


# os.path.ismount takes a mount point whose server is dead for none; the kernel's list does not.
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
        if time.monotonic() > deadline + 30:
            raise MountError(f"{folder} stays mounted")
        command = gently if time.monotonic() < deadline else firmly
        subprocess.run([*command, folder], check=False, capture_output=True, timeout=60)
        time.sleep(0.02)
