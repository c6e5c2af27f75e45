"""What the figures depend on: the machine, the versions, and which pages are in memory."""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def describe(folder: Path) -> dict[str, str]:
    """CPU, cores, memory, kernel, file system."""
    info = {
        line.split(":", 1)[0].strip(): line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if ":" in line
    }
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    system = subprocess.run(["stat", "-f", "-c", "%T", str(folder)], capture_output=True, text=True, check=False)
    name = f"{info.get('model name', platform.machine())} (family {info.get('cpu family')}, model {info.get('model')})"
    return {
        "CPU": name,
        "cores": str(os.cpu_count()),
        "memory": f"{memory / 1e9:.0f} GB",
        "kernel": platform.release().split("-")[0],
        "file system": system.stdout.strip(),
        "Python": platform.python_version(),
    }


def versions(packages: list[str]) -> dict[str, str]:
    """Package -> version, or a note that it is not installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def evict(folder: Path) -> float:
    """Drop all files of a folder from the page cache; returns the fraction of their pages that stays."""
    pages = resident = 0
    for path in folder.rglob("*"):
        if not path.is_file() or not path.stat().st_size:
            continue
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            there = in_memory(descriptor)
        finally:
            os.close(descriptor)
        pages, resident = pages + len(there), resident + sum(there)
    return resident / max(1, pages)


def warm(folder: Path) -> None:
    """Read all files of a folder, so that they are in the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb", buffering=0) as file:
                while file.read(1 << 22):
                    pass


def in_memory(descriptor: int) -> list[bool]:
    """Which pages of a file are in the page cache (``mincore``)."""
    size = os.fstat(descriptor).st_size
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    address = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
    answer = ctypes.create_string_buffer(-(-size // mmap.PAGESIZE))
    try:
        if libc.mincore(address, size, answer):
            raise OSError(ctypes.get_errno(), "mincore")
    finally:
        libc.munmap(address, size)
    return [bool(byte & 1) for byte in answer.raw]
