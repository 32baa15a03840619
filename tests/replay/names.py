"""The DNS server of a lab. It must be one: gRPC asks a server and ignores /etc/hosts."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading

PORT = 53
ADDRESS, IN, NOT_FOUND = 1, 1, 3
SECONDS_TO_LIVE = 2


class NameServer:
    """Answers for the names in `addresses` as a cluster's DNS: an address, nothing for another type, or NXDOMAIN."""

    def __init__(self, listen: str) -> None:
        self.addresses: dict[str, str] = {}
        """IPv4 addresses by lower-case name without a final dot; may be changed at any time."""
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((listen, PORT))
        self._thread = threading.Thread(target=self._serve, name="dns", daemon=True)
        self._thread.start()

    def close(self) -> None:
        # A blocked recvfrom does not see that its socket was closed, but that it was shut down.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(5)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                query, client = self._socket.recvfrom(1500)
                if len(query) > 12:
                    self._socket.sendto(answer(query, self.addresses), client)


def answer(query: bytes, addresses: dict[str, str]) -> bytes:
    """The reply to a query for one name (RFC 1035): a copy of the question and at most one address."""
    labels, at = [], 12
    while length := query[at]:
        labels.append(query[at + 1 : at + 1 + length].decode("ascii", "replace"))
        at += 1 + length
    end = at + 5
    (kind,) = struct.unpack(">H", query[at + 1 : at + 3])
    address = addresses.get(".".join(labels).lower())
    record = b""
    if address and kind == ADDRESS:
        # 0xC00C: the name of the question.
        record = struct.pack(">HHHIH", 0xC00C, ADDRESS, IN, SECONDS_TO_LIVE, 4) + socket.inet_aton(address)
    # A reply, with authority, recursion asked for and given.
    flags = 0x8580 | (0 if address else NOT_FOUND)
    return query[:2] + struct.pack(">HHHHH", flags, 1, int(bool(record)), 0, 0) + query[12:end] + record
