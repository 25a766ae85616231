"""Whom Sluice is measured against: each a server on loopback with one volume in memory, and its own load generator.

A peer has `name`, `cpus` (the clocks of its server's processes) and `measure(workload)`, which returns a `Result`.
"""
import dataclasses
import json
import os
import pathlib
import shutil
import subprocess

from rig import PATIENCE, CPUTime, Server, accepts, await_condition, free_port, run

HERE = pathlib.Path(__file__).resolve().parent
NOBODY = 65534


@dataclasses.dataclass(frozen=True)
class Workload:
    """One cell of the table."""
    rw: str
    block_size: int
    depth: int
    channels: int = 1
    read_percent: int = 70

    @property
    def name(self):
        size = f"{self.block_size >> 10}k" if self.block_size < 1 << 20 else f"{self.block_size >> 20}m"
        channels = f" x{self.channels}" if self.channels > 1 else ""
        return f"{self.rw} {size} depth {self.depth}{channels}"


@dataclasses.dataclass
class Result:
    """What one run did: operations, how long it took, CPU seconds of each side, and how long half of the operations took
    at most, where the load generator says."""
    operations: int
    seconds: float
    server_cpu: float = 0
    client_cpu: float = 0
    median_microseconds: float | None = None

    @property
    def iops(self):
        return self.operations / self.seconds


class Certificates:
    """A CA, a server's and a client's certificate in a folder, under the names that nbdkit and QEMU look for."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()

        def certtool(*arguments):
            run("certtool", *arguments, cwd=folder)

        (folder / "ca.info").write_text("cn=bench\nca\ncert_signing_key\nexpiration_days=2\n")
        certtool("--generate-privkey", "--key-type=ecdsa", "--outfile", "ca-key.pem")
        certtool("--generate-self-signed", "--load-privkey", "ca-key.pem", "--template", "ca.info",
                 "--outfile", "ca-cert.pem")
        (folder / "peer.info").write_text(
            "cn=localhost\ndns_name=localhost\nip_address=127.0.0.1\ntls_www_server\ntls_www_client\n"
            "signing_key\nexpiration_days=2\n")
        for peer in ("server", "client"):
            certtool("--generate-privkey", "--key-type=ecdsa", "--outfile", f"{peer}-key.pem")
            certtool("--generate-certificate", "--load-ca-certificate", "ca-cert.pem", "--load-ca-privkey",
                     "ca-key.pem", "--load-privkey", f"{peer}-key.pem", "--template", "peer.info",
                     "--outfile", f"{peer}-cert.pem")
        # libnbd finds a client's certificates below HOME, but never for root.
        self.home = folder / "home"
        pki = self.home / ".pki/libnbd"
        pki.mkdir(parents=True)
        for name in ("ca-cert.pem", "client-cert.pem", "client-key.pem"):
            shutil.copy(folder / name, pki / name)
        if os.geteuid() == 0:
            for path in (self.home, *self.home.rglob("*")):
                os.chown(path, NOBODY, NOBODY)


class FioOverNBD:
    """Anything that speaks NBD, loaded by fio's nbd engine."""

    tools = ("fio", "certtool")
    needs_tls = True

    def __init__(self, folder, size, certificates):
        self.certificates, self.size = certificates, size
        self.port = free_port()
        self.process = subprocess.Popen(self.command(folder), stdout=subprocess.DEVNULL)
        await_condition(self.name, lambda: accepts(self.port))
        self.cpus = [CPUTime(self.process.pid)]
        # Of what was never written, some send no byte.
        self.fio("write", "--bs=1m", "--iodepth=8")

    def command(self, folder):
        raise NotImplementedError

    export = ""

    def fio(self, rw, *options, patience=60):
        """The report of one job."""
        as_user = ["setpriv", f"--reuid={NOBODY}", "--clear-groups"] if os.geteuid() == 0 else []
        scheme = "nbds" if self.needs_tls else "nbd"
        result = run(
            *as_user, "fio", "--name=bench", "--ioengine=nbd",
            f"--uri={scheme}://localhost:{self.port}/{self.export}", f"--rw={rw}", *options, "--group_reporting",
            "--output-format=json", timeout=patience, cwd=self.certificates.home,
            env={**os.environ, "HOME": str(self.certificates.home)})
        job = json.loads(result.stdout[result.stdout.index("{"):])["jobs"][0]
        if job["error"] or not job["read"]["total_ios"] + job["write"]["total_ios"]:
            raise SystemExit(f"fio failed: {result.stdout}")
        return job

    def measure(self, workload, seconds):
        mix = [f"--rwmixread={workload.read_percent}"] if workload.rw == "randrw" else []
        before = sum(clock.seconds() for clock in self.cpus)
        job = self.fio(workload.rw, *mix, f"--bs={workload.block_size}", f"--iodepth={workload.depth}",
                       f"--numjobs={workload.channels}", "--time_based", f"--runtime={seconds}", patience=seconds + 60)
        operations = job["read"]["total_ios"] + job["write"]["total_ios"]
        elapsed = max(job["read"]["runtime"], job["write"]["runtime"]) / 1e3
        client = (job["usr_cpu"] + job["sys_cpu"]) / 100 * job["job_runtime"] / 1e3
        # Of reads and writes together it knows none.
        medians = [job[kind]["clat_ns"]["percentile"]["50.000000"] / 1e3 for kind in ("read", "write")
                   if job[kind]["total_ios"]]
        return Result(operations, elapsed, sum(clock.seconds() for clock in self.cpus) - before, client,
                      medians[0] if len(medians) == 1 else None)

    def stop(self):
        self.process.terminate()
        self.process.wait(PATIENCE)


