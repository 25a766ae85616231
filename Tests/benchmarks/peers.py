"""Whom Sluice is measured against: each a server on loopback with one volume in memory, and its own load generator.

A peer has `name`, `cpus` (the clocks of its server's processes) and `measure(workload)`, which returns a `Result`.
"""
import base64
import dataclasses
import json
import os
import pathlib
import re
import shutil
import subprocess
import zlib

from rig import PATIENCE, CPUTime, HugePages, Server, accepts, await_condition, free_port, fuse_ring, run

HERE = pathlib.Path(__file__).resolve().parent
NOBODY = 65534
CPUS = sorted(os.sched_getaffinity(0))


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


class Fio:
    """Whatever fio can load by itself."""

    tools = ("fio",)

    def command(self):
        """fio, as whoever runs it, and what says where the bytes are."""
        raise NotImplementedError

    def fio(self, rw, *options, patience=60, **place):
        """The report of one job."""
        result = run(*self.command(), "--name=bench", f"--rw={rw}", *options, "--group_reporting", "--output-format=json",
                     timeout=patience, **place)
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


class FioOverNBD(Fio):
    """Anything that speaks NBD, loaded by fio's nbd engine."""

    tools = ("fio", "certtool")
    needs_tls = True

    def __init__(self, folder, size, certificates):
        self.certificates, self.size = certificates, size
        self.port = free_port()
        self.process = subprocess.Popen(self.server_command(folder), stdout=subprocess.DEVNULL)
        await_condition(self.name, lambda: accepts(self.port))
        self.cpus = [CPUTime(self.process.pid)]
        # Of what was never written, some send no byte.
        self.fio("write", "--bs=1m", "--iodepth=8")

    def server_command(self, folder):
        raise NotImplementedError

    export = ""

    def command(self):
        as_user = ["setpriv", f"--reuid={NOBODY}", "--clear-groups"] if os.geteuid() == 0 else []
        scheme = "nbds" if self.needs_tls else "nbd"
        return [*as_user, "fio", "--ioengine=nbd", f"--uri={scheme}://localhost:{self.port}/{self.export}"]

    def fio(self, rw, *options, patience=60):
        home = self.certificates.home
        return super().fio(rw, *options, patience=patience, cwd=home, env={**os.environ, "HOME": str(home)})

    def stop(self):
        self.process.terminate()
        self.process.wait(PATIENCE)


class NBDKit(FioOverNBD):
    """nbdkit's memory plugin over TLS with client certificates."""

    name = "nbdkit TLS"
    tools = (*FioOverNBD.tools, "nbdkit")

    def server_command(self, folder):
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

    def server_command(self, folder):
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


class LocalDirect(Fio):
    """fio alone, on a file where Sluice has its own: what the disk and the kernel can do, direct I/O."""

    name = "local fio direct"
    is_direct = 1
    cpus = ()

    def __init__(self, folder, size, certificates):
        self.file = folder / "file"
        self.size = size
        self.fio("write", "--bs=1m", "--iodepth=8")

    def command(self):
        # fio throws a file out of the page cache first, unless told not to.
        return ["fio", "--ioengine=io_uring", f"--direct={self.is_direct}", "--invalidate=0", f"--filename={self.file}",
                f"--size={self.size}"]

    def stop(self):
        self.file.unlink()


class LocalBuffered(LocalDirect):
    """The same through the page cache."""

    name = "local fio buffered"
    is_direct = 0


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


