"""Refuse connections to other machines, in the tests and in each Python process that they start.

`tests/conftest.py` puts this folder on PYTHONPATH, where Python looks for a module of this name when it starts.
"""

from __future__ import annotations

import functools
import ipaddress
import os
import socket
from collections.abc import Callable
from typing import Any

LOG = "SEDEMBED_TESTS_REFUSED"  # environment variable: file that names what was refused


def is_here(host: Any) -> bool:
    """Whether a host is this machine."""
    if isinstance(host, (bytes, bytearray)):
        host = host.decode()
    if host is None or host in ("", "localhost", socket.gethostname()):
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    if address.is_loopback or address.is_unspecified:
        return True
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as own:
            own.bind((str(address), 0))  # only addresses of this machine can be bound
    except OSError:
        return False
    return True


def refuse(what: str) -> None:
    file = os.environ.get(LOG)
    if file:
        with open(file, "a", encoding="utf-8") as stream:  # noqa: PTH123
            stream.write(f"{what}\n")
    raise ConnectionRefusedError(f"Tests may not use the network: {what}")


def guard_connect(connect: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(connect)
    def guarded(sock: socket.socket, address: Any, *rest: Any) -> Any:
        # Datagram sockets connect without sending anything, to learn this machine's own address.
        inet = sock.family in (socket.AF_INET, socket.AF_INET6) and sock.type != socket.SOCK_DGRAM
        if inet and not is_here(address[0]):
            refuse(f"a connection to {address!r}")
        return connect(sock, address, *rest)

    return guarded


def guard_lookup(look_up: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(look_up)
    def guarded(host: Any, *rest: Any, **options: Any) -> Any:
        try:
            literal = host is not None and bool(ipaddress.ip_address(host if isinstance(host, str) else host.decode()))
        except (ValueError, AttributeError):
            literal = False
        if not literal and not is_here(host):
            refuse(f"a look-up of {host!r}")
        return look_up(host, *rest, **options)

    return guarded


if not getattr(socket, "guarded_by_tests", False):
    socket.guarded_by_tests = True  # type: ignore[attr-defined]
    socket.socket.connect = guard_connect(socket.socket.connect)  # type: ignore[method-assign]
    socket.socket.connect_ex = guard_connect(socket.socket.connect_ex)  # type: ignore[method-assign]
    for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex"):
        setattr(socket, name, guard_lookup(getattr(socket, name)))