class NBDKit(FioOverNBD):
    """nbdkit's memory plugin over TLS with client certificates."""

    name = "nbdkit TLS"
    tools = (*FioOverNBD.tools, "nbdkit")

    def command(self, folder):
        tls = ["--tls=require", f"--tls-certificates={self.certificates.folder}", "--tls-verify-peer"]
        return ["nbdkit", "-f", "-i", "127.0.0.1", "-p", str(self.port), *(tls if self.needs_tls else []),
                "memory", str(self.size)]


class NBDKitClear(NBDKit):
    """nbdkit's memory plugin in clear text."""

    name = "nbdkit clear"
    needs_tls = False


class StorageDaemon(FioOverNBD):
    """qemu-storage-daemon over TLS with client certificates; its volume is a file in memory."""

    name = "qemu-storage-daemon TLS"
    tools = (*FioOverNBD.tools, "qemu-storage-daemon")
    export = "disk"

    def command(self, folder):
        self.image = pathlib.Path("/dev/shm") / f"sluice-bench-{self.port}"
        with self.image.open("wb") as file:
            file.truncate(self.size)
        tls = ["--object", f"tls-creds-x509,id=tls,dir={self.certificates.folder},endpoint=server,verify-peer=on"]
        server = f"addr.type=inet,addr.host=127.0.0.1,addr.port={self.port}" + (",tls-creds=tls" if self.needs_tls else "")
        return ["qemu-storage-daemon", *(tls if self.needs_tls else []),
                "--blockdev", f"driver=file,node-name=disk,filename={self.image},discard=unmap",
                "--nbd-server", server + ",max-connections=0",
                "--export", "type=nbd,id=export,node-name=disk,name=disk,writable=on"]

    def stop(self):
        super().stop()
        self.image.unlink()


class StorageDaemonClear(StorageDaemon):
    """qemu-storage-daemon in clear text."""

    name = "qemu-storage-daemon clear"
    needs_tls = False


class Echo:
    """A bare echo of the same bytes over TLS: nothing but frames. Answers reads only."""

    name = "bare TLS echo"
    tools = ("cc",)
    uses_tls = True
    build = ()

    def __init__(self, folder, size, certificates):
        self.program = folder / "echo"
        run("cc", "-O2", "-o", self.program, HERE / "echo.c", *self.build, "-lssl", "-lcrypto")
        port_file = folder / "port"
        keys = [certificates.folder / "server-cert.pem", certificates.folder / "server-key.pem"]
        self.process = subprocess.Popen([self.program, "serve", port_file, *(keys if self.uses_tls else [])])
        await_condition("the echo", lambda: port_file.exists() and port_file.read_text().endswith("\n"))
        self.port = port_file.read_text().strip()
        self.cpus = [CPUTime(self.process.pid)]

    def measure(self, workload, seconds):
        if workload.rw not in ("randread", "read") or workload.channels > 1:
            return None
        before = self.cpus[0].seconds()
        report = json.loads(run(
            self.program, "load", self.port, seconds, workload.depth, workload.block_size,
            "tls" if self.uses_tls else "clear", timeout=seconds + 60).stdout)
        return Result(report["operations"], report["seconds"], self.cpus[0].seconds() - before, report["cpu"])

    def stop(self):
        self.process.terminate()
        self.process.wait(PATIENCE)


