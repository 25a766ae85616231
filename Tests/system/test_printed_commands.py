"""Every command line that is printed anywhere runs as it stands: documents, the help of each command, advice in messages."""
import json
import os
import re
import shlex
import signal
import subprocess

import pytest
from conftest import BINARIES, PATIENCE, ROOT, await_condition, needs_root

# Wide, so that a line that is printed whole is read whole.
WIDE = {**os.environ, "COLUMNS": "400"}


def run_help(program, path):
    # `sluice help X` exits with 0, and with another code where there is no such command.
    return subprocess.run([BINARIES / program, *path, "--help"], capture_output=True, text=True, env=WIDE, timeout=PATIENCE)


def subcommands(text):
    found, inside = [], False
    for line in text.splitlines():
        if line.rstrip(":").endswith("SUBCOMMANDS"):
            inside = True
        elif inside and (match := re.match(r"  ([a-z][a-z-]*)(?:\s|$|,)", line)):
            found.append(match[1])
        elif line.startswith("  See "):
            inside = False
    return [name for name in found if name != "help"]


def commands(program="sluice"):
    """Each command with its help."""
    waiting, known = [()], {}
    while waiting:
        path = waiting.pop()
        answer = run_help(program, path)
        assert answer.returncode == 0, (path, answer.stderr)
        known[path] = answer.stdout
        waiting += [(*path, name) for name in subcommands(answer.stdout)]
    return known


@pytest.fixture(scope="module")
def known():
    return {"sluice": commands("sluice"), "sluiced": commands("sluiced")}


def examples(text):
    """The command lines under EXAMPLE(S), whole: without remarks in brackets, with lines that go on joined."""
    lines, found = iter(text.splitlines()), []
    for line in lines:
        stripped = line.strip()
        if not re.match(r"sluiced? ", stripped):
            continue
        while stripped.endswith("\\"):
            stripped = stripped[:-1].rstrip() + " " + next(lines).strip()
        found.append(re.sub(r"\s{2,}\(.*\)?$", "", stripped))
    return found


def mentioned():
    """Command lines that sources and documents mention in passing: in quotes, in backticks, or after a colon."""
    pattern = re.compile(r"[`'](sluiced? [^`'\n]+)[`']|: (sluiced? [a-z][^`'\"\n]*)\"")
    for path in [*ROOT.glob("Sources/**/*.swift"), *ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("API/*")]:
        if not path.is_file():
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if path.suffix == ".swift" and line.lstrip().startswith("//"):
                continue
            for match in pattern.finditer(line):
                yield f"{path.relative_to(ROOT)}:{number}", match[1] or match[2]


def resolve(known, line):
    """What is wrong with a mentioned command line, or None."""
    if re.match(r"sluiced? \\\(", line):
        return None  # The command's name is made up as the program runs.
    line = re.sub(r"\\\([^()]*(\([^()]*\))?[^()]*\)", "x", line)
    try:
        words = shlex.split(line.replace("\\\"", '"').replace("…", ""), comments=False)
    except ValueError as error:
        return str(error)
    program, *words = words
    path = ()
    while words and (*path, words[0]) in known[program]:
        path = (*path, words.pop(0))
    if not path and words and not words[0].startswith("-"):
        return f"there is no command {words[0]}"
    if words and re.fullmatch("[a-z-]+", words[0]) and subcommands(known[program][path]) and path:
        return f"{' '.join(path)} has no command {words[0]}"
    for word in words:
        if word.startswith("--") and not re.search(re.escape(word.split("=")[0]) + r"(?![a-z-])", known[program][path]):
            return f"{' '.join(path)} has no option {word}"
    return None


def test_what_messages_and_documents_mention_exists(known):
    wrong = [f"{place}: {line}: {fault}" for place, line in mentioned() if (fault := resolve(known, line))]
    assert not wrong, "\n".join(wrong)
    assert len(list(mentioned())) > 25


def test_a_command_or_option_that_does_not_exist_is_found(known):
    assert resolve(known, "sluice volumes list")
    assert resolve(known, "sluice volume lsit")
    assert resolve(known, "sluice volume delete x --forse")
    assert not resolve(known, "sluice volume delete x --force")


