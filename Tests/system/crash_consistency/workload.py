"""Sequences of file system operations, and what must be there after a crash at each point of them.

Every operation may be followed by a persistence call: fsync of the file (`file`), of its folder (`folder`), or `sync`.
What they promise is what ext4 and xfs keep: fsync of a file makes its data, attributes and all its names durable; fsync
of a folder makes its entries durable; sync makes everything durable.
"""
import ctypes
import os
import random

PERSISTS = ("file", "folder", "sync")
LIBC = ctypes.CDLL(None, use_errno=True)

# Each operation on the files that the setup makes (A/foo, folders A and B), or that operations before it made.
OPERATIONS = [
    ("creat", "A/bar"), ("creat", "B/bar"), ("mkdir", "A/D"), ("write", "A/bar", 6000), ("write", "B/foo", 20000),
    ("append", "A/foo", 5000), ("append", "A/bar", 3000), ("overwrite", "A/foo", 1000, 4096),
    ("truncate", "A/foo", 3000), ("truncate", "A/foo", 20000), ("rename", "A/foo", "A/baz"),
    ("rename", "A/foo", "B/foo"), ("rename", "A/bar", "A/foo"), ("link", "A/foo", "B/link"),
    ("link", "A/bar", "A/foo2"), ("unlink", "A/foo"), ("unlink", "A/bar"), ("symlink", "../A/foo", "B/sym"),
    ("fallocate", "A/foo", 0, 65536), ("fallocate", "A/bar", 4096, 20480), ("setxattr", "A/foo", "user.key"),
]


