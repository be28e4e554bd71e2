"""Remote pictures: whatever the spelling of an address, nobody reaches a machine that isn't public and allowed."""

from __future__ import annotations

import pytest
from tests.serving.conftest import Canary, encoded

from chiasm.core.errors import PictureError
from chiasm.serving.fetching import Fetcher, is_global

SPELLINGS = (
    "127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.1", "017700000001", "0177.0.0.1", "0",
    "0.0.0.0", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]",
    "[fe80::1%25lo]", "localhost", "LOCALHOST", "localhost.", "127.0.0.1.", "127.0.0.1.nip.io", "169.254.169.254",
    "metadata.google.internal", "①②⑦.⓪.⓪.①", "127。0。0。1", "good.example@127.0.0.1", "127.0.0.1%2f@good.example",
    "good.example%00.127.0.0.1", "good.example\\@127.0.0.1", "good.example:80@127.0.0.1", "good.example#@127.0.0.1",
    "127.0.0.1?@good.example", "good.example;127.0.0.1", " 127.0.0.1", "127.0.0.1\t", "good.example.127.0.0.1",
    "xn--good-.example", "evil-good.example", "good.example.evil",
)  # fmt: skip


def resolver(address: str):  # noqa: ANN201
    return lambda host, port: [address]


@pytest.mark.parametrize("scheme", ["http://", "https://", "HTTP://", "http:/", "http:", "http:///"])
def test_no_spelling_reaches_the_canary(canary: Canary, scheme: str) -> None:
    # Names resolve to the canary's address: a name that slipped past the list is stopped by its address.
    fetcher = Fetcher(["good.example", f"good.example:{canary.port}"], 100_000, 1.0, resolve=resolver("127.0.0.1"))
    for host in SPELLINGS:
        for url in (f"{scheme}{host}:{canary.port}/a.png", f"{scheme}{host}/a.png", f"{scheme}{host}"):
            with pytest.raises(PictureError) as refusal:
                fetcher.fetch(url)
            assert refusal.value.code == "media_address", url
            assert host not in refusal.value.what
    assert canary.connections == 0


def test_an_allowed_name_that_leads_inside_is_refused(canary: Canary) -> None:
    name = f"good.example:{canary.port}"
    for address in ("127.0.0.1", "10.0.0.8", "::1", "::ffff:127.0.0.1", "169.254.169.254", "100.64.0.1", "224.0.0.1"):
        for both in ([address], ["93.184.216.34", address]):
            fetcher = Fetcher([name], 100_000, 1.0, resolve=lambda host, port, both=both: both)
            with pytest.raises(PictureError) as refusal:
                fetcher.fetch(f"http://{name}/a.png")
            assert refusal.value.code == "media_address"
    assert canary.connections == 0


def test_public_addresses_are_told_from_others() -> None:
    assert is_global("93.184.216.34") and is_global("2606:4700::1111")
    for address in ("192.168.1.1", "198.18.0.1", "240.0.0.1", "255.255.255.255", "fc00::1", "2001::1", "2002:7f00:1::"):
        assert not is_global(address), address


def allowed(canary: Canary, resolve=None, max_bytes: int = 100_000, hosts: tuple[str, ...] = ()) -> Fetcher:  # noqa: ANN001
    """A fetcher to which the canary counts as a public machine."""
    names = [f"good.example:{canary.port}", *hosts]
    return Fetcher(
        names, max_bytes, 2.0, resolve=resolve or resolver("127.0.0.1"), permitted=lambda a: a == "127.0.0.1"
    )


def test_an_allowed_host_is_fetched_and_resolved_once(canary: Canary) -> None:
    asked: list[str] = []

    def rebinding(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["10.0.0.1"]

    fetcher = allowed(canary, rebinding)
    assert fetcher.fetch(f"http://good.example:{canary.port}/a.png") == encoded()
    assert asked == ["good.example"]
    with pytest.raises(PictureError, match="not a public machine"):
        fetcher.fetch(f"http://good.example:{canary.port}/a.png")
    assert canary.connections == 1


@pytest.mark.parametrize(
    "location", ["http://127.0.0.1:{port}/", "//localhost:{port}/x", "file:///etc/hostname", "http://other.example/"]
)
def test_a_redirect_passes_the_same_checks(canary: Canary, location: str) -> None:
    place = location.format(port=canary.port).encode()
    canary.answer = b"HTTP/1.1 302 Found\r\nLocation: " + place + b"\r\nConnection: close\r\n\r\n"
    with pytest.raises(PictureError) as refusal:
        allowed(canary).fetch(f"http://good.example:{canary.port}/a.png")
    assert refusal.value.code == "media_address"
    assert canary.connections == 1


def test_redirects_end(canary: Canary) -> None:
    canary.answer = b"HTTP/1.1 302 Found\r\nLocation: /again\r\nConnection: close\r\n\r\n"
    with pytest.raises(PictureError, match="redirected more than 3 times"):
        allowed(canary).fetch(f"http://good.example:{canary.port}/a.png")
    assert canary.connections == 4


def test_bytes_are_counted_as_they_come(canary: Canary) -> None:
    canary.answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + bytes(50_000)  # no announced length
    with pytest.raises(PictureError) as refusal:
        allowed(canary, max_bytes=10_000).fetch(f"http://good.example:{canary.port}/a.png")
    assert refusal.value.code == "picture_too_large"
    canary.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n"
    with pytest.raises(PictureError) as refusal:
        allowed(canary).fetch(f"http://good.example:{canary.port}/a.png")
    assert refusal.value.code == "picture_too_large"
    canary.answer = b"HTTP/1.1 404 Not Found\r\nConnection: close\r\n\r\n"
    with pytest.raises(PictureError, match="status 404"):
        allowed(canary).fetch(f"http://good.example:{canary.port}/a.png")