class World:
    """A machine of its own: namespaces in which the names, addresses and folders of the documents exist."""

    def __init__(self, folder):
        self.folder = folder
        self.processes = []
        (folder / "hosts").write_text("127.0.0.1 localhost\n192.0.2.10 io.example io1.example\n192.0.2.20 io2.example\n")
        (folder / "bin").mkdir()
        for program in ("sluice", "sluiced", "sluice-driver"):
            (folder / "bin" / program).symlink_to((BINARIES / program).resolve())
        setup = " && ".join([
            "mount --make-rprivate /", f"mount --bind {folder}/hosts /etc/hosts",
            "mkdir -p /etc/sluice /var/lib/sluice", "mount -t tmpfs none /etc/sluice", "mount -t tmpfs none /srv",
            "mount -t tmpfs none /mnt", "mkdir /srv/db /srv/nvme /mnt/data",
            f"mkdir -p {folder}/data", f"mount --bind {folder}/data /var/lib/sluice",
            "ip link set lo up", "ip addr add 192.0.2.10/32 dev lo", "ip addr add 192.0.2.20/32 dev lo",
            "echo ready", "exec sleep infinity"])
        self.holder = subprocess.Popen(
            ["unshare", "--mount", "--net", "--propagation", "private", "sh", "-c", setup], stdout=subprocess.PIPE, text=True)
        assert self.holder.stdout.readline() == "ready\n"
        self.environment = {
            "PATH": f"{folder}/bin:{os.environ['PATH']}", "HOME": str(folder), "SLUICE_RUN": f"{folder}/run",
            "LANG": "C.UTF-8"}

    def popen(self, line, **more):
        command = ["nsenter", f"--mount=/proc/{self.holder.pid}/ns/mnt", f"--net=/proc/{self.holder.pid}/ns/net",
                   f"--wd={self.folder}", "bash", "-c", line]
        return subprocess.Popen(command, env={**self.environment, **more}, text=True, stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def run(self, line, check=True, timeout=120, **more):
        process = self.popen(line, **more)
        try:
            output, errors = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError(f"{line}: does not end")
        assert process.returncode == 0 or not check, f"{line}: exit {process.returncode}\n{errors}{output}"
        return output

    def start(self, line):
        """Starts what goes on until it is told to end."""
        process = self.popen("exec " + line)
        self.processes.append(process)
        return process

    def close(self):
        for process in reversed(self.processes):
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=PATIENCE)
        self.holder.kill()
        self.holder.communicate()


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    yield made
    made.close()


# The documents that print command lines, in the order of the story that they tell: each goes on from the README.
STORY = ["README.md", "docs/using.md", "docs/operating.md"]
# Building, and a switch of the whole machine: other tests do these.
RUN_ELSEWHERE = {"make", "swift", "echo"}
NODE = {"SLUICE_CREDENTIALS": "/etc/sluice"}


def documents():
    """Those of the story, and behind them whatever else is printed for people."""
    others = [str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("docs/*.md"))]
    return STORY + [name for name in others if name not in STORY]


def code_blocks(name):
    """The language of each code block, "" where it has none, with its lines."""
    text = (ROOT / name).read_text()
    return [(language, block.splitlines()) for language, block in re.findall(r"^```(\w*)\n(.*?)^```", text, re.M | re.S)]


def command_lines(name):
    """The lines of the blocks without a language, without their remarks, in order."""
    lines = [line for language, block in code_blocks(name) if not language for line in block]
    return [line for line in (re.sub(r"\s+#.*$", "", line).strip() for line in lines) if line]


def until_it_answers(world):
    await_condition("sluiced", lambda: world.run("sluice server show >&2; echo $?", check=False).strip() == "0")


def test_no_command_line_is_printed_where_none_is_run():
    for name in documents():
        for language, block in code_blocks(name):
            hidden = [line for line in block if language and re.match(r"\s*(\$ )?sluiced? [a-z]", line)]
            assert not hidden, f"{name}: a block of {language} is not run: {hidden}"


@needs_root
def test_the_documents_run_as_they_stand(world):
    token, count = None, 0
    for name in documents():
        # What goes on from the README finds no device.
        world.run("sluice detach --force volume/db; true", **NODE)
        for line in command_lines(name):
            count += 1
            token = play(world, line, token)
    world.run("sluice detach --force volume/db; true", **NODE)
    assert count > 40


def play(world, line, token):
    """Runs a line as whoever would type it; returns the newest token of a node."""
    words = line.split()
    if words[0] in RUN_ELSEWHERE:
        return token
    if line.startswith("sluiced serve"):
        world.start(line)
        world.environment["SLUICE_CREDENTIALS"] = "/var/lib/sluice/admin"
        until_it_answers(world)
    elif line.startswith("sluice node add"):
        return re.search(r"sljoin1_\S+", world.run(line))[0]
    elif words[:2] == ["sluice", "join"]:
        world.run(f"echo {token} | {line}", **NODE)
    elif words[1] in ("attach", "mount", "bench", "status", "umount", "detach") or words[1:3] in (
            ["volume", "map"], ["capability", "issue"], ["capability", "attenuate"]):
        world.run(line, **NODE)
    elif words[:3] == ["sluice", "capability", "revoke"]:
        identifier = json.loads(world.run("sluice capability list -o json"))[0]["id"]
        world.run(line.replace(" ID ", f" {identifier} "))
    elif "--follow" in line:
        following = world.popen("exec " + line)
        assert following.stdout.readline()
        following.send_signal(signal.SIGINT)
        following.communicate(timeout=PATIENCE)
    else:
        world.run(line)
    return token


