"""The fields of a file, read off its front: bytes, integers and varints (FORMAT.md)."""

from __future__ import annotations

from sfumato.errors import FormatError

VARINT_BYTES = 5


class Ended(FormatError):
    """The data end inside a field, which would end at byte `wanted`."""

    def __init__(self, message: str, wanted: int) -> None:
        super().__init__(message)
        self.wanted = wanted


class Reader:
    """Takes fields off the front of `data`; `at` is the next byte."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, size: int, what: str) -> bytes:
        """The next `size` bytes; Ended if there are fewer.  `what` names them in errors."""
        if size > len(self.data) - self.at:
            raise Ended(f"the file ends at byte {len(self.data)}, inside {what}", self.at + size)
        self.at += size
        return self.data[self.at - size : self.at]

    def uint(self, size: int, what: str) -> int:
        """An unsigned integer of `size` bytes, little-endian."""
        return int.from_bytes(self.take(size, what), "little")

    def varint(self, what: str) -> int:
        """An integer of 7 bits a byte, lowest first; FormatError if it is not in its shortest form."""
        value = 0
        for i in range(VARINT_BYTES):
            byte = self.uint(1, what)
            value |= (byte & 127) << 7 * i
            if byte < 128:
                if byte == 0 and i:
                    raise FormatError(f"{what}: {value} is not in the shortest form")
                return value
        raise FormatError(f"{what}: varint of more than {VARINT_BYTES} bytes, {value:#x} so far")

    def length(self, what: str, limit: int) -> int:
        """A varint of at most `limit`; FormatError for a larger one."""
        value = self.varint(f"{what}'s length")
        if value > limit:
            raise FormatError(f"{what}: length {value}, the limit is {limit}")
        return value


def packed_varint(value: int) -> bytes:
    """The bytes of a varint, the inverse of `Reader.varint`."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])
