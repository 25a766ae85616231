"""A client of Sluice's data channel in Python's standard library (see API/data-channel.md)."""

from .channel import Channel, ChannelClosed, RequestFailed, capability_bytes
from .frames import Flags, Opcode, Rights, Status

__all__ = [
    "Channel",
    "ChannelClosed",
    "Flags",
    "Opcode",
    "RequestFailed",
    "Rights",
    "Status",
    "capability_bytes",
]
__version__ = "1.0.0"
