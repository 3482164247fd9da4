"""Run the chat: its backend, and gripproxy in front of it, until Ctrl-C.

python -m examples.chat [--port 7999] [--backend-port 8000]
"""

import sys

from aiohttp import web

from examples.chat.backend import PUBLISH_URL, Chat
from examples.runner import Example, run


def make_app(publish_url: str, _: str) -> web.Application:
    return Chat(publish_url).app()


def hint(_: str, url: str) -> str:
    return f"Open {url} in two windows and chat."


if __name__ == "__main__":
    sys.exit(run(Example("chat", "make chat", PUBLISH_URL, make_app, hint, target="over_http")))
