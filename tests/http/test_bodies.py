"""What may stand in a body, and how much of it."""

import json
from collections.abc import AsyncIterator

import httpx
import pytest

from served import Site

MIB = 1_048_576
FFFD = "\ufffd"


def body_with(site: Site, payload_text: str) -> bytes:
    """An event whose payload is a text that need not be JSON."""
    text = json.dumps(site.event(payload="HERE"))
    return text.replace('"HERE"', payload_text).encode("utf-8", "surrogatepass")


async def post(site: Site, body: bytes) -> httpx.Response:
    async with site.client(site.ours.key) as client:
        return await client.post("/v1/events", content=body)


async def payload_of(site: Site, answer: httpx.Response) -> object:
    """The payload as it is read back, which is what was answered."""
    assert answer.status_code == 201, answer.text
    event = answer.json()["event"]
    async with site.client(site.ours.key) as client:
        assert (await client.get(f"/v1/events/{event['id']}")).json() == {**event, "event": event}
    return event["payload"]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[1", b"no", b"{}{}", b"\xff\xfe", b'{"projectId":"\xff"}', b"null", b"1", b'"text"', b"[]", b"{}"],
)
async def test_what_is_no_event_is_refused(site: Site, body: bytes) -> None:
    answer = await post(site, body)
    assert answer.status_code == 400
    assert answer.json()["error"] == "InvalidInput"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400"])
async def test_what_is_no_number_is_refused_wherever_it_stands(site: Site, number: str) -> None:
    for payload in (number, f'{{"deep":[{number}]}}'):
        assert (await post(site, body_with(site, payload))).status_code == 400
    if number == "1e400":
        return  # it is one by JSON's grammar, and fails only who must hold it
    elsewhere = body_with(site, "1").replace(b'"payload"', f'"unknown":{number},"payload"'.encode())
    assert (await post(site, elsewhere)).status_code == 400


@pytest.mark.parametrize("opening, closing", [("[", "]"), ('{"a":', "}")])
async def test_two_hundred_levels_are_kept_and_more_refused(either_site: Site, opening: str, closing: str) -> None:
    for levels, status in ((200, 201), (201, 400), (1_000, 400), (100_000, 400)):
        answer = await post(either_site, body_with(either_site, opening * levels + "1" + closing * levels))
        assert answer.status_code == status, levels


async def test_hooks_are_bounded_in_the_same_way(client: httpx.AsyncClient) -> None:
    for levels, status in ((150, 201), (250, 400), (900, 400), (100_000, 400)):
        nested = "[" * levels + "]" * levels
        text = f'{{"hook_event_name":"PostToolUse","session_id":"s","tool_name":"T","tool_input":{nested}}}'
        answer = await client.post("/v1/hooks/claude-code", content=text)
        assert answer.status_code == status, levels


@pytest.mark.parametrize(
    "text", ['"a\\u0000b"', '"a\\ud800b"', '"a\\udc80b"', '"a\ud800b"'], ids=["NUL", "high", "low", "raw"]
)
async def test_characters_that_no_database_holds_are_replaced_and_flagged(either_site: Site, text: str) -> None:
    answer = await post(either_site, body_with(either_site, f'{{"x":{text}}}'))
    if "\ud800" in text:  # these bytes are not UTF-8
        assert answer.status_code == 400
        return
    assert await payload_of(either_site, answer) == {"x": f"a{FFFD}b"}
    assert answer.json()["event"]["metadata"] == {"flags": ["replaced_characters"]}


async def test_they_are_replaced_in_names_too(either_site: Site) -> None:
    event = either_site.event(
        eventType="t\x00", contentSessionId="s\ud800", sourceEventId="\x00", platformSource="p\x00"
    )
    answer = await post(either_site, json.dumps(event).encode())
    assert answer.status_code == 201
    assert answer.json()["event"]["sourceEventId"] == FFFD
    assert answer.json()["event"]["sourceAdapter"] == f"p{FFFD}"


async def test_a_number_of_three_hundred_digits_is_kept(either_site: Site) -> None:
    digits = "9" * 300
    payload = await payload_of(either_site, await post(either_site, body_with(either_site, f'{{"n":{digits}}}')))
    assert payload in ({"n": int(digits)}, {"n": digits})


async def test_a_byte_order_mark_is_passed_over(site: Site) -> None:
    answer = await post(site, b"\xef\xbb\xbf" + body_with(site, '"x"'))
    assert answer.status_code == 201


@pytest.mark.parametrize("payload", ["null", "0", '"text"', "[1,[2]]", "true", "{}", '{"":""}', "1.5", "-0.0"])
async def test_any_json_may_be_a_payload(either_site: Site, payload: str) -> None:
    answer = await post(either_site, body_with(either_site, payload))
    given = json.loads(payload)
    assert await payload_of(either_site, answer) == ({} if given is None else given)


async def test_a_body_of_one_mebibyte_is_taken_and_a_byte_more_is_not(site: Site) -> None:
    body = body_with(site, '"x"')
    assert (await post(site, body + b" " * (MIB - len(body)))).status_code == 201
    answer = await post(site, body + b" " * (MIB - len(body) + 1))
    assert answer.status_code == 413
    assert answer.json()["error"] == "TooLarge"


async def test_a_body_that_does_not_say_its_length_is_counted(site: Site, client: httpx.AsyncClient) -> None:
    async def chunks(count: int) -> AsyncIterator[bytes]:
        yield body_with(site, '"x"')
        for _ in range(count):
            yield b" " * 1024

    assert (await client.post("/v1/events", content=chunks(1000))).status_code == 201
    assert (await client.post("/v1/events", content=chunks(1024))).status_code == 413


async def test_a_long_text_in_a_payload_is_cut_and_not_refused(site: Site) -> None:
    answer = await post(site, body_with(site, json.dumps({"text": "x" * 600_000})))
    payload = await payload_of(site, answer)
    assert isinstance(payload, dict)
    assert "characters cut" in payload["text"]
    assert len(payload["text"]) <= 262_144
    assert "cut" in answer.json()["event"]["metadata"]["flags"]


async def test_a_private_part_never_comes_back(site: Site) -> None:
    answer = await post(site, body_with(site, '{"x":"a <private>MARK-SECRET</private> b"}'))
    assert answer.status_code == 201
    assert "MARK-SECRET" not in answer.text


async def test_a_whole_number_may_be_written_with_a_point(site: Site) -> None:
    at = site.event()["occurredAtEpoch"]
    for written, status in ((f"{at}.0", 201), ("1.79e12", 201), (f"{at}.5", 400), (f'"{at}"', 400), ("1e300", 400)):
        body = json.dumps(site.event(occurredAtEpoch="HERE", payload={"n": 5.0})).replace('"HERE"', written)
        answer = await post(site, body.encode())
        assert answer.status_code == status, written
        if status == 201:
            assert answer.json()["event"]["occurredAtEpoch"] == int(float(written))
            assert '"n":5.0' in answer.text
