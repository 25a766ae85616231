"""A client of Sluice's data channel in Python's standard library (see API/data-channel.md)."""

from .channel import Channel, ChannelClosed, RequestFailed, capability_bytes
from .frames import FEATURE_RESUME, Flags, Opcode, Rights, Status
from .session import Session, SessionLost

__all__ = [
    "Channel",
    "ChannelClosed",
    "FEATURE_RESUME",
    "Flags",
    "Opcode",
    "RequestFailed",
    "Rights",
    "Session",
    "SessionLost",
    "Status",
    "capability_bytes",
]
__version__ = "1.0.0"
