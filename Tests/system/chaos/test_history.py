"""The checker itself: it agrees with a search through all orders, is fast, and finds what it must find."""
import itertools
import math
import random
import time

import pytest
from chaos.history import INITIAL, TORN, History, Operation, Violation, check_block, page, value_of

SEED = 11


def op(kind, value, invoked, returned=math.inf, ok=None, block=0, client="a", fua=False):
    return Operation(kind, block, value, invoked, returned, not math.isinf(returned) if ok is None else ok, client, fua)


def explains(operations, initial=INITIAL):
    """Whether some order does, by trying them all. What was not answered may be left out."""
    certain = [o for o in operations if o.ok]
    unsure = [o for o in operations if not o.ok and o.kind == "w"]
    for count in range(len(unsure) + 1):
        for some in itertools.combinations(unsure, count):
            for order in itertools.permutations(certain + list(some)):
                if all(a.invoked <= b.returned for a, b in itertools.combinations(order, 2)) and is_register(
                        order, initial):
                    return True
    return False


def is_register(order, value):
    for operation in order:
        if operation.kind == "w":
            value = operation.value
        elif operation.value != value:
            return False
    return True


def accepts(operations):
    try:
        check_block(operations)
        return True
    except Violation:
        return False


def test_it_agrees_with_a_search_through_all_orders():
    generator = random.Random(SEED)
    verdicts = []
    for _ in range(4000):
        operations, values = [], [INITIAL]
        for _ in range(generator.randrange(1, 6)):
            start = generator.randrange(12)
            end = math.inf if generator.random() < 0.15 else start + generator.randrange(1, 6) + 0.5
            if generator.random() < 0.5:
                values.append(len(values))
                operations.append(op("w", values[-1], start, end, ok=end < math.inf and generator.random() < 0.9))
            elif end < math.inf:
                operations.append(op("r", None, start, end))
        for operation in operations:
            if operation.kind == "r":
                operation.value = generator.choice(values)
        if operations:
            verdict = explains(operations)
            assert accepts(operations) == verdict, [str(o) for o in operations]
            verdicts.append(verdict)
    assert 0.2 < sum(verdicts) / len(verdicts) < 0.9, "the histories are of one sort"


@pytest.mark.parametrize("name, operations", {
    "a lost write": [op("w", 1, 0, 1), op("r", 0, 2, 3)],
    "a stale read": [op("w", 1, 0, 1), op("w", 2, 2, 3), op("r", 1, 4, 5)],
    "a value from the future": [op("r", 1, 0, 1), op("w", 1, 2, 3)],
    "a value that nobody wrote": [op("r", 7, 0, 1)],
    "a torn page": [op("w", 1, 0, 1), op("r", TORN, 2, 3)],
    "a write that lands twice": [
        op("w", 1, 0, 9), op("r", 1, 1, 2), op("w", 2, 3, 4), op("r", 2, 5, 6), op("r", 1, 7, 8)],
    "an unanswered write that lands twice": [
        op("w", 1, 0), op("r", 1, 1, 2), op("w", 2, 3, 4), op("r", 2, 5, 6), op("r", 1, 7, 8)],
    "a late write after a fence": [
        op("w", 1, 0, 3, ok=False), op("w", 2, 4, 5, client="b"), op("r", 2, 6, 7), op("r", 1, 8, 9)],
    "a read that goes back": [op("w", 1, 0, 9), op("r", 1, 1, 2), op("r", 0, 3, 4)],
}.items())
def test_it_finds_planted_violations(name, operations):
    assert not explains(operations)
    with pytest.raises(Violation):
        check_block(operations)


@pytest.mark.parametrize("operations", [
    [op("w", 1, 0), op("r", 0, 1, 2), op("r", 1, 3, 4)],
    [op("w", 1, 0), op("w", 2, 1, 2), op("r", 1, 3, 4)],
    [op("w", 1, 0, 1, ok=False), op("r", 0, 2, 3)],
    [op("w", 1, 0, 5), op("w", 2, 1, 4), op("r", 1, 6, 7)],
    [op("w", 1, 0, 1), op("w", 2, 1, 2), op("r", 2, 2, 3)],
])
def test_it_accepts_what_a_disk_may_do(operations):
    assert explains(operations)
    check_block(operations)


def register(generator, count, blocks):
    """The history of a right disk under 16 clients, by its own clock: each operation happens within its time."""
    history, disk, value = History(), {}, 0
    moments = sorted(generator.random() * count for _ in range(count))
    for moment in moments:
        block = generator.randrange(blocks)
        start, end = moment - generator.random() * 16, moment + generator.random() * 16
        if generator.random() < 0.5:
            value += 1
            disk[block] = value
            end = math.inf if generator.random() < 0.01 else end
            history.operations.append(op("w", value, start, end, block=block))
        else:
            history.operations.append(op("r", disk.get(block, INITIAL), start, end, block=block))
    return history


def test_a_hundred_thousand_operations_take_seconds_and_one_stale_read_among_them_is_found():
    generator = random.Random(SEED)
    history = register(generator, 100_000, 64)
    started = time.process_time()
    assert history.check() == 100_000
    assert time.process_time() - started < 5
    reads = [o for o in history.operations if o.kind == "r" and o.value != INITIAL and o.invoked > 50_000]
    for number, read in enumerate(generator.sample(reads, 20)):
        block = [o for o in history.operations if o.block == read.block]
        # A value of this block from long ago.
        right = read.value
        read.value = next(o.value for o in block if o.kind == "w" and o.ok)
        with pytest.raises(Violation):
            check_block(block)
        if number == 0:
            with pytest.raises(Violation):
                history.check()
        read.value = right
        check_block(block)
    history.check()


def test_a_fence_bounds_what_was_not_answered():
    history = History()
    history.operations = [op("w", 1, 0, client="old"), op("w", 2, 4, 5, client="new"), op("r", 2, 6, 7, client="new"),
                          op("r", 1, 8, 9, client="new")]
    history.check()
    history.bound("old", 3)
    with pytest.raises(Violation):
        history.check()
    history.operations.pop()
    history.check()
    history.operations.append(op("w", 3, 10, 11, client="old"))
    with pytest.raises(Violation):
        history.check()


def test_a_power_cut_may_take_what_was_not_flushed_and_nothing_else():
    history = History()
    history.operations = [op("w", 1, 0, 1), op("w", 2, 2, 3), op("f", None, 4, 5), op("w", 3, 6, 7), op("w", 4, 8)]
    for value in (2, 3, 4):
        history.check_durability({0: value}, cut=10)
    for value in (0, 1, 9):
        with pytest.raises(Violation):
            history.check_durability({0: value}, cut=10)
    # A flush that was sent before the write's answer, of another session, or not answered before the cut.
    for change in ({"invoked": 2.5}, {"client": "b"}, {"returned": math.inf, "ok": False}):
        flush = history.operations[2]
        before = {name: getattr(flush, name) for name in change}
        for name, value in change.items():
            setattr(flush, name, value)
        history.check_durability({0: 1}, cut=10)
        for name, value in before.items():
            setattr(flush, name, value)
    history.operations[3].fua = True
    with pytest.raises(Violation):
        history.check_durability({0: 2}, cut=10)


def test_pages_say_what_they_are():
    for value, block in ((1, 0), (1 << 60, 7), (5, 1 << 40)):
        data = page(value, block, 4096)
        assert value_of(data, block) == value
        assert value_of(data, block + 1) == TORN
        assert value_of(data[:512] + page(value + 1, block, 4096)[512:], block) == TORN
    assert value_of(bytes(4096), 3) == INITIAL
