"""The model hub: is there a token, is the network to be used, does the hub answer.

A token is never read further than whether there is one: no part of it reaches a finding.
"""

from __future__ import annotations

import os
import socket
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from huggingface_hub import constants

from aha.doctor.finding import Finding, note, ok

_SECONDS = 4.0
_TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


@dataclass(frozen=True)
class Hub:
    """`token`: where there is one, empty for none. `offline`: why it was not asked, empty when it
    was. `fault`: what kept it from answering, empty when it answered."""

    host: str
    token: str
    offline: str = ""
    fault: str = ""

    @property
    def reachable(self) -> bool:
        return not self.offline and not self.fault


def look(offline: bool) -> Hub:
    """The hub as it is from here: one request of at most a few seconds, none when `offline`."""
    # Only the host: an address may hold a name and a password.
    host = urlsplit(constants.ENDPOINT).hostname or "the hub"
    reason = "--offline" if offline else "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else ""
    return Hub(host, _token_place(), reason, "" if reason else _fault(constants.ENDPOINT))


def judge(hub: Hub) -> list[Finding]:
    token = f"there is one ({hub.token})" if hub.token else "none; public models need none"
    return [ok("hub token", token), _network(hub)]


def _network(hub: Hub) -> Finding:
    without = "The embedded model, folders and what the cache holds work without."
    if hub.offline:
        return note("network", f"not asked: {hub.offline}", without)
    if hub.fault:
        return note("network", f"{hub.host} does not answer: {hub.fault}", without)
    return ok("network", f"{hub.host} answers")


def _token_place() -> str:
    for name in _TOKEN_VARIABLES:
        if os.environ.get(name, "").strip():
            return name
    file = Path(constants.HF_TOKEN_PATH)
    try:
        return "token file" if file.is_file() and file.stat().st_size > 0 else ""
    except OSError:
        return ""


def _fault(endpoint: str) -> str:
    """Why the hub does not answer. In a thread: looking a name up knows no time limit."""
    result: list[str] = []
    asking = threading.Thread(target=lambda: result.append(_ask(endpoint)), daemon=True)
    asking.start()
    asking.join(_SECONDS + 1)
    return result[0] if result else f"no answer within {_SECONDS:g} s"


def _ask(endpoint: str) -> str:
    if not endpoint.startswith(("https://", "http://")):
        return "HF_ENDPOINT is no web address"
    request = urllib.request.Request(endpoint, method="HEAD")  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS):  # noqa: S310
            return ""
    except urllib.error.HTTPError as error:
        # Whoever answers with a status is there, unless it is a proxy that refuses.
        return f"status {error.code}" if error.code in (403, 407) or error.code >= 500 else ""
    except (OSError, ValueError) as error:
        # Not its text: it may hold the address, and that a password.
        reason = getattr(error, "reason", error)
        name = type(reason).__name__
        return "its name is not known here" if isinstance(reason, socket.gaierror) else name
