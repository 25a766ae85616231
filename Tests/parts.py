#!/usr/bin/env python3
"""Runs a campaign in parts, side by side where they do not need each other, and says what each took.

    Tests/parts.py check|test|soak [PART...]

A part begins when those that it needs are over. Its output is in .build/logs, and printed when it fails; then nothing
new begins, and what runs is ended. CPU time is that of a part's processes, ended ones: it says what a part costs
whatever else the machine does.
"""
import argparse
import dataclasses
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
LOGS = ROOT / ".build/logs"
# `make test` compiles the tests in a folder of their own, while the release binaries are compiled.
# `make check` is for edits, and uses the folder of `swift build`.
SCRATCH = ".build/tests"
# A module as a whole, since nothing is compiled twice in a fresh clone:
# that takes less processor time than what is good for edits.
BUILD_TESTS = (f"swift build --build-tests --scratch-path {SCRATCH}"
               " -Xswiftc -whole-module-optimization -Xswiftc -num-threads -Xswiftc 2")
RUN_TESTS = f"{SCRATCH}/debug/SluicePackageTests.xctest --testing-library swift-testing"
PYTEST = ".venv-test/bin/python -m pytest -q"
# System tests wait more than they work: more processes than processors.
PROCESSES = os.environ.get("TEST_PROCESSES", "4")
# What `make soak` is sized for, on two processors that do nothing else.
HOURS = float(os.environ.get("SOAK_HOURS", "3"))
# What takes no socket, no device and no second process: milliseconds a test.
VALUES = "^(TidyTests|CoreTests|WireTests|CapabilityTests|HTTP2Tests|LogsTests|ServicesTests|DriverKitTests)\\."


@dataclasses.dataclass
class Part:
    command: str
    needs: tuple = ()
    environment: dict = dataclasses.field(default_factory=dict)
    process: subprocess.Popen = None
    began: float = 0
    seconds: float = None
    cpu: float = 0
    code: int = None


def swift(options, *needs, **environment):
    return Part(f"nice -n 10 {RUN_TESTS} {options}", ("debug", *needs), environment)


def pytest(options, *needs, **environment):
    return Part(f"{PYTEST} -s --timeout 36000 {options}", ("release", "python", *needs), environment)


def long(count):
    """So many of what takes three hours, in as many hours as there are."""
    return str(max(1, round(count * HOURS / 3)))


BUILDS = {
    "packages": Part("swift package resolve"),
    "python": Part("make --no-print-directory .venv-test/bin/python"),
    "release": Part("make --no-print-directory build", ("packages",)),
    "debug": Part(BUILD_TESTS, ("packages",)),
}
CAMPAIGNS = {
    "check": {
        "debug": Part("swift build --build-tests"),
        "values": Part(RUN_TESTS.replace(SCRATCH, ".build") + f" --filter '{VALUES}' --skip Fuzz", ("debug",)),
        "simulators": Part(
            RUN_TESTS.replace(SCRATCH, ".build") + " --filter Simulation --skip 'finds|shrinks'", ("debug",),
            {"SLUICE_SIMULATION_SEEDS": "400", "SLUICE_SIMULATION_STEPS": "100000"}),
    },
    "test": BUILDS | {
        "swift": Part(RUN_TESTS, ("debug",)),
        "system": Part(
            f"{PYTEST} -n {PROCESSES} --dist loadgroup Tests/system Clients/python/tests", ("release", "python", "swift")),
    },
    # Three lanes, of which the first takes the processors that the others leave.
    "soak": BUILDS | {
        "sessions": swift("--filter SessionSimulationTests", SLUICE_SIMULATION_SEEDS=long(400_000)),
        "drivers": swift("--filter DriverHostTests.SimulationTests", "sessions", SLUICE_SIMULATION_STEPS=long(60_000_000)),
        "fuzzers": swift("--filter Fuzz", "drivers", SLUICE_FUZZ=long(50)),
        "crash": pytest("Tests/system/test_crash.py", SLUICE_CRASH_KILLS=long(2_000)),
        "channels": pytest("Tests/system/test_data_channel.py", "crash", SLUICE_FUZZ_CHANNELS=long(20_000)),
        "answers": pytest("Tests/system/test_hostile_control.py", "channels", SLUICE_FUZZ_ANSWERS=long(5_000)),
        "hosts": pytest("Tests/system/test_isolation.py", "answers", SLUICE_DRIVER_KILLS=long(150)),
        "survival": pytest("Tests/system/test_survival.py", "hosts", SLUICE_SURVIVAL_SECONDS=long(600)),
        "model": pytest("Tests/system/test_model.py", SLUICE_MODEL_LARGE="1"),
        "api": pytest("Tests/system/test_openapi.py", "model", SLUICE_FUZZ_API=long(8)),
        "disks": pytest("Tests/system/crash_consistency", "api", SLUICE_CRASH_DEPTH="2", SLUICE_CRASH_SAMPLES=long(1_500)),
    },
}
# What takes hours goes on when a part of it has failed.
GOES_ON = {"soak"}