class SPDKClear:
    """SPDK's NVMe/TCP target in clear text with a malloc bdev, loaded by its spdk_nvme_perf.

    Both poll all the time, so each keeps to a CPU: the target to the last, the load generator to the first, and `--apart`
    changes nothing. One CPU for the target is what Sluice's one reactor has; the driver host, which Sluice has besides,
    shares the two with server and client where there are no more. What the table says of CPU is a whole one for each side,
    divided by I/Os. Who polls loses more than who sleeps where the machine has other work, too: the median latency is the
    figure to compare then, not IOPS.
    """

    name = "SPDK clear"
    tools = ()
    uses_tls = False
    tree = os.environ.get("SPDK")
    target = "nqn.2016-06.io.spdk:bench"
    host = "nqn.2016-06.io.spdk:bench-host"
    # Besides the volume: buffers of both processes, twice the 400 MiB that we saw.
    memory = 800 << 20
    # Without an ID SPDK wants a file system of huge pages; with it, nothing is shared all the same.
    options = ("-i", "0", "--env-context=--in-memory")

    @classmethod
    def obstacle(cls):
        """Why it cannot be measured here; None where it can."""
        if not cls.tree:
            return "the environment variable SPDK names no built tree of it"
        for path in ("bin/nvmf_tgt", "bin/spdk_nvme_perf", "examples/bdevperf"):
            if not cls.program(path).exists():
                return f"{cls.program(path)} is not built"
        return None if os.geteuid() == 0 else "its huge pages are root's to give"

    @classmethod
    def program(cls, path):
        return pathlib.Path(cls.tree, "build", path)

    def __init__(self, folder, size, certificates):
        self.folder, self.size, self.port = folder, size, free_port()
        self.environment = {**os.environ, "RUNTIME_DIRECTORY": str(folder)}
        self.psk = folder / "psk"
        self.psk.touch(0o600)
        self.psk.write_text(interchange_key(os.urandom(32)))
        self.pages = HugePages(size + self.memory)
        log = folder / "target.log"
        with log.open("w") as output:
            self.process = subprocess.Popen(
                self.application("bin/nvmf_tgt", CPUS[-1], self.served()), env=self.environment, stdout=output,
                stderr=output)

        def is_up():
            if self.process.poll() is not None:
                raise SystemExit(f"{self.name} does not start: {log.read_text()}")
            return accepts(self.port)

        await_condition(self.name, is_up)
        self.cpus = [CPUTime(self.process.pid)]

    def application(self, program, cpu, subsystems):
        """The command line of a program of SPDK's application framework, which does `subsystems` when it starts."""
        path = self.folder / f"{pathlib.Path(program).name}.json"
        path.write_text(json.dumps({"subsystems": [
            {"subsystem": name, "config": [{"method": method, "params": parameters} for method, parameters in calls]}
            for name, calls in (*self.common(), *subsystems)]}))
        return [self.program(program), f"--cpumask=[{cpu}]", "--disable-cpumask-locks", "--no-pci", "--no-rpc-server",
                "--num-trace-entries=0", *self.options, f"--config={path}"]

    def common(self):
        """What both processes of TLS are told first. The buffers are those that SPDK gives sockets in clear text: with
        the 4 KiB that it gives others, 128 KiB cross 24 times a second."""
        if not self.uses_tls:
            return ()
        return (("sock", [("sock_impl_set_options", {
                    "impl_name": "ssl", "tls_version": 13, "recv_buf_size": 2 << 20, "send_buf_size": 2 << 20})]),
                ("keyring", [("keyring_file_add_key", {"name": "psk", "path": str(self.psk)})]))

    @property
    def address(self):
        return {"trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": str(self.port)}

    def served(self):
        """The target's volume, for any host in clear text and for one that has the key over TLS."""
        host = [("nvmf_subsystem_add_host", {"nqn": self.target, "host": self.host, "psk": "psk"})]
        return (
            ("bdev", [("bdev_malloc_create", {"name": "bench", "num_blocks": self.size >> 12, "block_size": 1 << 12})]),
            ("nvmf", [
                # Depth 128 takes a queue of more.
                ("nvmf_create_transport", {"trtype": "TCP", "max_queue_depth": 256, "max_io_size": 1 << 20}),
                ("nvmf_create_subsystem", {"nqn": self.target, "allow_any_host": not self.uses_tls}),
                ("nvmf_subsystem_add_ns", {"nqn": self.target, "namespace": {"bdev_name": "bench"}}),
                *(host if self.uses_tls else []),
                ("nvmf_subsystem_add_listener", {
                    "nqn": self.target, "listen_address": self.address, "secure_channel": self.uses_tls})]))

    def loader(self, channels):
        """The command line of the load generator but for the load; None where it has not that many channels."""
        where = " ".join(f"{key}:{value}" for key, value in (*self.address.items(), ("subnqn", self.target)))
        return [self.program("bin/spdk_nvme_perf"), "-c", f"[{CPUS[0]}]", "-L", "-P", channels, *self.options, "-r", where]

    def measure(self, workload, seconds):
        loader = self.loader(workload.channels)
        if not loader:
            return None
        mix = ["-M", workload.read_percent] if workload.rw == "randrw" else []
        before, used = self.cpus[0].seconds(), os.times()
        output = run(*loader, "-w", workload.rw, *mix, "-o", workload.block_size, "-q",
                     workload.depth * workload.channels, "-t", seconds, env=self.environment, timeout=seconds + 60).stdout
        client = os.times()
        iops = re.search(r"^ *Total *: *([\d.]+)", output, re.MULTILINE)
        median = re.search(r"\b50\.00000% : *([\d.]+)us", output)
        if not iops or not float(iops[1]):
            raise SystemExit(f"{self.name} did nothing: {output}")
        return Result(
            float(iops[1]) * seconds, seconds, self.cpus[0].seconds() - before,
            client.children_user + client.children_system - used.children_user - used.children_system, float(median[1]))

    def stop(self):
        self.process.terminate()
        self.process.wait(PATIENCE)
        self.pages.give_back()


