"""Ports for the servers of a test."""

from __future__ import annotations

import socket


def free_port() -> int:
    """One that nobody listens to now."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """As many, all different."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("", 0))
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports
