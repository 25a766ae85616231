"""Mounts what a crash left, as the next start would, and says what is not as it must be."""
import os
import stat
import subprocess

MKFS = {
    "ext4": ["mkfs.ext4", "-q", "-b", "4096", "-E", "lazy_itable_init=0,lazy_journal_init=0"],
    "xfs": ["mkfs.xfs", "-q"],
}
FSCK = {"ext4": ["e2fsck", "-fn"], "xfs": ["xfs_repair", "-n"]}
OPTIONS = {"ext4": "loop", "xfs": "loop,nouuid"}
SIZE = {"ext4": 64 << 20, "xfs": 320 << 20}


def run(*command):
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return None if result.returncode == 0 else f"{command[0]}: {(result.stdout + result.stderr).strip()}"


class Checker:
    """Judges disks of one kind of file system, one at a time."""

    def __init__(self, kind, folder):
        self.kind = kind
        self.image = os.path.join(folder, "crashed.img")
        self.mount = os.path.join(folder, "crashed")
        os.makedirs(self.mount, exist_ok=True)
        self.checked = 0

    def objections(self, disk, workload, position):
        """What is wrong with a disk that a crash left at a position of the log; empty when all is well."""
        self.checked += 1
        disk.save(self.image, SIZE[self.kind])
        problem = run("mount", "-t", self.kind, "-o", OPTIONS[self.kind], self.image, self.mount)
        if problem:
            return [problem]
        try:
            found = list(self.compare(workload, position))
        finally:
            problem = run("umount", self.mount)
        if problem:
            return found + [problem]
        problem = run(*FSCK[self.kind], self.image)
        return found + ([problem] if problem else [])

    def compare(self, workload, position):
        root = os.path.join(self.mount, workload.folder)
        names, contents = workload.expected(position)
        for name, kind in sorted(names.items()):
            have = self.kind_of(os.path.join(root, name))
            if have != kind:
                yield f"{name} is {have or 'absent'} and must be {kind or 'absent'}"
        for node, (data, attributes, places) in contents.items():
            problems = [self.differs(os.path.join(root, name), data, attributes) for name in sorted(places)]
            if all(problems):
                yield "; ".join(problems)
        for folder, _, files in os.walk(root):
            for name in files:
                path = os.path.join(folder, name)
                if stat.S_ISREG(os.lstat(path).st_mode):
                    strange = set(self.content(path)) - workload.values
                    if strange:
                        yield f"{name} has bytes that nobody wrote into it: {sorted(strange)[:4]}"

    @staticmethod
    def kind_of(path):
        try:
            mode = os.lstat(path).st_mode
        except FileNotFoundError:
            return None
        if stat.S_ISLNK(mode):
            return f"symlink to {os.readlink(path)}"
        return "folder" if stat.S_ISDIR(mode) else "file"

    @staticmethod
    def content(path):
        with open(path, "rb") as file:
            return file.read()

    def differs(self, path, data, attributes):
        """What a file has otherwise than it must; None when it is right."""
        if self.kind_of(path) != "file":
            return f"{path} is not there"
        content = self.content(path)
        if content != data:
            return f"{path} has {len(content)} bytes of {set(content)} and must have {len(data)} of {set(data)}"
        found = {name: os.getxattr(path, name) for name in os.listxattr(path) if name.startswith("user.")}
        return None if found == attributes else f"{path} has the attributes {found} and must have {attributes}"
