"""The server: the media gate, the engine's queue, OpenAI's HTTP interface, and the doors in front of them."""
