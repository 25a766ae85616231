"""What the benchmarks share: processes, waiting, CPU time, and a server with volumes in memory."""
import argparse
import atexit
import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "Tests/system"))
from activation import HeldSockets  # noqa: E402

BINARIES = pathlib.Path(os.environ.get("SLUICE_BIN", ROOT / ".build/release"))
PATIENCE = 20
FUSE_RING = pathlib.Path("/sys/module/fuse/parameters/enable_uring")


def run(*command, **options):
    result = subprocess.run([str(part) for part in command], text=True, capture_output=True, **options)
    if result.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}: exit {result.returncode}\n{result.stdout}{result.stderr}")
    return result


@contextlib.contextmanager
def fuse_ring(is_wanted):
    """Whether the kernel offers to send FUSE's requests through io_uring; as it was before, afterwards."""
    if not FUSE_RING.exists():
        yield
        return
    before = FUSE_RING.read_text()
    FUSE_RING.write_text("Y" if is_wanted else "N")
    try:
        yield
    finally:
        FUSE_RING.write_text(before)


def enter_namespace(kind):
    """Goes on in a child that has a namespace of its own; a `kind` of unshare(1): mount, net. Needs root."""
    mark = "SLUICE_BENCH_NAMESPACE"
    if os.environ.get(mark) != str(os.getppid()):
        os.environ[mark] = str(os.getpid())
        raise SystemExit(subprocess.run(["unshare", f"--{kind}", sys.executable, *sys.argv]).returncode)


def threads(pid):
    return [int(folder.name) for folder in pathlib.Path(f"/proc/{pid}/task").iterdir()]


def pin(pid, cpus):
    """Has all threads of a process run on these CPUs only."""
    for thread in threads(pid):
        os.sched_setaffinity(thread, cpus)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def await_condition(what, condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"gave up waiting for {what}")
        time.sleep(0.05)


