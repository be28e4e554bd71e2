"""Listening: which addresses may be bound, the file that says when, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import uvicorn

from chiasm.core.errors import ConfigError
from chiasm.core.files import write_text
from chiasm.serving.connections import PatientNoLonger

_LOCAL_NAMES = ("127.0.0.1", "localhost", "[::1]")


def is_local(host: str) -> bool:
    """Whether every address behind a name is this machine's own loopback."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    if not host:
        return False
    try:
        found = socket.getaddrinfo(host, None)
    except OSError:
        raise ConfigError("serve_address", f"--host {host} can't be resolved", hint="--host 127.0.0.1") from None
    return all(ipaddress.ip_address(str(entry[4][0]).partition("%")[0]).is_loopback for entry in found)


def guarded_hosts(host: str, api_key: str | None) -> tuple[str, ...]:
    """Values of the Host header to answer.

    Args:
        host: what to listen on.
        api_key: the key, or None.

    Returns:
        The loopback's names where no key keeps others out, since a page elsewhere can make a browser ask under its
        own name; none, which is any, with a key.

    Raises:
        ConfigError: serve_public for a public address without a key; api_key_empty.
    """
    if api_key is not None and not api_key.strip():
        raise ConfigError("api_key_empty", "the API key has 0 visible characters", hint="--api-key KEY")
    if not is_local(host):
        if api_key is None:
            raise ConfigError(
                "serve_public", f"{host or 'every address'} is reachable by others and there is no key",
                hint="--api-key KEY, or --host 127.0.0.1",
            )  # fmt: skip
        return ()
    return () if api_key is not None else tuple(dict.fromkeys((*_LOCAL_NAMES, host.lower())))


class _Listener(uvicorn.Server):
    """uvicorn, telling when it answers, and ending without the signal that ended it."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[int], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_ready(self.servers[0].sockets[0].getsockname()[1])

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {kind: signal.signal(kind, self.handle_exit) for kind in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for kind, handler in before.items():
                signal.signal(kind, handler)


def _allow_many_connections() -> None:
    """Slow clients hold a file each until they are given up; the usual 1024 would lock everyone else out."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def listen(
    app: Any,
    host: str,
    port: int,
    *,
    ready_file: Path | None = None,
    on_url: Callable[[str], None] = lambda url: None,
    grace_seconds: float = 10.0,
) -> None:
    """Serve until SIGTERM or SIGINT; replies in the making are finished first, for up to `grace_seconds`.

    Args:
        app: an ASGI application.
        host: address to listen on.
        port: 0 = any free one.
        ready_file: appears, whole, once requests are answered, and goes with the server.
        on_url: told the URL at the same time.
        grace_seconds: for replies in the making.

    Raises:
        ConfigError: serve_address, when the address can't be listened on.
    """
    if ready_file is not None:
        ready_file.unlink(missing_ok=True)  # an earlier server's: nobody must take it for ours
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        what = f"{host}:{port} can't be listened on: {(error.strerror or 'refused').lower()}"
        raise ConfigError("serve_address", what, hint="--port 0") from None

    def ready(bound: int) -> None:
        shown = f"[{host}]" if ":" in host else host
        url = f"http://{shown}:{bound}"
        if ready_file is not None:
            write_text(ready_file, url + "\n")
        on_url(url)

    _allow_many_connections()
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=max(1, round(grace_seconds)),
        ws="none",
        http=PatientNoLonger,
        h11_max_incomplete_event_size=32 * 1024,
    )
    try:
        asyncio.run(_Listener(config, ready).serve(sockets=[listening]))
    finally:
        listening.close()
        if ready_file is not None:
            ready_file.unlink(missing_ok=True)