class SPDKTLS(SPDKClear):
    """SPDK over TLS 1.3 with a pre-shared key and the cipher that Sluice's connections have, AES-128-GCM.

    Its load generator is bdevperf, as spdk_nvme_perf cannot be told of buffers; it has one channel.
    """

    name = "SPDK TLS"
    uses_tls = True

    def loader(self, channels):
        controller = {"name": "bench", **self.address, "subnqn": self.target, "hostnqn": self.host, "psk": "psk"}
        return [*self.application("examples/bdevperf", CPUS[0], [
            ("bdev", [("bdev_nvme_attach_controller", controller)])]), "-l"] if channels == 1 else None


def interchange_key(key):
    """A pre-shared key in the form of NVMe TLS, which goes with SHA-256 ("01") and so with AES-128-GCM."""
    return f"NVMeTLSkey-1:01:{base64.b64encode(key + zlib.crc32(key).to_bytes(4, 'little')).decode()}:"


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


class SluiceAttached(Fio):
    """fio on the device of a node that has attached the volume: memory, driver isolated, one reactor. The process that
    serves the device counts with the server. Needs root."""

    name = "sluice attached"

    def __init__(self, folder, size, certificates):
        self.server = Server(folder, SLUICE_REACTORS="1")
        try:
            self.server.volume("bench", size, "bench", "--driver", "memory", "--setting", f"size={size}")
            with fuse_ring(True):
                self.server.cli(self.server.node, "attach", "volume/bench")
            attachment = json.loads(self.server.cli(self.server.node, "status", "-o", "json"))[0]
            self.device = attachment["device"]
            self.cpus = [self.server.cpu, CPUTime(self.server.driver("bench")["pid"]), CPUTime(attachment["pid"])]
            self.fio("write", "--bs=1m", "--iodepth=8")
        except BaseException:
            self.server.stop()
            raise

    def command(self):
        return ["fio", "--ioengine=io_uring", "--direct=1", f"--filename={self.device}"]

    def stop(self):
        self.server.cli(self.server.node, "detach", "volume/bench")
        self.server.stop()


class SluiceDirect(Sluice):
    """A file on this machine's disk, direct I/O."""

    name = "sluice file direct"
    driver = "file"


class SluiceBuffered(Sluice):
    """A file on this machine's disk through the page cache."""

    name = "sluice file buffered"
    driver = "file"
    settings = ("direct=false",)


ALL = (Sluice, SluicePolling, SluiceSleeping, SluiceInline, SluiceTwoReactors, SluiceDirect, SluiceBuffered,
       SluiceAttached, NBDKit, NBDKitClear, StorageDaemon, StorageDaemonClear, LocalDirect, LocalBuffered, Echo, EchoTuned,
       EchoClear, SPDKClear, SPDKTLS)
