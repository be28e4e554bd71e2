"""`chiasm serve`: models behind the API that clients already speak, on this machine only unless a key guards them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chiasm.cli.options import LOADING, Loading
from chiasm.cli.output import UsageError, emit, note, say

if TYPE_CHECKING:
    from chiasm.search.index import PictureIndex
    from chiasm.serving.settings import Settings
    from chiasm.serving.supervisor import EngineProcess


def serve(
    model: str,
    /,
    *more: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    ready_file: Path | None = None,
    api_key: str | None = None,
    deterministic: bool = False,
    allow_media_host: tuple[str, ...] = (),
    allow_local_media: Path | None = None,
    max_queue: int = 64,
    max_batch: int = 8,
    index: tuple[Path, ...] = (),
    options: Loading = LOADING,
) -> None:
    """Serve models over HTTP: chiasm serve MODEL [MODEL...] --port 8000.

    Args:
        model: A bundled name, a folder, or a hub id.
        more: More models; a client names the one it asks.
        host: Address to listen on; one that others reach needs --api-key.
        port: Port to listen on; 0 takes any free one.
        ready_file: File that appears, holding the URL, once requests are answered.
        api_key: Key that every request must carry; also read from CHIASM_API_KEY, where other users can't see it.
        deterministic: A reply doesn't depend on what else is asked at the time; slower under load.
        allow_media_host: Host from which pictures may be fetched, as host or host:port; may be repeated.
        allow_local_media: Folder whose pictures requests may name by path.
        max_queue: Requests that may wait; more are answered with 429.
        max_batch: Replies written at once.
        index: Index of pictures to search, from chiasm index add with one of the models; may be repeated.
    """
    _check_numbers(port, max_queue, max_batch, allow_local_media)
    attach, create_app, guarded_hosts, listen = _server()
    from chiasm.serving.settings import Settings

    api_key = api_key if api_key is not None else os.environ.get("CHIASM_API_KEY")
    settings = Settings(
        api_key=api_key,
        hosts=guarded_hosts(host, api_key),
        media_hosts=allow_media_host,
        media_folder=allow_local_media,
        max_queue=max_queue,
        max_batch=max_batch,
    )
    indexes = {name: _index(path) for name, path in _named(index, "index").items()}
    engines = _engines(_named((model, *more)), settings, deterministic=deterministic, options=options)

    def tell(url: str) -> None:
        if options.json:
            emit({"url": url, "models": list(engines)})
        else:
            say(f"{url}  ({', '.join(engines)})")

    try:
        for engine in engines.values():
            _ = engine.card  # loaded, or the reason why not
        searched = asyncio.run(attach(indexes, engines, settings.request_seconds))
        listen(create_app(engines, settings, searched), host, port, ready_file=ready_file, on_url=tell)
    finally:
        for engine in engines.values():
            engine.close(0)


def _check_numbers(port: int, max_queue: int, max_batch: int, folder: Path | None) -> None:
    if not 0 <= port <= 65_535:
        raise UsageError(f"--port is {port}, outside 0 to 65535")
    if max_queue < 1 or max_batch < 1:
        raise UsageError(f"--max-queue is {max_queue} and --max-batch {max_batch}, the least is 1")
    if folder is not None and not folder.is_dir():
        raise UsageError(f"--allow-local-media {folder} is not a folder")


def _server() -> tuple[Any, Any, Any, Any]:
    """What needs the packages of `chiasm[serve]`: attach, create_app, guarded_hosts, listen."""
    from chiasm.core.errors import ChiasmError

    try:
        from chiasm.serving.app import create_app
        from chiasm.serving.running import guarded_hosts, listen
        from chiasm.serving.searching import attach
    except ModuleNotFoundError as error:
        what = f"the package {error.name!r} is not installed"
        raise ChiasmError("package_missing", what, hint='pip install "chiasm[serve]"') from None
    return attach, create_app, guarded_hosts, listen


def _named(sources: Sequence[str | Path], kind: str = "model") -> dict[str, str]:
    """Sources by the names that clients use: a folder's own, since where it stands is nobody's business."""
    from chiasm.core.errors import ConfigError

    names: dict[str, str] = {}
    for source in map(str, sources):
        name = Path(source).resolve().name if Path(source).is_dir() else source
        if name in names:
            what = f"{kind} {name!r} is there 2 times"
            raise ConfigError(f"{kind}_twice", what, hint="give the folders different names")
        names[name] = source
    return names


def _index(folder: str) -> PictureIndex:
    from chiasm.search.index import PictureIndex

    return PictureIndex(Path(folder))


def _engines(
    sources: Mapping[str, str], settings: Settings, *, deterministic: bool, options: Loading
) -> dict[str, EngineProcess]:
    """Start a process for every model; they load side by side."""
    from chiasm.serving.supervisor import EngineProcess

    engine = {
        "max_queue": settings.max_queue,
        "max_batch": settings.max_batch,
        "stall_seconds": settings.stall_seconds,
        "deterministic": deterministic,
    }
    found = {}
    for name, source in sources.items():
        note(f"loading {source}")
        found[name] = EngineProcess(options.arguments(source), engine, settings.max_queue + settings.max_batch)
    return found
