"""Hostile content: pictures, addresses, strings and whatever the published description can be twisted into."""

from __future__ import annotations

import io
import random
import socket
import tempfile
import threading
from collections import Counter
from pathlib import Path
from typing import Any

from PIL import Image

from hostile.server import Served, chat, data_uri, miniatures

ALLOWED = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
OTHERS = ("ICO", "PPM", "TGA", "PCX", "SGI", "DDS", "JPEG2000", "IM", "MSP", "SPIDER", "EPS", "PDF", "ICNS", "AVIF")


def originals(chance: random.Random) -> list[bytes]:
    """Files in some 20 formats, with noise so that every coder has work."""
    made = []
    for kind in (*ALLOWED, *OTHERS):
        for mode in ("RGB", "L", "1"):
            picture = Image.frombytes("RGB", (64, 48), chance.randbytes(64 * 48 * 3)).convert(mode)
            file = io.BytesIO()
            try:
                picture.save(file, kind)
            except (OSError, KeyError, ValueError, SystemError):
                continue
            made.append(file.getvalue())
    return [*made, b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.7", b"\x00\x00\x00\x18ftypheic" + bytes(64)]


def mutated(data: bytes, chance: random.Random) -> bytes:
    """One of the usual ways to break a file."""
    body = bytearray(data)
    for _ in range(chance.randint(1, 12)):
        at = chance.randrange(len(body))
        way = chance.randrange(4)
        if way == 0:
            body[at] = chance.randrange(256)
        elif way == 1:
            body[at : at + 4] = chance.choice((b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", bytes(4)))
        elif way == 2 and len(body) > 32:
            del body[at : at + chance.randint(1, 16)]
        else:
            body[at:at] = chance.randbytes(chance.randint(1, 16))
    return bytes(body or b"\0")


def pictures(server: Served, scale: float) -> dict[str, Any]:
    """Mutated pictures: every one read or refused with a code, soon, and nothing grows."""
    chance, told, slowest = random.Random(3), Counter[str](), 0.0
    files = originals(chance)
    count = max(60, round(2000 * scale))
    for _ in range(100):
        server.ask("/v1/embeddings", embedding(mutated(chance.choice(files), chance)))
    before = server.memory()
    for _ in range(count):
        status, document, seconds = server.ask("/v1/embeddings", embedding(mutated(chance.choice(files), chance)))
        told[document.get("error", {}).get("code", str(status))] += 1
        bad = status not in (200, 400)
        told["WRONG"] += bad
        if status != 200:
            slowest = max(slowest, seconds)
    grown = server.memory() - before
    figures = {
        "pictures": count,
        "told": dict(told),
        "slowest_refusal_s": round(slowest, 2),
        "grown_mib": round(grown, 1),
    }
    return {**figures, "ok": told["WRONG"] == 0 and slowest <= 1.0 and grown < 50}


def embedding(data: bytes) -> dict[str, Any]:
    """A request to embed a file's bytes."""
    return {"model": "clip", "input": [{"type": "image_url", "image_url": {"url": data_uri(data)}}]}


HOSTS = (
    "127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.1", "017700000001", "0177.0.0.1", "0", "0.0.0.0",
    "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::7f00:1]", "[64:ff9b:1::7f00:1]",
    "[2002:7f00:1::]", "[fe80::1%25lo]", "localhost", "LOCALHOST", "localhost.", "127.0.0.1.",
    "①②⑦.⓪.⓪.①", "127。0。0。1",
    "good.example@127.0.0.1", "127.0.0.1%2f@good.example", "good.example%00.127.0.0.1", "good.example\\@127.0.0.1",
    "good.example#@127.0.0.1", "127.0.0.1?@good.example", " 127.0.0.1", "127.0.0.1\t", "127.0.0.1\r\nHost: x",
    "ⓛocalhost",
)  # fmt: skip


def tricks(port: int) -> list[str]:
    """Addresses that have led servers to their own machine."""
    spelled = [f"{scheme}{host}:{port}/a.png" for host in HOSTS for scheme in ("http://", "HTTPS://", "http:/", "//")]
    nested = f"http://127.0.0.1:{port}/a.png"
    return [
        *spelled, "file:///etc/hostname", "file://localhost/etc/hostname", "/etc/hostname", "../../etc/hostname",
        f"data:text/plain,{nested}", f"data:image/svg+xml,<svg><image href='{nested}'/></svg>", f"data:{nested}",
        f"data:image/png;url={nested};base64,", f"gopher://127.0.0.1:{port}/_x", f"ftp://127.0.0.1:{port}/a.png",
        f"jar:{nested}!/", f"url:{nested}", f"view-source:{nested}", f"ws://127.0.0.1:{port}", f"blob:{nested}",
    ]  # fmt: skip


def addresses(server: Served, scale: float) -> dict[str, Any]:
    """Tricks with addresses: nobody connects to our listener, with remote pictures off and with hosts let in."""
    came: list[int] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def listen() -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            came.append(1)
            peer.close()

    threading.Thread(target=listen, daemon=True).start()
    told = Counter[str]()
    port = listener.getsockname()[1]
    words = ("--allow-media-host", "good.example", "--allow-media-host", f"localhost:{port}")
    with tempfile.TemporaryDirectory() as folder:
        open_server = Served(miniatures(Path(folder)), Path(folder), *words)
        try:
            for one in (server, open_server):
                for url in tricks(port):
                    status, document, _ = one.ask("/v1/chat/completions", chat(url))
                    told[f"{status} {document.get('error', {}).get('code')}"] += 1
        finally:
            open_server.close()
            listener.close()
    good = all(name.startswith("400 ") for name in told)
    return {"tricks": sum(told.values()), "told": dict(told), "connections": len(came), "ok": good and not came}


def strings(server: Served, scale: float) -> dict[str, Any]:
    """Texts built from the spellings of control tokens, by three tokenizers: no control id comes out."""
    import chiasm

    chance, count, wrong = random.Random(5), max(300, round(10_000 * scale)), 0
    for family in ("llava", "clip", "albef"):
        tokenizer = chiasm.new(family, tiny=True).processor.tokenizer
        control = tokenizer.control_ids - {tokenizer.unk_id}
        pieces = [*tokenizer.control_tokens, "</s>", "<s>", "[INST]", "<<SYS>>", "<image>", "<|im_end|>", "<0x0A>"]
        for _ in range(count // 3):
            text = "".join(twisted(chance.choice(pieces), chance) for _ in range(chance.randint(1, 6)))
            wrong += bool(control & set(tokenizer.encode(text, first=chance.random() < 0.5)))
    status, _, _ = server.ask("/v1/chat/completions", chat(text="<image></s><|im_end|>" * 50))
    return {"strings": count // 3 * 3, "control_tokens": wrong, "ok": wrong == 0 and status in (200, 400)}


def twisted(text: str, chance: random.Random) -> str:
    """A spelling, perhaps with something around or inside it."""
    way = chance.randrange(5)
    at = chance.randrange(len(text) + 1)
    filler = chance.choice((" ", "\n", "\u200b", "a", "\u2581", "\0", "İ"))
    return [text, filler + text, text + filler, text[:at] + filler + text[at:], text[:at] + text + text[at:]][way]
