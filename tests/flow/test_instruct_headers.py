"""What is read from the Grip-* headers of a backend's answer, and what becomes of the answer."""

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.flow.holding import BAD_ORIGIN, Stage, fresh, hold, line, open_stage, reply, visible
from tests.support.backend import response
from tests.support.client import Fields

pytestmark = pytest.mark.asyncio(loop_scope="module")
shared = pytest.mark.shared


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage() -> AsyncIterator[Stage]:
    async with open_stage("*,path_beg=/debug/,debug", "*,path_beg=/raw/,no_grip", "*") as it:
        yield it


@pytest.fixture(autouse=True)
def forget(stage: Stage) -> Iterator[None]:
    yield
    stage.backend.reset()


# -- errors ----------------------------------------------------------------------------------

HOLD = "Grip-Hold must be set to either 'response' or 'stream'"
STATUS = "Grip-Status contains invalid status code"
CSTRING = "failed to parse Grip-Keep-Alive cstring format"
KEEP = "Grip-Keep-Alive"

errors = pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"Grip-Hold": ""}, HOLD),
        ({"Grip-Hold": "streaming"}, HOLD),
        ({"Grip-Hold": "Stream"}, HOLD),
        ({"Grip-Hold": "response, stream"}, HOLD),
        ({"Grip-Timeout": "soon"}, "failed to parse Grip-Timeout"),
        ({"Grip-Timeout": ""}, "failed to parse Grip-Timeout"),
        ({"Grip-Timeout": "5s"}, "failed to parse Grip-Timeout"),
        ({"Grip-Timeout": "1.5"}, "failed to parse Grip-Timeout"),
        ({"Grip-Timeout": "-1"}, "Grip-Timeout has invalid value"),
        ({KEEP: "; timeout=5"}, "Grip-Keep-Alive cannot be empty"),
        ({KEEP: "x; mode=lazy"}, "no such Grip-Keep-Alive mode 'lazy'"),
        ({KEEP: "x; format=hex"}, "no such Grip-Keep-Alive format 'hex'"),
        ({KEEP: "x; timeout=soon"}, "failed to parse Grip-Keep-Alive timeout value"),
        ({KEEP: "x; timeout=-1"}, "Grip-Keep-Alive timeout has invalid value"),
        ({KEEP: "x\\; format=cstring"}, CSTRING),
        ({KEEP: "x\\xZZ; format=cstring"}, CSTRING),
        ({KEEP: "x\\x4; format=cstring"}, CSTRING),
        ({"Grip-Status": "1000"}, STATUS),
        ({"Grip-Status": "abc"}, STATUS),
        ({"Grip-Status": "-1 X"}, STATUS),
        ({"Grip-Link": "/a; rel=next; timeout=5"}, "failed to parse Grip-Link value"),
        ({"Grip-Link": "<>; rel=next; timeout=5"}, "failed to parse Grip-Link value"),
        ({"Grip-Link": "<http://[>; rel=next; timeout=5"}, "Grip-Link contains invalid link"),
        ({"Grip-Link": "</a>; rel=next; timeout=soon"}, "failed to parse Grip-Link timeout value"),
        ({"Grip-Link": "</a>; rel=next; timeout=-1"}, "Grip-Link timeout has invalid value"),
    ],
)


@shared
@errors
async def test_an_error_is_a_502_that_says_why_on_a_debug_route(
    stage: Stage, headers: dict[str, str], message: str
) -> None:
    answer = response(201, {"X": "1", **headers}, b"never seen")
    r = await stage.ask(answer, debug=True)
    assert (r.status, r.reason) == (502, "Bad Gateway")
    assert r.text == f"Failed to parse accept instructions: {message}\n"
    assert visible(r) == [("Content-Type", "text/plain")]


@shared
@errors
async def test_an_error_does_not_say_why_elsewhere(
    stage: Stage, headers: dict[str, str], message: str
) -> None:
    r = await stage.ask(response(201, {"X": "1", **headers}, b"never seen"))
    assert (r.status, r.reason, r.body) == (502, "Bad Gateway", BAD_ORIGIN)
    assert visible(r) == [("Content-Type", "text/plain")]