# The examples of every help, in an order in which they work. A line without a mark is printed, and runs as it stands;
# `+` is a preparation; `@` runs with the node's credentials; `&` goes on until it is told to end.
PLAY = """
+ printf 'sluice:\\n  reactors: 1\\n' >/etc/sluice/sluiced.yaml
sluiced check-config --config /etc/sluice/sluiced.yaml
+ rm /etc/sluice/sluiced.yaml
sluice server show
sluice server set --add-name io2.example --add-address 192.0.2.11
sluice server set --remove-name io2.example
sluice admin add alice --out alice
sluice admin list
sluice admin show alice
sluice admin renew --credentials alice
sluice admin renew --credentials alice --new-key
sluice admin revoke alice
sluice pool create ram --driver memory --setting size=1073741824
sluice pool create raw --driver memory --setting size=1GiB --isolation inline
sluice pool create fast --driver file --setting path=/srv/nvme
sluice pool list
sluice pool show default
sluice pool restart default
+ sluice pool create test --driver fault --setting driver=memory --setting inner.size=64MiB
sluice pool set test --setting 'rules=read chance=1/500: delay 20ms'
sluice pool set test --setting rules-
sluice pool set ram --isolation inline
sluice pool set ram --when-full fail
sluice node add compute-1
@ sluice join --server https://io1.example:7480 --token token.txt
+ rm -rf /etc/sluice/*
sluice node token compute-1
@ sluice join --server https://io1.example:7480 --token -
sluice node add compute-2 --label rack=b4 -o json | jq -r .token
sluice node list
sluice node show compute-1
sluice --credentials /var/lib/sluice/admin volume create data --size 10GiB
+ sluice volume delete data --confirm data
sluice volume create data --size 10GiB
sluice volume create scratch --size 1GiB --pool ram --mode shared --label team=ml
sluice volume list
sluice volume list -o json | jq -r '.[].name'
sluice volume show data -o yaml
sluice volume resize data --size 20GiB
sluice volume resize data --size 30GiB --wait
sluice volume label data team=ml tier=gold old-
sluice volume set data --iops 5000 --bandwidth 200MiB --burst 500ms
sluice volume set data --iops none
sluice grant create c1-data --node compute-1 --resource volume/data --rights read,write,discard,flush
sluice grant create c2-head --node compute-2 --resource volume/data --rights read --range 0:1GiB --iops 1000 --expires-in 7d
+ sluice grant create c1-scratch --node compute-1 --resource volume/scratch --rights read,write,discard,flush --delegation-depth 1
sluice grant list --node compute-1
sluice grant show c1-data
@ sluice capability issue volume/data --out data.cap
sluice capability issue volume/data --rights read --lifetime 10m --node compute-1
@ sluice capability issue volume/data | sluice capability inspect -
sluice capability inspect data.cap
sluice capability attenuate data.cap --rights read --expires-in 10m
+@ rm data.cap; sluice capability issue volume/scratch --out data.cap; mkdir peer; cp /etc/sluice/cert.pem peer
sluice capability attenuate data.cap --range 0:1GiB --holder peer/cert.pem --seal
sluice capability list --node compute-1 --revoked false
sluice capability show 0123456789abcdef0123456789abcdef
@ sluice bench volume/data --rw randread --bs 4k --iodepth 32 --time 10s
@ sluice bench volume/scratch --rw randwrite --bs 64k --channels 4 --verify -o json
@ sluice bench volume/scratch --rw mixed --iodepth 64 --channels 4 --total 64MiB --force
@ sluice attach volume/data
@ sluice status
@ sluice status -o json | jq -r '.[].device'
@ sluice attach volume/data --take-over
sluice session list
sluice session show 0123456789abcdef0123456789abcdef
@ sluice detach volume/data
@& sluice attach volume/data --read-only --channels 4 --foreground
@ sluice mount volume/data /mnt/data --mkfs ext4
@ sluice umount /mnt/data
@ sluice mount volume/data /mnt/data
@ sluice umount /mnt/data
+@ sluice attach volume/data
@ sluice detach /dev/loop3
@ sluice volume map data
@ sluice volume map data --range 0:1GiB -o json | jq 'map(select(.type == "data").length) | add'
sluice volume mark data monday
@ sluice volume map data --since monday -o json | jq '.[] | select(.changed)'
sluice volume mark data tuesday && sluice volume map data --since monday
sluice volume markers data
sluice volume unmark data monday
sluice volume mode data multi-reader
sluice volume fence data --reason "compute-1 does not answer"
+@ sluice attach volume/scratch
sluice session disconnect 0123456789abcdef0123456789abcdef --reason maintenance
sluice session disconnect 0123456789abcdef0123456789abcdef --end
+@ sluice detach --force volume/scratch
sluice capability revoke 0123456789abcdef0123456789abcdef --reason "laptop lost"
sluice grant set c1-data --rights read,flush
sluice grant set c2-head --range none --iops 5000 --expires-in none
sluice grant delete c1-data
sluice driver list
sluice driver show default
sluice driver upgrade default
+ sluice pool create slow --driver fault --setting driver=file --setting 'rules=prepare: delay 300ms'
+ sluice volume create slow --size 64GiB --pool slow
sluice operation list
sluice operation show 0123456789abcdef0123456789abcdef
sluice operation cancel 0123456789abcdef0123456789abcdef
+ sluice volume create slow --size 112MiB --pool slow
sluice operation show 0123456789abcdef0123456789abcdef --wait
sluice events
sluice events --kind driver,session.lost --since 1h
sluice events --resource volume/data --since 2026-11-24T04:13:27Z
& sluice events --follow -o json
sluice server drain --timeout 600
sluice server drain --timeout 30 --redirect localhost:7482
sluice server undrain
sluice volume delete data --confirm data
sluice pool delete raw
sluice node remove compute-1
"""
# Printed, and run elsewhere in this file.
ELSEWHERE = {
    "sluiced serve --data /var/lib/sluice",
    "sluiced admin --data /var/lib/sluice --name eve --out eve",
    "sluiced init --data /var/lib/sluice --name io.example --address 192.0.2.10",
    "sluiced serve --data /var/lib/sluice --control 192.0.2.10:7480 --channel 192.0.2.10:7481"}
