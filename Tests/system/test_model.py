"""The model of resume and fence (API/models/resume.pml): spin looks at every state, and finds every planted fault."""
import re
import subprocess

import pytest
from conftest import ROOT

MODEL = ROOT / "API/models/resume.pml"
STATES_MAX_DEPTH = 100_000
# The assertion of each name in the model's list.
ASSERTIONS = {
    "ONCE": r"executions\[\d\]==1", "FENCED": r"c>=fencedBelow", "LATE": r"flightSequence\[.*\]==\(told\[\d\]\+1\)",
    "TAKEN": r"!\(isTaken\)", "TRUE": r"executions\[slot\]>0", "NEXT": r"assertion violated 0 ", "ENDED": r"isEnded"}


def search(folder, *definitions, options=()):
    """Looks at all states; returns what spin's verifier says."""
    made = subprocess.run(["spin", *[f"-D{definition}" for definition in definitions], "-a", MODEL], cwd=folder,
                          capture_output=True, text=True, timeout=60)
    assert made.returncode == 0, made.stdout + made.stderr
    subprocess.run(["cc", "-w", "-O2", "-DSAFETY", "-DCOLLAPSE", "-DMEMLIM=2500", "-o", "pan", "pan.c"],
                   cwd=folder, check=True, timeout=120)
    found = subprocess.run(["./pan", f"-m{STATES_MAX_DEPTH}", *options], cwd=folder, capture_output=True, text=True,
                           timeout=200)
    return found.stdout


def holds(folder, *definitions):
    said = search(folder, *definitions)
    assert "errors: 0" in said and "Search not completed" not in said and "max search depth too small" not in said, said
    print(re.search(r"\d+ states, stored", said).group())


@pytest.mark.parametrize("size", [
    ("CUTS=1", "CRASHES=1", "FENCES=1", "REQUESTS=2"),
    ("CUTS=2", "CRASHES=0", "FENCES=1", "REQUESTS=2"),
    ("CUTS=1", "CRASHES=2", "FENCES=0", "REQUESTS=3"),
])
def test_every_assertion_holds_in_every_state(tmp_path, size):
    holds(tmp_path, *size)


@pytest.mark.parametrize("fault, assertion", [
    ("RESUME_DOES_NOT_WAIT", "NEXT"), ("RESUME_DOES_NOT_WAIT DEAF", "FENCED"), ("OLD_IS_READ", "FENCED"),
    ("NO_REPLY_CACHE", "ONCE"), ("DROPPED_IS_ANSWERED", "TRUE"), ("FENCE_DOES_NOT_WAIT", "TAKEN"),
    ("FENCE_NOT_DURABLE", "TAKEN"), ("RESTART_DOES_NOT_WAIT", "TAKEN"),
    ("RESTART_DOES_NOT_WAIT DEAF BLIND FENCES=0", "LATE"), ("RESTART_TOLD_ONCE", "ONCE"),
    ("REPEATS_ALL", "ONCE"), ("SESSION_FORGOTTEN", "ENDED")])
def test_a_planted_fault_is_found(tmp_path, fault, assertion):
    name, *more = fault.split()
    # A client that is deaf may wait for ever, which is not what is looked for.
    said = search(tmp_path, f"FAULT_{name}", *more, options=["-E"] if "DEAF" in more else [])
    violated = re.search(r"pan:1: (.*)", said)
    assert violated and re.search(ASSERTIONS[assertion], violated.group(1)), said
    assert (tmp_path / "resume.pml.trail").exists()


def test_every_assertion_has_its_sentence():
    """What the list at the model's head names stands beside an assertion, and in the tests above."""
    text = MODEL.read_text()
    listed = set(re.findall(r"^ \*   ([A-Z]+)  ", text, re.MULTILINE))
    placed = set(re.findall(r"/\* ([A-Z]+) \*/$", text, re.MULTILINE))
    assert listed == placed == set(ASSERTIONS)
    assert set(re.findall(r"^ \*   FAULT_(\w+) ", text, re.MULTILINE)) == set(re.findall(r"#ifn?def FAULT_(\w+)", text))
