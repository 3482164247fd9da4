"""Names of backends: asked for once, remembered for a while, and which addresses are private."""

import asyncio
import socket
from typing import cast

import pytest

from gripproxy.backend.resolver import Resolver, is_private
from gripproxy.errors import ConnectError

TTL = 30.0


class FakeLoop:
    """The clock and the name service of a loop, both moved by the test."""

    def __init__(self) -> None:
        self.now = 100.0
        self.asked: list[str] = []
        self.is_asked = asyncio.Event()
        self.answer: list[str] | OSError | UnicodeError = ["192.0.2.1"]
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.create_task = asyncio.get_running_loop().create_task

    def time(self) -> float:
        return self.now

    async def getaddrinfo(
        self, host: str, port: None, *, type: int
    ) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        assert (port, type) == (None, socket.SOCK_STREAM)
        self.asked.append(host)
        self.is_asked.set()
        await self.may_answer.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return [(0, type, 6, "", (address, 0)) for address in self.answer]


class Stage:
    def __init__(self) -> None:
        self.loop = FakeLoop()
        self.resolver = Resolver(cast(asyncio.AbstractEventLoop, self.loop), TTL)


@pytest.fixture
async def stage() -> Stage:
    return Stage()


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "2001:db8::1"])
async def test_an_address_is_its_own_answer(stage: Stage, address: str) -> None:
    assert await stage.resolver.addresses(address) == [address]
    assert stage.loop.asked == []


async def test_a_name_has_all_its_addresses_in_order_and_each_once(stage: Stage) -> None:
    stage.loop.answer = ["192.0.2.2", "2001:db8::1", "192.0.2.2", "192.0.2.1"]
    addresses = await stage.resolver.addresses("a.example")
    assert addresses == ["192.0.2.2", "2001:db8::1", "192.0.2.1"]


async def test_an_answer_is_remembered_for_its_time(stage: Stage) -> None:
    await stage.resolver.addresses("a.example")
    stage.loop.answer = ["192.0.2.7"]
    stage.loop.now += TTL - 0.1
    assert await stage.resolver.addresses("a.example") == ["192.0.2.1"]
    stage.loop.now += 0.2
    assert await stage.resolver.addresses("a.example") == ["192.0.2.7"]
    assert stage.loop.asked == ["a.example"] * 2


async def test_names_have_answers_of_their_own(stage: Stage) -> None:
    await stage.resolver.addresses("a.example")
    stage.loop.answer = ["192.0.2.7"]
    assert await stage.resolver.addresses("b.example") == ["192.0.2.7"]


async def test_a_name_is_asked_for_once_at_a_time(stage: Stage) -> None:
    stage.loop.may_answer.clear()
    asking = [asyncio.create_task(stage.resolver.addresses("a.example")) for _ in range(3)]
    await stage.loop.is_asked.wait()
    stage.loop.may_answer.set()
    assert await asyncio.gather(*asking) == [["192.0.2.1"]] * 3
    assert stage.loop.asked == ["a.example"]


async def test_one_who_gives_up_does_not_take_the_answer_from_others(stage: Stage) -> None:
    stage.loop.may_answer.clear()
    hasty = asyncio.create_task(stage.resolver.addresses("a.example"))
    patient = asyncio.create_task(stage.resolver.addresses("a.example"))
    await stage.loop.is_asked.wait()
    hasty.cancel()
    stage.loop.may_answer.set()
    assert await patient == ["192.0.2.1"]
    assert hasty.cancelled()
    assert stage.loop.asked == ["a.example"]


ERRORS: list[OSError | UnicodeError] = [
    socket.gaierror(-2, "Name or service not known"),
    UnicodeError("label too long"),
]


@pytest.mark.parametrize("error", ERRORS)
async def test_a_name_without_addresses_is_told_and_not_remembered(
    stage: Stage, error: OSError | UnicodeError
) -> None:
    stage.loop.answer = error
    with pytest.raises(ConnectError, match=r"cannot resolve a\.example: "):
        await stage.resolver.addresses("a.example")
    stage.loop.answer = ["192.0.2.1"]
    assert await stage.resolver.addresses("a.example") == ["192.0.2.1"]


async def test_so_many_names_are_remembered_and_the_oldest_is_forgotten_first(
    stage: Stage,
) -> None:
    for number in range(1025):
        await stage.resolver.addresses(f"a{number}.example")
    stage.loop.asked.clear()
    await stage.resolver.addresses("a1.example")
    assert stage.loop.asked == []
    await stage.resolver.addresses("a0.example")
    assert stage.loop.asked == ["a0.example"]


async def test_at_the_end_nothing_is_asked_any_more(stage: Stage) -> None:
    stage.loop.may_answer.clear()
    asking = asyncio.create_task(stage.resolver.addresses("a.example"))
    await stage.loop.is_asked.wait()
    await stage.resolver.close()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_real_names_are_resolved_by_the_system() -> None:
    resolver = Resolver(asyncio.get_running_loop(), TTL)
    assert {"127.0.0.1", "::1"} >= set(await resolver.addresses("localhost")) != set()


PRIVATE = [
    "127.0.0.1",
    "127.255.255.255",
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "169.254.169.254",
    "0.0.0.0",
    "::",
    "::1",
    "fc00::1",
    "fdff::1",
    "fe80::1",
    "fe80::1%eth0",
    "febf::1",
    "::ffff:127.0.0.1",
    "::ffff:10.1.2.3",
]
PUBLIC = [
    "1.1.1.1",
    "126.255.255.255",
    "128.0.0.1",
    "11.0.0.1",
    "172.15.255.255",
    "172.32.0.1",
    "192.167.1.1",
    "169.253.1.1",
    "2001:4860::1",
    "fec0::1",
    "::ffff:1.1.1.1",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_an_untrusted_target_may_not_be_at_a_private_address(address: str) -> None:
    assert is_private(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_an_untrusted_target_may_be_anywhere_else(address: str) -> None:
    assert not is_private(address)
