"""WebSocket frames and handshakes: bytes to values and back. Nothing here does I/O."""
