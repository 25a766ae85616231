"""The models in API/models: spin looks at every state, and finds every planted fault."""
import os
import re
import subprocess

import pytest
from conftest import ROOT

MODELS = ROOT / "API/models"
DEPTH_MAX = 100_000
# The assertion of each name in the list at a model's head, as spin prints it.
ASSERTIONS = {
    "resume": {
        "ONCE": r"executions\[\d\]==1", "FENCED": r"c>=fencedBelow",
        "LATE": r"flightSequence\[.*\]==\(told\[\d\]\+1\)", "TAKEN": r"!\(isTaken\)", "TRUE": r"executions\[slot\]>0",
        "NEXT": r"assertion violated 0 ", "ENDED": r"isEnded"},
    "channels": {"ORDER": r"flight\[.*\]>newest", "TRUE": r"wasExecuted\[said\]"}}

SIZES = [
    ("resume", "CUTS=1", "CRASHES=1", "FENCES=1", "REQUESTS=2"),
    ("resume", "CUTS=2", "CRASHES=0", "FENCES=1", "REQUESTS=2"),
    ("resume", "CUTS=1", "CRASHES=2", "FENCES=0", "REQUESTS=2"),
    ("channels", "CUTS=2", "WRITES=4")]
if os.environ.get("SLUICE_MODEL_LARGE"):
    SIZES += [
        ("resume", "CUTS=2", "CRASHES=1", "FENCES=1", "REQUESTS=2"),
        ("resume", "CUTS=1", "CRASHES=2", "FENCES=0", "REQUESTS=3"),
        ("resume", "CUTS=1", "CRASHES=2", "FENCES=1", "REQUESTS=3"),
        ("channels", "CUTS=3", "WRITES=4")]


def search(folder, model, *definitions, options=()):
    """Looks at all states; returns what spin's verifier says."""
    made = subprocess.run(
        ["spin", *[f"-D{definition}" for definition in definitions], "-a", MODELS / f"{model}.pml"], cwd=folder,
        capture_output=True, text=True, timeout=60)
    assert made.returncode == 0, made.stdout + made.stderr
    # What a fault breaks is found early: there the compiler would take the time.
    speed = "-O0" if any("FAULT" in definition for definition in definitions) else "-O2"
    subprocess.run(["cc", "-w", speed, "-DSAFETY", "-DCOLLAPSE", "-DMEMLIM=6000", "-o", "pan", "pan.c"],
                   cwd=folder, check=True, timeout=120)
    found = subprocess.run(["./pan", f"-m{DEPTH_MAX}", *options], cwd=folder, capture_output=True, text=True,
                           timeout=1000)
    return found.stdout


@pytest.mark.parametrize("size", SIZES, ids=" ".join)
def test_every_assertion_holds_in_every_state(tmp_path, size):
    said = search(tmp_path, *size)
    assert "errors: 0" in said and "Search not completed" not in said and "max search depth too small" not in said, said
    print(re.search(r"\d+ states, stored", said).group())


@pytest.mark.parametrize("model, fault, assertion", [
    ("resume", "RESUME_DOES_NOT_WAIT", "NEXT"),
    ("resume", "RESUME_DOES_NOT_WAIT DEAF", "FENCED"),
    ("resume", "OLD_IS_READ", "FENCED"),
    ("resume", "NO_REPLY_CACHE", "ONCE"),
    ("resume", "DROPPED_IS_ANSWERED", "TRUE"),
    ("resume", "FENCE_DOES_NOT_WAIT", "TAKEN"),
    ("resume", "FENCE_NOT_DURABLE", "TAKEN"),
    ("resume", "RESTART_DOES_NOT_WAIT", "TAKEN"),
    ("resume", "RESTART_DOES_NOT_WAIT DEAF BLIND FENCES=0", "LATE"),
    ("resume", "RESTART_TOLD_ONCE", "ONCE"),
    ("resume", "REPEATS_ALL", "ONCE"),
    ("resume", "SESSION_FORGOTTEN", "ENDED"),
    ("channels", "MOVES", "ORDER"),
    ("channels", "FORGETS", "ORDER")])
def test_a_planted_fault_is_found(tmp_path, model, fault, assertion):
    name, *more = fault.split()
    # A client that is deaf may wait for ever, which is not what is looked for.
    said = search(tmp_path, model, f"FAULT_{name}", *more, options=["-E"] if "DEAF" in more else [])
    violated = re.search(r"pan:1: (.*)", said)
    assert violated and re.search(ASSERTIONS[model][assertion], violated.group(1)), said
    assert (tmp_path / f"{model}.pml.trail").exists()


@pytest.mark.parametrize("model", ASSERTIONS)
def test_every_assertion_has_its_sentence(model):
    """What the list at the model's head names stands beside an assertion, and in the tests above."""
    text = (MODELS / f"{model}.pml").read_text()
    listed = set(re.findall(r"^ \*   ([A-Z]+)  ", text, re.MULTILINE))
    placed = set(re.findall(r"/\* ([A-Z]+) \*/ *\\?$", text, re.MULTILINE))
    assert listed == placed == set(ASSERTIONS[model])
    assert set(re.findall(r"^ \*   FAULT_(\w+) ", text, re.MULTILINE)) == set(re.findall(r"#ifn?def FAULT_(\w+)", text))
