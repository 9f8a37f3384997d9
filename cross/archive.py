"""Archives whose bytes depend on nothing but what is put into them: tar, gzip, xz, ar."""

import io
import lzma
import os
import tarfile
import zlib
from typing import NamedTuple


class File(NamedTuple):
    """What stands at a path of an archive: bytes, or another path that a symbolic link leads to."""

    data: bytes = b""
    mode: int = 0o644
    link: str = ""


def folders(tree: dict[str, File]) -> list[str]:
    """All folders above the paths of a tree, each before what is in it."""
    found = set()
    for path in tree:
        while path := os.path.dirname(path):
            found.add(path)
    return sorted(found)


def tar(tree: dict[str, File], mtime: int, owner: str = "") -> bytes:
    """In GNU's format: opkg understands no PAX headers, and leaves out the files that have them."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for path in sorted([*tree, *folders(tree), ""]):
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
    """Without a name and a time."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return packer.compress(data) + packer.flush()


def xz(data: bytes) -> bytes:
    """With a dictionary of 8 MiB: unpacking takes no more memory than that."""
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
