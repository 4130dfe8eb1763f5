"""Identifiers: UUIDv7, so that rows made one after the other lie side by side in an index."""

RANDOM_BITS = 74
"""Random bits in a UUIDv7 (RFC 9562 §5.7): 12 beside the version, 62 beside the variant."""

LONGEST_ID = 128
"""Characters; the longest are a job's, a prefix and 64 hexadecimal digits."""


def uuid7(unix_ms: int, random: int) -> str:
    """The UUIDv7 of a time in epoch milliseconds and `RANDOM_BITS` bits of randomness, as 36 characters."""
    value = (unix_ms & (1 << 48) - 1) << 80 | 7 << 76 | (random >> 62 & 0xFFF) << 64 | 2 << 62 | random & (1 << 62) - 1
    digits = f"{value:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def may_exist(text: str) -> bool:
    """Whether a text that somebody sent can be an id of ours at all; a database is asked about no other."""
    return len(text) <= LONGEST_ID and text.isascii() and text.isprintable()