def sync_file_system(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        if LIBC.syncfs(fd):
            raise OSError(ctypes.get_errno(), "syncfs")
    finally:
        os.close(fd)


def fsync(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sequences(depth):
    """Every sequence of so many operations: each followed by any persistence call or none, the last by one."""
    def extend(start, count):
        if count == 0:
            yield start
            return
        for operation in possible(start):
            for persist in PERSISTS + ((None,) if count > 1 else ()):
                yield from extend(start + ((operation, persist),), count - 1)
    return extend((), depth)


def sample(depth, count, seed):
    """Seeded sequences of so many operations."""
    generator = random.Random(seed)
    for _ in range(count):
        sequence = ()
        for left in range(depth, 0, -1):
            persist = generator.choice(PERSISTS + ((None, None, None) if left > 1 else ()))
            sequence += ((generator.choice(possible(sequence)), persist),)
        yield sequence


def possible(start):
    """The operations that can follow a sequence."""
    model = Model()
    model.setup()
    for operation, _ in start:
        model.perform(operation)
    return [operation for operation in OPERATIONS if model.accepts(operation)]


class Node:
    """A file, folder or link of the model."""

    def __init__(self, kind):
        self.kind = kind
        self.data = bytearray()
        self.attributes = {}


class Model:
    """What the file system holds, by path; `fill` makes the bytes that operations write."""

    def __init__(self, fill=bytes):
        self.names = {}
        self.gone = {}
        self.fill = fill

    def setup(self):
        self.names = {"A": Node("folder"), "B": Node("folder"), "A/foo": Node("file")}
        self.names["A/foo"].data += self.fill(8192)

    def accepts(self, operation):
        """Whether an operation does something here."""
        kind, path = operation[:2]
        node = self.names.get(path)
        if kind in ("creat", "mkdir"):
            return node is None
        if kind == "symlink":
            return operation[2] not in self.names
        if kind == "link":
            return node is not None and operation[2] not in self.names
        if kind == "rename":
            return node is not None and self.names.get(operation[2]) is not node
        if kind == "overwrite":
            return node is not None and len(node.data) >= operation[2]
        return node is not None or kind == "write"

    def perform(self, operation):
        """Does an operation; returns the node that it is about and the bytes that it writes."""
        kind, name = operation[:2]
        node, more = self.names.get(name), b""
        if kind in ("creat", "mkdir", "write") and node is None:
            node = self.names[name] = Node("folder" if kind == "mkdir" else "file")
        if kind == "write":
            more = self.fill(operation[2])
            node.data[:] = more
        elif kind == "append":
            more = self.fill(operation[2])
            node.data += more
        elif kind == "overwrite":
            more = self.fill(operation[3])
            node.data[operation[2]:operation[2] + len(more)] = more
        elif kind == "truncate":
            node.data[operation[2]:] = bytes(max(0, operation[2] - len(node.data)))
        elif kind == "fallocate":
            node.data += bytes(max(0, operation[2] + operation[3] - len(node.data)))
        elif kind == "setxattr":
            more = node.attributes[operation[2]] = self.fill(40)
        elif kind == "symlink":
            node = self.names[operation[2]] = Node(f"symlink to {name}")
        elif kind in ("rename", "link"):
            self.names[operation[2]] = node
        if kind in ("rename", "unlink"):
            self.gone[name] = self.names.pop(name)
        return node, more


class Event:
    """An operation that began, or a persistence call that returned, at a position of the log."""

    def __init__(self, position, names=(), changed=None, renamed=None, promise=None):
        self.position = position
        self.names, self.changed = names, changed
        self.renamed = renamed
        self.promise = promise


class Promise:
    """What a persistence call made durable: names with kinds (None: absent), and nodes with all that is in them."""

    def __init__(self, names, contents):
        self.names, self.contents = names, contents


class Run:
    """Runs one sequence in a folder of its own and takes down what must be there after a crash."""

    def __init__(self, root, number, position):
        """`position` tells how many records the log has now."""
        self.folder = f"s{number}"
        self.root = os.path.join(root, self.folder)
        self.mount = root
        self.position = position
        self.model = Model(self.fresh)
        self.events = []
        self.value = number * 7 % 200
        self.values = {0}

    def path(self, name):
        return os.path.join(self.root, name)

    def fresh(self, count):
        """Bytes that no other write of the sequence has."""
        self.value = self.value % 250 + 1
        self.values.add(self.value)
        return bytes([self.value]) * count

    def setup(self):
        self.model.setup()
        for folder in ("", "A", "B"):
            os.mkdir(self.path(folder))
        with open(self.path("A/foo"), "wb") as file:
            file.write(self.model.names["A/foo"].data)
        sync_file_system(self.root)
        self.events.append(Event(self.position(), promise=self.promise("sync", None)))

    def run(self, sequence):
        for operation, persist in sequence:
            node = self.perform(operation)
            if persist:
                self.persist(persist, operation, node)

    def perform(self, operation):
        """Does an operation in the model and on the file system; returns the node that it is about."""
        assert self.model.accepts(operation), f"{operation} cannot be done"
        kind, name = operation[:2]
        position, before = self.position(), dict(self.model.names)
        node, more = self.model.perform(operation)
        self.call(operation, more)
        if kind in ("rename", "link"):
            renamed = (node, operation[2], before.get(operation[2]))
            self.events.append(Event(position, {name, operation[2]}, renamed=renamed))
        else:
            self.events.append(Event(position, {operation[2] if kind == "symlink" else name}, changed=node))
        return node

    def call(self, operation, more):
        kind, path = operation[0], self.path(operation[1])
        if kind in ("creat", "write"):
            with open(path, "wb") as file:
                file.write(more)
        elif kind == "append":
            with open(path, "ab") as file:
                file.write(more)
        elif kind == "overwrite":
            with open(path, "r+b") as file:
                file.seek(operation[2])
                file.write(more)
        elif kind == "fallocate":
            with open(path, "r+b") as file:
                os.posix_fallocate(file.fileno(), operation[2], operation[3])
        elif kind == "mkdir":
            os.mkdir(path)
        elif kind == "truncate":
            os.truncate(path, operation[2])
        elif kind == "setxattr":
            os.setxattr(path, operation[2], more)
        elif kind == "unlink":
            os.unlink(path)
        elif kind == "rename":
            os.rename(path, self.path(operation[2]))
        elif kind == "link":
            os.link(path, self.path(operation[2]))
        elif kind == "symlink":
            os.symlink(operation[1], self.path(operation[2]))
        else:
            raise ValueError(kind)

    def persist(self, how, operation, node):
        name = operation[2] if operation[0] in ("rename", "link", "symlink") else operation[1]
        folder = os.path.dirname(name)
        if how == "sync":
            sync_file_system(self.root)
        elif how == "file" and self.model.names.get(name) is node and not node.kind.startswith("symlink"):
            fsync(self.path(name))
        else:
            # What has no file to sync is made durable by its folder.
            how = "folder"
            fsync(self.path(folder))
            if operation[0] == "rename" and os.path.dirname(operation[1]) != folder:
                fsync(self.path(os.path.dirname(operation[1])))
        promise = self.promise(how, folder if how == "folder" else node)
        self.events.append(Event(self.position(), promise=promise))

    def promise(self, how, what):
        """What a persistence call made durable: of a folder by name, of a file, or (`sync`) of everything."""
        names = self.model.names
        gone = {name: node for name, node in self.model.gone.items() if name not in names}
        if how == "folder":
            kept = {name: node.kind for name, node in names.items() if os.path.dirname(name) == what}
            return Promise({**kept, **{name: None for name in gone if os.path.dirname(name) == what}}, {})
        nodes = set(names.values()) if how == "sync" else {what}
        kept = {name: node.kind for name, node in names.items() if node in nodes}
        contents = {node: (bytes(node.data), dict(node.attributes),
                           {name for name, other in names.items() if other is node})
                    for node in nodes if node.kind == "file"}
        lost = {name: None for name, node in gone.items() if how == "sync" or node is what}
        return Promise({**kept, **lost}, contents)

    def expected(self, position):
        """What must be there after a crash at a position of the log: names with kinds, and contents by node."""
        names, contents = {}, {}
        for event in self.events:
            # What begins where the crash is has no part in it; a promise that was made there holds.
            if event.position > position or (event.position == position and not event.promise):
                break
            for name in event.names:
                names.pop(name, None)
            if event.changed is not None:
                contents.pop(event.changed, None)
            if event.renamed:
                node, new, replaced = event.renamed
                contents.pop(replaced, None)
                if node in contents:
                    contents[node][2].add(new)
            if event.promise:
                names.update(event.promise.names)
                contents.update({node: (data, attributes, set(places))
                                 for node, (data, attributes, places) in event.promise.contents.items()})
        return names, contents