class Campaign:
    def __init__(self, name, parts):
        self.name, self.parts = name, parts
        self.start = time.monotonic()

    @property
    def now(self):
        return time.monotonic() - self.start

    def log(self, name):
        return LOGS / f"{self.name}-{name}.log"

    def run(self):
        """Whether all parts ended well."""
        try:
            while any(part.seconds is None for part in self.parts.values()):
                for name, part in self.parts.items():
                    if part.process is None and all(self.is_over(need) for need in part.needs):
                        self.begin(name, part)
                if all(part.process is None or part.seconds is not None for part in self.parts.values()):
                    return False  # What is left needs a build that failed.
                if not self.await_end() and self.name not in GOES_ON:
                    return False
            return not any(part.code for part in self.parts.values())
        finally:
            for part in self.parts.values():
                if part.process and part.seconds is None:
                    os.killpg(part.process.pid, signal.SIGTERM)

    def is_over(self, name):
        """Over, and not in vain: what follows on a lane follows a failure, too, but not of a build."""
        part = self.parts.get(name)
        return part is None or part.seconds is not None and not (part.code and name in BUILDS)

    def begin(self, name, part):
        print(f"{self.now:6.0f} s  {name}: {part.command}", flush=True)
        part.began = self.now
        with self.log(name).open("w") as output:
            part.process = subprocess.Popen(
                ["bash", "-c", part.command], cwd=ROOT, env={**os.environ, **part.environment}, stdin=subprocess.DEVNULL,
                stdout=output, stderr=subprocess.STDOUT, start_new_session=True)

    def await_end(self):
        """Until a part ends; whether it ended well."""
        pid, status, usage = os.wait4(-1, 0)
        name, part = next((name, part) for name, part in self.parts.items() if part.process and part.process.pid == pid)
        part.seconds, part.cpu = self.now - part.began, usage.ru_utime + usage.ru_stime
        code = part.code = os.waitstatus_to_exitcode(status)
        lines = self.log(name).read_text(errors="replace").splitlines()
        if code:
            print("\n".join(lines[-400:]))
            print(f"{self.now:6.0f} s  {name} failed with {code}; all that it said is in {self.log(name)}")
            return False
        said = next((line for line in reversed(lines) if re.search(r"passed|complete", line)), "")
        print(f"{self.now:6.0f} s  {name} ended after {part.seconds:.0f} s: {said.strip()[:120]}", flush=True)
        return True

    def summary(self):
        rows = [(name + (" (failed)" if part.code else ""), part.began, part.seconds, part.cpu)
                for name, part in self.parts.items() if part.seconds is not None]
        yield f"{self.name:20}  {'from':>6}  {'seconds':>8}  {'CPU seconds':>12}"
        for name, began, seconds, cpu in rows:
            yield f"{name:20}  {began:6.0f}  {seconds:8.0f}  {cpu:12.0f}"
        yield f"{'together':20}  {'':6}  {self.now:8.0f}  {sum(row[3] for row in rows):12.0f}"


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("campaign", choices=CAMPAIGNS)
    arguments.add_argument("part", nargs="*", help="only these")
    arguments = arguments.parse_args()
    parts = CAMPAIGNS[arguments.campaign]
    if unknown := set(arguments.part) - set(parts):
        sys.exit(f"{arguments.campaign} has no part {', '.join(sorted(unknown))}: {', '.join(parts)}")
    LOGS.mkdir(parents=True, exist_ok=True)
    campaign = Campaign(
        arguments.campaign, {name: part for name, part in parts.items() if not arguments.part or name in arguments.part})
    is_well = campaign.run()
    print("\n".join(campaign.summary()))
    sys.exit(0 if is_well else 1)


if __name__ == "__main__":
    main()