PLACEHOLDER = "0123456789abcdef0123456789abcdef"


def scenes():
    for line in PLAY.strip().splitlines():
        marks, _, command = line.partition(" ") if line[0] in "+@&" else ("", "", line)
        yield marks, command


def test_every_example_of_a_help_is_played(known):
    printed = {line for program in known.values() for text in program.values() for line in examples(text)}
    played = {command for marks, command in scenes() if "+" not in marks} | ELSEWHERE
    normal = {re.sub(r"\s+", " ", line) for line in printed}
    assert normal - played == set()
    assert played - normal == set()


def identifier(world, command):
    kind = command.split()[1]
    listed = json.loads(world.run(f"sluice {kind} list -o json"))
    return next(item["id"] for item in listed if not (item.get("revokedAt") or item.get("endedAt")))


@needs_root
def test_the_examples_of_every_help_run_as_they_stand(world):
    world.run("sluiced init --data /var/lib/sluice --name io.example --address 192.0.2.10 --address io1.example")
    world.run("sluiced admin --data /var/lib/sluice --name eve --out eve")
    world.start("sluiced serve --data /var/lib/sluice --control 192.0.2.10:7480 --channel 192.0.2.10:7481")
    world.environment.update(SLUICE_CREDENTIALS="/var/lib/sluice/admin", SLUICE_SERVER="https://io.example:7480")
    until_it_answers(world)
    for marks, command in scenes():
        more = {"SLUICE_CREDENTIALS": "/etc/sluice"} if "@" in marks else {}
        if PLACEHOLDER in command:
            command = command.replace(PLACEHOLDER, identifier(world, command))
        if command.endswith("--token -"):
            command += " <token.txt"
        if "/dev/loop" in command:
            device = json.loads(world.run("sluice status -o json"))[0]["device"]
            command = re.sub(r"/dev/loop\d+", device, command)
        if "volume map data --since" in command and not more:
            # Two commands, of an administrator on the server and of a node.
            command = command.replace("&& ", "&& SLUICE_CREDENTIALS=/etc/sluice ")
        if "&" in marks:
            going = world.popen("exec " + command, **more)
            assert going.stdout.readline()
            going.send_signal(signal.SIGINT)
            going.communicate(timeout=PATIENCE)
            continue
        output = world.run(command, **more)
        if found := re.search(r"sljoin1_\S+", output):
            (world.folder / "token.txt").write_text(found[0])
