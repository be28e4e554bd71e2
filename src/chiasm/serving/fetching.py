"""Remote pictures, off unless their host is allowed: resolved once, to global addresses only, and pinned.

The name is resolved one time and the connection goes to the address that was checked, so a name that changes its
answer between check and use gains nothing. Every redirect passes the same checks. Bytes are counted as they come.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import re
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

from chiasm.core.errors import PictureError

_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"(?!-)[a-z0-9-]{1,63}(?:\.[a-z0-9-]{1,63})*\.?")
_EMBEDDING = tuple(ipaddress.ip_network(net) for net in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32"))
_CHUNK = 64 * 1024

Resolve = Callable[[str, int], Sequence[str]]


def resolve_host(host: str, port: int) -> Sequence[str]:
    """Every address of a name, as the system resolves it."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def is_global(address: str) -> bool:
    """Whether an address is a public machine's: not private, loopback, link-local, multicast, reserved or embedding."""
    try:
        value = ipaddress.ip_address(address)
    except ValueError:  # with a zone: link-local
        return False
    if isinstance(value, ipaddress.IPv6Address):
        if value.ipv4_mapped is not None:
            return False
        if any(value in net for net in _EMBEDDING):
            return False
    return value.is_global and not (value.is_multicast or value.is_reserved or value.is_loopback or value.is_link_local)


@dataclass(frozen=True, slots=True)
class _Target:
    scheme: str
    host: str
    port: int
    path: str


class Fetcher:
    """Fetches pictures from allowed hosts.

    Args:
        hosts: ``host`` (the scheme's own port) or ``host:port``.
        max_bytes: most bytes of a body.
        seconds: for one picture altogether.
        max_redirects: hops.
        resolve: name and port → addresses.
        permitted: which addresses may be connected to.
    """

    def __init__(
        self,
        hosts: Sequence[str],
        max_bytes: int,
        seconds: float = 10.0,
        max_redirects: int = 3,
        resolve: Resolve = resolve_host,
        permitted: Callable[[str], bool] = is_global,
    ) -> None:
        self.hosts = frozenset(host.lower().rstrip(".") for host in hosts)
        self.max_bytes, self.seconds, self.max_redirects = max_bytes, seconds, max_redirects
        self._resolve, self._permitted = resolve, permitted

    def fetch(self, url: str, max_bytes: int | None = None, until: float = float("inf")) -> bytes:
        """Fetch one address.

        Args:
            url: http or https, of an allowed host.
            max_bytes: most bytes of the body, where less than usual.
            until: on the monotonic clock, where sooner than usual.

        Returns:
            The body.

        Raises:
            PictureError: media_address for an address that isn't allowed, whatever the reason; media_unreachable for
                a host that doesn't answer with a picture in time; picture_too_large for too many bytes.
        """
        allowed = min(self.max_bytes, max_bytes if max_bytes is not None else self.max_bytes)
        deadline = min(until, time.monotonic() + self.seconds)
        for _ in range(self.max_redirects + 1):
            target = self._target(url)
            try:
                body, location = self._get(target, allowed, deadline)
            except (OSError, http.client.HTTPException, UnicodeError):
                raise PictureError("media_unreachable", "the picture's host did not answer") from None
            if body is not None:
                return body
            url = urljoin(url, location)
        raise PictureError("media_unreachable", f"the picture was redirected more than {self.max_redirects} times")

    def _target(self, url: str) -> _Target:
        refused = PictureError(
            "media_address",
            "the picture's address is not allowed",
            hint="send the picture as a data URI, or start the server with --allow-media-host",
        )
        if len(url) > 4096 or re.search(r"[\x00-\x20\x7f-\U0010ffff\\]", url):
            raise refused
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise refused from None
        host = (parts.hostname or "").lower().rstrip(".")
        if parts.scheme not in _PORTS or "@" in parts.netloc or not _HOST.fullmatch(host):
            raise refused
        usual = _PORTS[parts.scheme]
        port = usual if port is None else port
        if f"{host}:{port}" not in self.hosts and not (host in self.hosts and port == usual):
            raise refused
        return _Target(parts.scheme, host, port, (parts.path or "/") + (f"?{parts.query}" if parts.query else ""))

    def _get(self, target: _Target, allowed: int, deadline: float) -> tuple[bytes | None, str]:
        addresses = list(self._resolve(target.host, target.port))
        if not addresses or not all(self._permitted(address) for address in addresses):
            raise PictureError("media_address", "the picture's host is not a public machine")
        connection = _Pinned(target, addresses[0], _left(deadline))
        try:
            connection.request("GET", target.path, headers={"Accept": "image/*", "Accept-Encoding": "identity"})
            response = connection.getresponse()
            if response.status in (301, 302, 303, 307, 308) and response.getheader("Location"):
                return None, str(response.getheader("Location"))
            if response.status != 200:
                raise PictureError("media_unreachable", f"the picture's host answered with status {response.status}")
            return self._read(response, connection, allowed, deadline), ""
        finally:
            connection.close()

    def _read(
        self, response: http.client.HTTPResponse, connection: http.client.HTTPConnection, allowed: int, deadline: float
    ) -> bytes:
        announced = response.getheader("Content-Length", "")
        body = bytearray()
        if announced.isdigit() and int(announced) > allowed:
            raise PictureError("picture_too_large", f"the picture is over the limit of {allowed:,} bytes")
        while True:
            if connection.sock is not None:
                connection.sock.settimeout(_left(deadline))
            # read1 gives what has come: a host that drips can't hold a read open past the deadline.
            piece = response.read1(_CHUNK)
            if not piece:
                return bytes(body)
            body += piece
            if len(body) > allowed:
                raise PictureError("picture_too_large", f"the picture is over the limit of {allowed:,} bytes")


class _Pinned(http.client.HTTPConnection):
    """A connection to an address that was checked, under the name that was asked for."""

    def __init__(self, target: _Target, address: str, timeout: float) -> None:
        super().__init__(target.host, target.port, timeout=timeout)
        self.default_port = _PORTS[target.scheme]
        self._target, self._address = target, address

    def connect(self) -> None:
        plain = socket.create_connection((self._address, self._target.port), self.timeout)
        if self._target.scheme == "https":
            try:
                plain = ssl.create_default_context().wrap_socket(plain, server_hostname=self._target.host)
            except BaseException:
                with contextlib.suppress(OSError):
                    plain.close()
                raise
        self.sock = plain


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
