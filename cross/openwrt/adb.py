"""Packages in the format of apk-tools 3, for OpenWrt 25: a database of typed values, then the files.

A value is 32 bits: a type in the upper four, and a number, or the offset of what it stands for, in the others. Objects and
arrays are a count and that many values; the first of an object's fields has number 1.

    "ADBd" deflate( "ADB." "pckg" block* )      a block: type and length, content, zeros up to a multiple of 8
"""

import hashlib
import os
import struct
import zlib

import archive
from archive import File

INT, INT_32, BLOB_8, BLOB_16, BLOB_32, ARRAY, OBJECT = 0x1, 0x2, 0x8, 0x9, 0xA, 0xD, 0xE
ADB, SIGNATURE, DATA = 0, 1, 2
HASH_BYTES = 20

# The fields of objects, by number.
PACKAGE = ["info", "paths", "scripts", "triggers", "replaces_priority"]
INFO = [
    "name", "version", "unique_id", "description", "arch", "license", "origin", "maintainer", "url", "repo_commit",
    "build_time", "installed_size", "file_size", "provider_priority", "depends", "provides", "replaces",
]  # fmt: skip
DEPENDENCY = ["name", "version", "match"]
DIRECTORY = ["name", "acl", "files"]
FILE = ["name", "acl", "size", "mtime", "hash", "target"]
ACL = ["mode", "user", "group"]
SCRIPTS = ["trigger", "pre-install", "post-install", "pre-deinstall", "post-deinstall", "pre-upgrade", "post-upgrade"]


class Writer:
    """Serialized values; equal ones are written once."""

    def __init__(self) -> None:
        self.data = bytearray(8)
        self.known: dict[bytes, int] = {}

    def put(self, kind: int, content: bytes, align: int = 4) -> int:
        at = self.known.get(content)
        if at is None or at % align:
            self.data += bytes(-len(self.data) % align)
            at = self.known[content] = len(self.data)
            self.data += content
        return kind << 28 | at

    def value(self, value: object) -> int:
        match value:
            case None:
                return 0
            case int() if value < 1 << 28:
                return INT << 28 | value
            case int():
                return self.put(INT_32, struct.pack("<I", value))
            case str():
                return self.value(value.encode())
            case bytes() if len(value) < 1 << 8:
                return self.put(BLOB_8, struct.pack("B", len(value)) + value, 1)
            case bytes() if len(value) < 1 << 16:
                return self.put(BLOB_16, struct.pack("<H", len(value)) + value, 2)
            case bytes():
                return self.put(BLOB_32, struct.pack("<I", len(value)) + value)
            case list():
                return self.slots(ARRAY, [self.value(item) for item in value])
        raise TypeError(value)

    def slots(self, kind: int, values: list[int]) -> int:
        while values and not values[-1]:
            values.pop()
        return self.put(kind, struct.pack(f"<{len(values) + 1}I", len(values) + 1, *values)) if values else 0

    def object(self, fields: list[str], values: dict[str, object]) -> int:
        unknown = set(values) - set(fields)
        assert not unknown, unknown
        ready = lambda value: value.number if isinstance(value, Ready) else self.value(value)  # noqa: E731
        return self.slots(OBJECT, [ready(values.get(field)) for field in fields])

    def array(self, values: list[int]) -> int:
        return self.slots(ARRAY, values)


class Ready:
    """A value that is written already."""

    def __init__(self, number: int) -> None:
        self.number = number


def dependency(writer: Writer, text: str) -> int:
    """A name, or a name and the version that must be equal."""
    name, _, version = text.partition("=")
    return writer.object(DEPENDENCY, {"name": name, "version": version or None})


def database(info: dict, tree: dict[str, File], scripts: dict[str, bytes], mtime: int) -> tuple[bytes, list[bytes]]:
    """Returns the description of a package, and its files with the numbers of directory and file that blocks refer to."""
    writer, blocks, directories = Writer(), [], []

    def acl(mode: int) -> Ready:
        return Ready(writer.object(ACL, {"mode": mode, "user": "root", "group": "root"}))

    for at, directory in enumerate(["", *archive.directories(tree)], 1):
        files = []
        for path in sorted(path for path in tree if os.path.dirname(path) == directory):
            file = tree[path]
            entry = {"name": os.path.basename(path), "acl": acl(file.mode), "mtime": mtime}
            entry |= {"size": len(file.data), "hash": hashlib.sha256(file.data).digest()}
            files.append(writer.object(FILE, entry))
            if file.data:
                blocks.append(struct.pack("<II", at, len(files)) + file.data)
        directories.append(writer.object(DIRECTORY, {"name": directory or None, "acl": acl(0o755), "files": Ready(writer.array(files))}))

    lists = {
        key: Ready(writer.array([dependency(writer, text) for text in info[key]]))
        for key in ("depends", "provides")
        if key in info
    }
    # The hash is computed with zeros in its place.
    described = Ready(writer.object(INFO, info | lists | {"unique_id": bytes(HASH_BYTES)}))
    parts = {"info": described, "paths": Ready(writer.array(directories)), "scripts": Ready(writer.object(SCRIPTS, scripts))}
    root = writer.object(PACKAGE, parts)
    data = writer.data
    data[4:8] = struct.pack("<I", root)
    place = data.index(struct.pack("B", HASH_BYTES) + bytes(HASH_BYTES)) + 1
    data[place : place + HASH_BYTES] = hashlib.sha256(data).digest()[:HASH_BYTES]
    return bytes(data), blocks


