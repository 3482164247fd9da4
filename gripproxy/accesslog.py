"""One line for each request, hold and publish, in Pushpin's format."""

import logging
from collections.abc import Mapping
from typing import Protocol

from gripproxy.http1.head import RequestHead, header

log = logging.getLogger("gripproxy.access")


class Peer(Protocol):
    """The other end of a client's connection."""

    @property
    def peer(self) -> str: ...


class AccessLog:
    """Writes the lines.

    Callers look at `enabled` first, so that they cost nothing when nobody reads them.
    """

    def __init__(self, *, log_from: bool, log_user_agent: bool) -> None:
        self._log_from = log_from
        self._log_user_agent = log_user_agent
        self.enabled = log.isEnabledFor(logging.INFO)

    def exchange(
        self,
        request: RequestHead,
        url: str,
        client: Peer,
        route_id: str | None,
        target: str | None,
        outcome: str,
        last_ids: Mapping[str, str],
    ) -> None:
        """A request has ended or is held."""
        parts = [request.method.decode("latin-1"), url]
        if target is not None:
            parts.append(f"-> {target}")
        if self._log_from and client.peer:
            parts.append(f"from={client.peer}")
        referer = header(request.headers, b"referer")
        if referer:
            parts.append(f"ref={referer.decode('latin-1')}")
        if route_id is not None:
            parts.append(f"route={route_id}")
        parts.append(outcome)
        if last_ids:
            parts.append("retry")
        if self._log_user_agent:
            agent = header(request.headers, b"user-agent")
            if agent:
                parts.append(f"ua={agent.decode('latin-1')}")
        parts += [f"#{channel}={last}" for channel, last in last_ids.items()]
        log.info(" ".join(parts))

    def subscribe(self, url: str, channel: str, *, retry: bool) -> None:
        """A hold listens to `channel`."""
        log.info("subscribe %s channel=%s%s", url, channel, " retry" if retry else "")

    def publish(self, channel: str, receivers: int) -> None:
        """A message goes to `receivers` connections."""
        log.info("publish channel=%s receivers=%d", channel, receivers)