def accepts(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def running_server(**settings):
    """A server in a temporary folder, which goes with it."""
    with tempfile.TemporaryDirectory(prefix="sluice-bench.") as folder:
        server = Server(pathlib.Path(folder), **settings)
        try:
            yield server
        finally:
            server.stop()


def command_line(document, **numbers):
    """The command line of a benchmark: numbers with their defaults, and where the figures go."""
    parser = argparse.ArgumentParser(description=document.splitlines()[0])
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", type=pathlib.Path)
    return parser.parse_args()


def save(figures, path):
    """Writes the figures where the command line said, if it did."""
    if path:
        path.write_text(json.dumps(figures, indent=2))


class CPUTime:
    """CPU seconds of one process, from /proc."""

    def __init__(self, pid):
        self.pid = pid
        self.path = f"/proc/{pid}/stat"

    def seconds(self):
        fields = pathlib.Path(self.path).read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def requests(url, credentials, count, *options):
    """Makes requests of one kind of the control API, 100 at once on one connection, and returns what nghttp says."""
    result = run("nghttp", "--null-out", "--no-dep", "--multiply", count, f"--cert={credentials / 'cert.pem'}",
                 f"--key={credentials / 'key.pem'}", *options, url, timeout=900)
    # Of answers it says nothing unless it is asked to, and its exit status is 0 whatever they were.
    if "not processed" in result.stdout + result.stderr:
        raise SystemExit(f"{url}: {result.stdout}{result.stderr}")
    return result.stdout


class HugePages:
    """Pages of 2 MiB that the kernel holds ready until they are given back, at the latest when this program ends."""

    count = pathlib.Path("/proc/sys/vm/nr_hugepages")

    def __init__(self, size):
        self.before = int(self.count.read_text())
        wanted = self.before + -(-size // (2 << 20))
        atexit.register(self.give_back)
        self.count.write_text(str(wanted))
        if int(self.count.read_text()) < wanted:
            raise SystemExit(f"{wanted} huge pages are more than the kernel finds")

    def give_back(self):
        self.count.write_text(str(self.before))
        atexit.unregister(self.give_back)


class SystemCalls:
    """Counts the system calls of processes, with perf, which needs root."""

    is_possible = bool(shutil.which("perf")) and os.geteuid() == 0

    def __init__(self, pids):
        self.perf = subprocess.Popen(
            ["perf", "stat", "--field-separator=,", "--event=raw_syscalls:sys_enter",
             f"--pid={','.join(map(str, pids))}"], stderr=subprocess.PIPE, text=True)

    def end(self):
        """How many there were."""
        self.perf.send_signal(signal.SIGINT)
        lines = self.perf.communicate(timeout=PATIENCE)[1].splitlines()
        return next(int(line.split(",")[0]) for line in lines if "raw_syscalls" in line)


class CopyTime:
    """How long processes copy bytes, in their own code and in the kernel's, by samples of perf, which needs root."""

    is_possible = SystemCalls.is_possible
    COPY = re.compile(r"mem(cpy|move)|copy_(to|from)_(iter|user)|_copy_user|rep_movs|copy_page|copy_mc")

    def __init__(self, pids, folder):
        self.data = folder / "samples"
        self.perf = subprocess.Popen(
            ["perf", "record", "--quiet", "--event=cpu-clock", "--freq=2999", f"--pid={','.join(map(str, pids))}",
             f"--output={self.data}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def end(self):
        """Seconds."""
        self.perf.send_signal(signal.SIGINT)
        self.perf.wait(PATIENCE)
        report = run("perf", "report", f"--input={self.data}", "--no-children", "--fields=period,symbol", "--stdio",
                     "--field-separator=;").stdout
        self.data.unlink()
        rows = (line.split(";", 1) for line in report.splitlines() if line.strip() and not line.startswith("#"))
        return sum(int(period) for period, symbol in rows if self.COPY.search(symbol)) / 1e9


class Server:
    """`sluiced` in a folder of its own, with an administrator and a node `bench`."""

    def __init__(self, folder, address="127.0.0.1", holds_sockets=False, binaries=BINARIES, **settings):
        self.folder, self.binaries = folder, binaries
        # Other binaries may be of a time when nobody was asked.
        asks = "--force" in run(binaries / "sluice", "bench", "--help").stdout
        self.over_data = ["--force"] if asks else []
        # As the .socket units of Deploy/systemd.
        self.sockets = HeldSockets(control=f"{address}:0", data=f"{address}:0") if holds_sockets else None
        self.environment = {**os.environ, "SLUICE_RUN": str(folder / "run"), **settings}
        self.data = folder / "server"
        self.control = self.channel = f"{address}:0"
        run(self.binaries / "sluiced", "init", "--data", self.data, "--name", "localhost", "--address", address)
        self.start()
        self.environment["SLUICE_SERVER"] = f"https://{self.control}"
        self.node = self.join("bench")

    def join(self, name):
        """The credentials of a node."""
        folder = self.folder / f"node-{name}"
        token = json.loads(self.admin("node", "add", name, "-o", "json"))["token"]
        run(self.binaries / "sluice", "join", "--server", self.environment["SLUICE_SERVER"], "--token", token,
            "--credentials", folder)
        return folder

    def start(self):
        """Starts the process, again where it was before."""
        endpoints = self.data / "run/endpoints.json"
        endpoints.unlink(missing_ok=True)
        command = [str(self.binaries / "sluiced"), "serve", "--data", self.data, "--control", self.control,
                   "--channel", self.channel, *os.environ.get("SLUICE_SERVE_OPTIONS", "").split()]
        output = {"stdout": (self.folder / "sluiced.log").open("a"), "stderr": subprocess.STDOUT}
        self.process = (self.sockets.popen(command, self.environment, **output) if self.sockets
                        else subprocess.Popen(command, env=self.environment, **output))
        await_condition("sluiced", endpoints.exists)
        bound = json.loads(endpoints.read_text())
        self.control, self.channel = bound["control"][0], bound["channel"][0]
        self.cpu = CPUTime(self.process.pid)

    def admin(self, *arguments):
        return self.cli(self.data / "admin", *arguments)

    def cli(self, credentials, *arguments):
        return run(self.binaries / "sluice", "--credentials", credentials, *arguments, env=self.environment).stdout

    def volume(self, name, size, pool, *pool_options):
        """A volume that the node may use, in a pool of its own."""
        self.admin("pool", "create", pool, *pool_options)
        self.further_volume(name, size, pool)

    def further_volume(self, name, size, pool):
        """Another volume that the node may use, in a pool that exists."""
        self.admin("volume", "create", name, "--size", str(size), "--pool", pool)
        self.admin("grant", "create", f"bench-{name}", "--node", "bench", "--resource", f"volume/{name}",
                   "--rights", "read,write,discard,flush")

    def bench(self, volume, *arguments):
        """The report of `sluice bench`."""
        return json.loads(self.cli(self.node, "bench", f"volume/{volume}", *self.over_data, *arguments, "-o", "json"))

    def start_bench(self, volume, *arguments):
        """`sluice bench` in the background."""
        command = [self.binaries / "sluice", "--credentials", self.node, "bench", f"volume/{volume}", *self.over_data,
                   *arguments, "-o", "json"]
        return subprocess.Popen([str(part) for part in command], env=self.environment, stdout=subprocess.PIPE, text=True)

    def driver(self, pool):
        """What the API says of a pool's driver."""
        return json.loads(self.admin("driver", "show", pool, "-o", "json"))

    def stop(self):
        self.process.terminate()
        self.process.wait(PATIENCE)
