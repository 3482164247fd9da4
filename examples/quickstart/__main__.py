"""Run the quickstart: its backend, and gripproxy in front of it, until Ctrl-C.

python -m examples.quickstart [--port 7999] [--backend-port 8000]
"""

import sys

from aiohttp import web

from examples.quickstart.backend import CHANNEL, PUBLISH_URL, Quickstart
from examples.runner import Example, run

CURL = (
    f'curl -d \'{{"items":[{{"channel":"{CHANNEL}",'
    '"http-stream":{"content":"data: hello\\n\\n"},"http-response":{"body":"hello\\n"}}]}\''
)


def make_app(publish_url: str, url: str) -> web.Application:
    return Quickstart(publish_url, url).app()


def hint(publish_url: str, url: str) -> str:
    return (
        f"Open {url} and send a message. Or publish from another terminal:\n\n"
        f"  {CURL} {publish_url}"
    )


if __name__ == "__main__":
    sys.exit(run(Example("quickstart", "make run", PUBLISH_URL, make_app, hint)))
