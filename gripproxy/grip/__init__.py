"""The GRIP language: bytes to values and back. Nothing here does I/O or reads a clock."""
