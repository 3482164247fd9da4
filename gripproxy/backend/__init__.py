"""The wire to the backend."""