def block(kind: int, content: bytes) -> bytes:
    return struct.pack("<I", kind << 30 | len(content) + 4) + content + bytes(-(len(content) + 4) % 8)


def package(info: dict, tree: dict[str, File], scripts: dict[str, bytes], mtime: int) -> bytes:
    head, files = database(info, tree, scripts, mtime)
    plain = b"ADB.pckg" + block(ADB, head) + b"".join(block(DATA, file) for file in files)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return b"ADBd" + packer.compress(plain) + packer.flush()


class Reader:
    """Parses and verifies a package; an AssertionError shows what is wrong."""

    def __init__(self, file: bytes) -> None:
        assert file[:4] == b"ADBd", "it is not packed as packages are"
        plain = zlib.decompress(file[4:], -15)
        assert plain[:8] == b"ADB.pckg", "it is no package"
        self.files: dict[tuple[int, int], bytes] = {}
        self.data, at = b"", 8
        while at < len(plain):
            (head,) = struct.unpack_from("<I", plain, at)
            kind, size = head >> 30, head & (1 << 30) - 1
            content = plain[at + 4 : at + size]
            assert len(content) == size - 4, "a block is cut off"
            if kind == ADB:
                assert at == 8, "the database comes first"
                self.data = content
            elif kind == DATA:
                self.files[struct.unpack_from("<II", content)] = content[8:]
            at += size + -size % 8
        (root,) = struct.unpack_from("<I", self.data, 4)
        self.root = self.fields(root, PACKAGE)

    def slots(self, value: int) -> list[int]:
        at = value & (1 << 28) - 1
        assert value == 0 or (value >> 28 in (ARRAY, OBJECT) and at % 4 == 0), "there is neither an object nor an array"
        return (
            list(struct.unpack_from(f"<{struct.unpack_from('<I', self.data, at)[0] - 1}I", self.data, at + 4)) if value else []
        )

    def fields(self, value: int, names: list[str]) -> dict[str, int]:
        return {name: slot for name, slot in zip(names, self.slots(value)) if slot}

    def plain(self, value: int) -> bytes | int:
        kind, at = value >> 28, value & (1 << 28) - 1
        if kind == INT:
            return at
        if kind == INT_32:
            return struct.unpack_from("<I", self.data, at)[0]
        size = {BLOB_8: "<B", BLOB_16: "<H", BLOB_32: "<I"}[kind]
        (length,) = struct.unpack_from(size, self.data, at)
        at += struct.calcsize(size)
        assert at + length <= len(self.data), "a text is cut off"
        return self.data[at : at + length]

    def values(self, value: int, names: list[str]) -> dict[str, bytes | int]:
        return {name: self.plain(slot) for name, slot in self.fields(value, names).items()}

    def info(self) -> dict:
        fields = self.fields(self.root["info"], INFO)
        lists = {
            name: [self.values(item, DEPENDENCY) for item in self.slots(fields.pop(name))]
            for name in ("depends", "provides")
            if name in fields
        }
        return {name: self.plain(slot) for name, slot in fields.items()} | lists

    def scripts(self) -> dict[str, bytes]:
        return self.values(self.root["scripts"], SCRIPTS)

    def hash_holds(self) -> bool:
        unique = self.info()["unique_id"]
        return hashlib.sha256(self.data.replace(unique, bytes(len(unique)))).digest()[:HASH_BYTES] == unique

    def tree(self) -> dict[str, tuple[File, dict]]:
        """Yields each file with its metadata and owner."""
        found = {}
        for number, directory in enumerate(self.slots(self.root["paths"]), 1):
            parts = self.fields(directory, DIRECTORY)
            name = self.plain(parts["name"]).decode() if "name" in parts else ""
            for at, entry in enumerate(self.slots(parts.get("files", 0)), 1):
                fields = self.fields(entry, FILE)
                acl = self.values(fields.pop("acl"), ACL)
                said = {field: self.plain(slot) for field, slot in fields.items()} | acl
                data = self.files.get((number, at), b"")
                assert said.get("size", 0) == len(data), "a file has another size"
                assert said["hash"] == hashlib.sha256(data).digest(), "a file has another hash"
                found[os.path.join(name, said["name"].decode())] = File(data, said["mode"]), said
        return found
