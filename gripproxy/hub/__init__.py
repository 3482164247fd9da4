"""Who waits for what, and what reaches them. Nothing here does I/O; `now` is an argument."""
