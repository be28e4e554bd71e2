"""How many bytes of decoded pictures are in hand: each request's share is given back when it ends, however it ends."""

from __future__ import annotations

import threading

from chiasm.serving.work import Refusal


class Store:
    """Room for decoded pictures.

    Args:
        most: bytes.
    """

    def __init__(self, most: int) -> None:
        self.most, self.taken = most, 0
        self.lock = threading.Lock()


class Share:
    """What one request has of a store.

    Args:
        store: where it is taken.
    """

    def __init__(self, store: Store) -> None:
        self._store, self._taken, self._closed = store, 0, False

    def take(self, size: int) -> None:
        """Take so many bytes; from any thread.

        Raises:
            Refusal: engine_busy when there is no room, or nobody waits any more.
        """
        store = self._store
        with store.lock:
            if self._closed or (store.taken and store.taken + size > store.most):
                what = f"pictures of {store.taken:,} bytes are in hand, the limit is {store.most:,}"
                raise Refusal("engine_busy", what)
            store.taken += size
            self._taken += size

    def close(self) -> None:
        """Give everything back."""
        with self._store.lock:
            self._closed = True
            self._store.taken -= self._taken
            self._taken = 0
