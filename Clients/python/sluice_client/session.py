"""A volume that stays open over lost connections: connects again, resumes, repeats what is unanswered.

One channel, used by one thread. `submit` and `wait` keep several requests in flight; the last slot is kept for OPEN.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from .channel import Channel, ChannelClosed, Reply, RequestFailed
from .frames import FEATURE_RESUME, Flags, Opcode, ReplyHeader, ResourceState, Rights, Status

BACKOFF_MIN = 0.02
BACKOFF_MAX = 1.0
# What a server says that is there, and may say something better soon.
_TRY_AGAIN = frozenset({Status.BUSY, Status.DRAINING, Status.WRITER_CONFLICT, Status.TOO_MANY_CHANNELS})


_SINGLE_WRITER, _SHARED = 0, 2
_MUTATING = Rights.WRITE | Rights.DISCARD
_RESTARTED = 2
_CHANGES = (Opcode.WRITE, Opcode.WRITE_ZEROES, Opcode.DISCARD, Opcode.COPY_RANGE)


class SessionLost(Exception):
    """The server no longer knows the session, or the volume was taken from it: what was unanswered may or may not have
    been done, what was not flushed may be gone."""


class Session:
    """One volume on one channel.

    `connect(lost)` makes a channel: a new one with FEATURE_RESUME where `lost` is None, else `Channel.resume(lost, …)`;
    it may choose another address each time. `capability()` is asked for each OPEN. After `patience` seconds without a
    server ChannelClosed is raised, and the next call tries again. `tries_again`: whether the first OPEN waits for
    another writer to go.
    """

    def __init__(self, connect: Callable[[Channel | None], Channel], capability: Callable[[], str | bytes], *,
                 patience: float = 60.0, seed: int = 0, rights: Rights = Rights.NONE, tries_again: bool = True,
                 on_resume: Callable[[int], None] | None = None):
        self._connect, self._capability = connect, capability
        self._patience, self._random, self._on_resume = patience, random.Random(seed), on_resume
        self._rights, self._is_lost = rights, False
        self.resumptions = 0
        again = _TRY_AGAIN if tries_again else _TRY_AGAIN - {Status.WRITER_CONFLICT}
        self.channel, self.handle, self.state = self._persist(self._begin, again)

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()

    # Requests

    @property
    def depth(self) -> int:
        """How many requests may be in flight."""
        return max(1, self.channel.granted.slots - 1)

    def submit(self, opcode: int, payload: bytes = b"", **fields: int) -> int:
        """Sends a request; returns its slot. A lost connection is nothing that the caller hears of."""
        if len(self.channel.unanswered) >= self.depth:
            raise ValueError("every slot is in use")
        if self._is_lost:
            self._resume()
        slot = self.channel.request_header(opcode, **fields).slot
        try:
            return self.channel.submit(opcode, payload, slot=slot, handle=self.handle, **fields)
        except (ChannelClosed, TimeoutError):
            try:
                self._resume()
            except BaseException:
                # The caller is not told the slot, so nobody will ask for the answer.
                self.channel.give_up(slot)
                raise
            return slot

    def wait(self, slot: int) -> Reply:
        """The reply of the request in `slot`, whatever its status."""
        while True:
            try:
                return self.channel.wait(slot)
            except (ChannelClosed, TimeoutError):
                self._resume()

    def wait_any(self) -> tuple[int, Reply]:
        """The slot and reply of whichever request is answered next."""
        while True:
            try:
                slots = self.channel.answered or [self.channel.receive_answer()]
                return slots[0], self.channel.wait(slots[0])
            except (ChannelClosed, TimeoutError):
                self._resume()

    def read(self, offset: int, count: int) -> bytes:
        return self.wait(self.submit(Opcode.READ, offset=offset, count=count)).check().payload

    def write(self, offset: int, data: bytes, fua: bool = False) -> None:
        self.wait(self.submit(Opcode.WRITE, data, offset=offset, count=len(data),
                              flags=Flags.FUA if fua else 0)).check()

    def flush(self) -> None:
        self.wait(self.submit(Opcode.FLUSH)).check()

    # Coming back

    def _persist(self, attempt, again=_TRY_AGAIN):
        """Repeats the attempt, with growing pauses, until it succeeds, is refused for good or patience ends."""
        deadline, pause = time.monotonic() + self._patience, BACKOFF_MIN
        while True:
            try:
                return attempt()
            except (ChannelClosed, OSError) as error:
                failure = error
            except RequestFailed as error:
                if error.status not in again:
                    raise
                failure = error
            if time.monotonic() > deadline:
                raise ChannelClosed(f"no server: {failure}") from failure
            time.sleep(self._random.uniform(0, pause))
            pause = min(pause * 2, BACKOFF_MAX)

    def _begin(self) -> tuple[Channel, int, ResourceState]:
        channel = self._connect(None)
        try:
            if not channel.granted.features & FEATURE_RESUME:
                raise ValueError("the server does not resume sessions")
            return channel, *self._open(channel)
        except BaseException:
            channel.close()
            raise

    def _open(self, channel: Channel) -> tuple[int, ResourceState]:
        return channel.open(self._capability(), self._rights, take_over=True)

    def _resume(self) -> None:
        """The same channel on a new connection, its volume open and everything unanswered sent again."""
        self._is_lost = True
        self.channel.drop()
        try:
            self._persist(self._resume_once)
        except RequestFailed as error:
            raise SessionLost(str(error)) from error
        self._is_lost = False

    def _resume_once(self) -> None:
        channel = self._connect(self.channel)
        try:
            for slot, sent in channel.unanswered.items():
                if sent.header.opcode == Opcode.OPEN:
                    channel.withdraw(slot)
            handle, state = self._open(channel)
            if state.epoch != self.state.epoch:
                raise SessionLost("the volume was taken from the session")
            if self._is_stale(state):
                raise SessionLost("another node wrote to the volume while this one was away")
            if channel.granted.resumption == _RESTARTED:
                self._conclude_unknown(channel, state)
            channel.repeat(handle)
        except BaseException:
            channel.drop()
            # The next attempt goes on from here: OPEN may have used up a sequence.
            self.channel = channel
            raise
        self.channel, self.handle, self.state = channel, handle, state
        self.resumptions += 1
        if self._on_resume:
            self._on_resume(channel.granted.resumption)

    def _is_stale(self, state: ResourceState) -> bool:
        """Whether the session had lost its claim, and somebody else has had it since."""
        return (state.access_mode == self.state.access_mode == _SINGLE_WRITER and state.rights & _MUTATING != 0
                and state.writer_generation != self.state.writer_generation)

    @staticmethod
    def _conclude_unknown(channel: Channel, state: ResourceState) -> None:
        """Nobody knows what became of these, and doing them again may undo what others have done since."""
        for slot, sent in channel.unanswered.items():
            opcode = sent.header.opcode
            if opcode == Opcode.COMPARE_AND_WRITE or state.access_mode == _SHARED and opcode in _CHANGES:
                channel.conclude(slot, Reply(ReplyHeader(
                    status=Status.OUTCOME_UNKNOWN, slot=slot, opcode=opcode, sequence=sent.header.sequence), b""))
