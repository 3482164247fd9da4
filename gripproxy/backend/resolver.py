"""Names of backends to addresses, remembered for a while."""

import asyncio
import ipaddress
import socket
from dataclasses import dataclass

from gripproxy.errors import ConnectError

# Names can come from clients' Host headers only by way of a route, but a bound costs nothing.
_NAMES_MAX = 1024

_BLOCKED = tuple(
    ipaddress.ip_network(text)
    for text in (
        "127.0.0.0/8",
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "169.254.0.0/16",
        "::1/128",
        "fc00::/7",
        "fe80::/10",
    )
)


def is_private(address: str) -> bool:
    """Whether an `untrusted` target must not be reached at `address`."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return parsed.is_unspecified or any(parsed in network for network in _BLOCKED)


@dataclass(slots=True)
class _Answer:
    addresses: list[str]
    until: float


class Resolver:
    """Asks the system's resolver, at most once at a time for each name."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ttl: float) -> None:
        self._loop = loop
        self._ttl = ttl
        self._answers: dict[str, _Answer] = {}
        self._asking: dict[str, asyncio.Task[list[str]]] = {}

    async def addresses(self, host: str) -> list[str]:
        """Every address of `host`, in the system's order.

        Raises ConnectError when there is none.
        """
        try:
            ipaddress.ip_address(host)
        except ValueError:
            pass
        else:
            return [host]
        answer = self._answers.get(host)
        if answer is not None and answer.until > self._loop.time():
            return answer.addresses
        task = self._asking.get(host)
        if task is None:
            task = self._asking[host] = self._loop.create_task(self._ask(host))
            task.add_done_callback(lambda _: self._asking.pop(host, None))
        # A waiter that gives up must not take the answer from the others.
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Give up on what is being asked."""
        tasks = list(self._asking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, host: str) -> list[str]:
        try:
            found = await self._loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise ConnectError(f"cannot resolve {host}: {error}") from error
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        if len(self._answers) >= _NAMES_MAX:
            self._answers.pop(next(iter(self._answers)))
        self._answers[host] = _Answer(addresses, self._loop.time() + self._ttl)
        return addresses
