"""A reverse proxy that holds realtime HTTP connections and obeys GRIP."""

__version__ = "0.1.0"