async def test_more_than_five_filters_on_a_channel_are_an_error(stage: Stage) -> None:
    """New in Pushpin 2.0."""
    channel = "full" + "; filter=skip-self" * 6
    r = await stage.ask(hold("stream", channel), debug=True)
    assert r.text == "Failed to parse accept instructions: too many filters for channel 'full'\n"


# -- without a hold --------------------------------------------------------------------------


@shared
@pytest.mark.parametrize(
    ("value", "status", "reason"),
    [
        ("404", 404, "Not Found"),
        ("404 Gone fishing", 404, "Gone fishing"),
        ("200 ", 200, "OK"),
        ("299", 299, "Undefined Reason"),
        ("999", 999, "Undefined Reason"),
        ("", 201, "Created"),
    ],
)
async def test_grip_status_replaces_the_status(
    stage: Stage, value: str, status: int, reason: str
) -> None:
    r = await stage.ask(response(201, {"Grip-Status": value}, b"body"))
    assert (r.status, r.reason, r.body) == (status, reason, b"body")


@shared
@pytest.mark.parametrize(
    "headers",
    [
        {"Grip-Set-Meta": "a=b"},
        {"Grip-Set-Meta": "novalue"},
        {"Grip-Channel": "nobody holds"},
        {"Grip-Timeout": "5"},
        {"Grip-Unheard-Of": "1"},
        {"grip-lower": "1"},
        {KEEP: ""},
    ],
)
async def test_without_a_hold_the_answer_passes_without_its_grip_headers(
    stage: Stage, headers: dict[str, str]
) -> None:
    r = await stage.ask(response(201, {"A": "1", **headers, "B": "2"}, b"body"))
    assert (r.status, r.reason, r.framing, r.body) == (201, "Created", "length", b"body")
    assert visible(r) == [("A", "1"), ("B", "2")]


@shared
async def test_a_chunked_answer_without_a_hold_gets_a_length(stage: Stage) -> None:
    r = await stage.ask(response(200, {"Grip-Status": "202"}, [b"two ", b"pieces"]))
    assert (r.status, r.framing, r.body) == (202, "length", b"two pieces")


@shared
@pytest.mark.parametrize(
    ("exposed", "left"),
    [
        ([("Grip-Expose-Headers", "a-b")], [("A-B", "1")]),
        ([("Grip-Expose-Headers", "A-B, c-d")], [("A-B", "1"), ("C-D", "2")]),
        (
            [("Grip-Expose-Headers", "A-B"), ("Grip-Expose-Headers", "E-F")],
            [("A-B", "1"), ("E-F", "3")],
        ),
        ([("Grip-Expose-Headers", "other")], []),
        ([("Grip-Expose-Headers", "")], [("A-B", "1"), ("C-D", "2"), ("E-F", "3")]),
    ],
)
async def test_only_exposed_headers_survive(
    stage: Stage, exposed: Fields, left: list[tuple[str, str]]
) -> None:
    r = await stage.ask(
        response(200, [*exposed, ("A-B", "1"), ("C-D", "2"), ("E-F", "3")], b"body")
    )
    assert (visible(r), r.body) == (left, b"body")


@shared
@pytest.mark.parametrize("debug", [False, True])
async def test_a_large_answer_with_grip_headers_and_no_hold_is_a_502(
    stage: Stage, debug: bool
) -> None:
    r = await stage.ask(response(200, {"Grip-Status": "201"}, b"x" * 100_001), debug=debug)
    text = f"GRIP instruct response too large from {stage.backend.address}\n".encode()
    assert (r.status, r.body) == (502, text if debug else BAD_ORIGIN)


@shared
async def test_a_large_request_cannot_be_answered_with_grip_headers(stage: Stage) -> None:
    r = await stage.ask(
        response(200, {"Grip-Status": "201"}, b"ok"), method="POST", body=b"x" * 100_001
    )
    assert (r.status, r.body) == (400, b"Request too large to accept GRIP instruct.\n")


@shared
async def test_a_no_grip_route_shows_everything(stage: Stage) -> None:
    async with stage.held(
        hold("never", "c", {"Grip-Status": "x"}, b"body"), path="/raw/x"
    ) as client:
        r = await client.read_response()
    assert (r.status, r.body) == (200, b"body")
    assert visible(r) == [("Grip-Hold", "never"), ("Grip-Channel", "c"), ("Grip-Status", "x")]


