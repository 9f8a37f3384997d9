"""Reproducible archives: tar, gzip, xz, ar. Their bytes depend only on the contents."""

import io
import lzma
import os
import tarfile
import zlib
from typing import NamedTuple


class File(NamedTuple):
    """A file of an archive, or a symbolic link."""

    data: bytes = b""
    mode: int = 0o644
    link: str = ""


def directories(tree: dict[str, File]) -> list[str]:
    """Returns all parent directories of the paths of a tree, each before its contents."""
    found = set()
    for path in tree:
        while path := os.path.dirname(path):
            found.add(path)
    return sorted(found)


def tar(tree: dict[str, File], mtime: int, owner: str = "") -> bytes:
    """Writes the GNU format: opkg does not support PAX headers and skips files that have them."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for path in sorted([*tree, *directories(tree), ""]):
            info = tarfile.TarInfo("./" + path if path else "./")
            info.mtime, info.uname, info.gname = mtime, owner, owner
            file = tree.get(path)
            if file is None:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
            elif file.link:
                info.type, info.mode, info.linkname = tarfile.SYMTYPE, 0o777, file.link
            else:
                info.mode, info.size = file.mode, len(file.data)
            archive.addfile(info, io.BytesIO(file.data) if info.size else None)
    return out.getvalue()


def gzip(data: bytes) -> bytes:
    """Writes neither a name nor a time."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, 31)
    return compressor.compress(data) + compressor.flush()


def xz(data: bytes) -> bytes:
    """Uses a dictionary of 8 MiB, which is the memory that unpacking needs."""
    return lzma.compress(data, format=lzma.FORMAT_XZ, check=lzma.CHECK_CRC32, preset=6)


def ar(members: dict[str, bytes], mtime: int) -> bytes:
    out = b"!<arch>\n"
    for name, data in members.items():
        out += f"{name:<16}{mtime:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode() + data
        out += b"\n" * (len(data) % 2)
    return out


def unar(data: bytes) -> dict[str, bytes]:
    assert data.startswith(b"!<arch>\n"), "no ar archive"
    members, at = {}, 8
    while at < len(data):
        head = data[at : at + 60]
        size = int(head[48:58])
        members[head[:16].decode().strip()] = data[at + 60 : at + 60 + size]
        at += 60 + size + size % 2
    return members
