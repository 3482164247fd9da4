"""The wire to the clients."""