class EchoTuned(Echo):
    """The bare echo with records by intel-ipsec-mb, as Sluice's are."""

    name = "bare TLS echo, tuned as ours"
    build = ("-DMULTI_BUFFER", "-lIPSec_MB")


class EchoClear(Echo):
    """The bare echo in clear text."""

    name = "bare echo clear"
    uses_tls = False


class Sluice:
    """sluiced, driver isolated, one reactor, driven by `sluice bench`; always TLS."""

    name = "sluice"
    tools = ()
    isolation = "isolated"
    reactors = 1
    driver = "memory"
    settings = ()
    server_settings = {}
    bench_options = ()

    def __init__(self, folder, size, certificates):
        self.server = Server(folder, SLUICE_REACTORS=str(self.reactors), **self.server_settings)
        settings = [part for setting in self.settings for part in ("--setting", setting)]
        if self.driver == "memory":
            settings += ["--setting", f"size={size}"]
        self.server.volume("bench", size, "bench", "--driver", self.driver, "--isolation", self.isolation, *settings)
        self.cpus = [self.server.cpu]
        if self.isolation == "isolated":
            report = json.loads(self.server.admin("driver", "show", "bench", "-o", "json"))
            self.cpus.append(CPUTime(report["pid"]))
        # Nothing is measured on space that was never written.
        self.server.bench("bench", "--rw", "write", "--bs", "1m", "--iodepth", 8, "--total", size, "--time", 60)

    def measure(self, workload, seconds):
        mix = ["--read-percent", workload.read_percent] if workload.rw == "randrw" else []
        before = sum(clock.seconds() for clock in self.cpus)
        used = os.times()
        report = self.server.bench(
            "bench", "--rw", workload.rw, *mix, "--bs", workload.block_size, "--iodepth", workload.depth,
            "--channels", workload.channels, "--time", seconds, *self.bench_options)
        client = os.times()
        operations = sum(report[kind]["operations"] for kind in ("read", "write") if report.get(kind))
        iops = sum(report[kind]["iops"] for kind in ("read", "write") if report.get(kind))
        return Result(
            operations, operations / iops, sum(clock.seconds() for clock in self.cpus) - before,
            client.children_user + client.children_system - used.children_user - used.children_system,
            report["latency"]["p50"])

    def stop(self):
        self.server.stop()


class SluicePolling(Sluice):
    """The client, too, looks for work before it sleeps."""

    name = "sluice, client polls too"
    bench_options = ("--poll", 50)


class SluiceSleeping(Sluice):
    """Nobody looks for work before sleeping."""

    name = "sluice, nobody polls"
    server_settings = {"SLUICE_POLL": "0"}


class SluiceInline(Sluice):
    """The driver in the server's own process."""

    name = "sluice inline"
    isolation = "inline"


class SluiceTwoReactors(Sluice):
    """Two reactors, which matter from two channels on."""

    name = "sluice 2 reactors"
    reactors = 2


class SluiceDirect(Sluice):
    """A file on this machine's disk, direct I/O."""

    name = "sluice file direct"
    driver = "file"


class SluiceBuffered(Sluice):
    """A file on this machine's disk through the page cache."""

    name = "sluice file buffered"
    driver = "file"
    settings = ("direct=false",)


ALL = (Sluice, SluicePolling, SluiceSleeping, SluiceInline, SluiceTwoReactors, SluiceDirect, SluiceBuffered, NBDKit,
       NBDKitClear, StorageDaemon, StorageDaemonClear, Echo, EchoTuned, EchoClear)