# -- of a hold -------------------------------------------------------------------------------


@shared
async def test_a_held_answer_loses_the_headers_of_the_connection(stage: Stage) -> None:
    c = fresh()
    headers = [("A", "1"), ("Keep-Alive", "timeout=5"), ("Connection", "X-Hop"), ("X-Hop", "2")]
    r = await stage.answer_to(hold("response", c, headers), c, reply(c, "x"))
    assert r.all("Keep-Alive") == [] and "X-Hop" not in r.all("Connection")
    assert ("A", "1") in visible(r)


@shared
async def test_names_of_headers_may_have_any_case(stage: Stage) -> None:
    c = fresh()
    answer = response(200, [("GRIP-HOLD", "response"), ("grip-channel", c), ("gRIP-fOO", "1")])
    r = await stage.answer_to(answer, c, reply(c, "x"))
    assert (r.body, visible(r)) == (b"x", [])


@shared
@pytest.mark.parametrize(
    ("value", "channels"),
    [
        ("{0},{1}", "{0} {1}"),
        (" {0} ,\t{1} ,", "{0} {1}"),
        ("{0}; prev-id, {1}; unknown=1", "{1}"),
        ('{0}; filter="a, b; c", {1}', "{0} {1}"),
        ('{0}; Filter=require-sub, {1}; x="quote \\" , inside"', "{0} {1}"),
        ('{1}, {0}; filter="never closed', "{1}"),
    ],
)
async def test_the_grammar_of_channels(stage: Stage, value: str, channels: str) -> None:
    c, d = fresh(), fresh()
    names = channels.format(c, d).split()
    async with stage.held(hold("response", value.format(c, d)), *names) as client:
        await stage.proxy.publish(reply(names[-1], names[-1]))
        assert (await client.read_response()).text == names[-1]


@shared
async def test_an_unterminated_quote_takes_its_channel_away(stage: Stage) -> None:
    c, d = fresh(), fresh()
    async with stage.streaming(d, path="/open") as (other, _):
        lost = hold("stream", f'{c}, {d}; filter="never closed')
        async with stage.held(lost, c) as client:
            await client.read_head()
            await stage.proxy.publish(line(d, "lost"), line(c, "kept"))
            assert await client.read_bytes(4) == b"kept"
            assert await other.read_bytes(4) == b"lost"


@shared
async def test_quotes_in_a_name_belong_to_it(stage: Stage) -> None:
    c = fresh()
    async with stage.held(hold("stream", f'"{c}"'), f'"{c}"') as client:
        await client.read_head()
        await stage.proxy.publish(line(c, "bare"), line(f'"{c}"', "quoted"))
        assert await client.read_bytes(6) == b"quoted"


@shared
async def test_an_empty_element_is_the_channel_without_a_name(stage: Stage) -> None:
    c, d = fresh(), fresh()
    async with stage.held(hold("stream", f"{c},,{d}"), c, d) as client:
        await client.read_head()
        await stage.proxy.publish(line("", "nameless "), line(d, "named"))
        assert await client.read_bytes(14) == b"nameless named"


@shared
async def test_channels_of_several_headers_add_up(stage: Stage) -> None:
    c, d = fresh(), fresh()
    answer = response(200, [("Grip-Hold", "stream"), ("Grip-Channel", c), ("grip-channel", d)])
    async with stage.held(answer, c, d) as client:
        await client.read_head()
        await stage.proxy.publish(line(c, "1"), line(d, "2"))
        assert await client.read_bytes(2) == b"12"


@shared
async def test_a_channel_named_twice_delivers_once(stage: Stage) -> None:
    c = fresh()
    async with stage.held(hold("stream", f"{c}, {c}"), c) as client:
        await client.read_head()
        await stage.proxy.publish(line(c, "1"), line(c, "2"))
        assert await client.read_bytes(2) == b"12"


@shared
async def test_a_link_without_parameters_is_ignored(stage: Stage) -> None:
    c = fresh()
    r = await stage.answer_to(hold("response", c, {"Grip-Link": "no brackets"}), c, reply(c, "x"))
    assert r.body == b"x"
