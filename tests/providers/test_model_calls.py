"""Calls of a model by each API: what is sent, what becomes of each answer and each failure."""

import asyncio
import json
import logging
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from certificates import new_authority
from model_server import model_server
from model_wires import APIS, Api, Say, quota_failure, retry_info
from onlooker.domain.errors import (
    BadSettings,
    Busy,
    Exhausted,
    ProviderError,
    Rejected,
    TooLong,
    Unreadable,
)
from onlooker.domain.jobs import JobKind
from onlooker.domain.lanes import LaneCondition
from onlooker.domain.models import Usage, total_usage
from onlooker.providers.anthropic import Anthropic
from onlooker.providers.contract import GenerationAnswer, Provider
from onlooker.providers.wire import MAX_OUTPUT_TOKENS
from providers.asked import KEY, provider_at
from providers.happened import asked, ran, request_of

each_api = pytest.mark.parametrize("api", APIS)
NOTE: Mapping[str, Any] = {"title": "Totals rounded", "type": "bugfix", "events": [0]}
PROSE = "I have looked at everything and it is fine."
EVENTS = [ran("make one"), ran("make two"), ran("make three")]


async def ask(api: Api, *answers: Say, events: int = 1, kind: JobKind = JobKind.EVENT) -> GenerationAnswer:
    with model_server(*answers) as server:
        async with provider_at(server, api) as provider:
            return await provider.generate(request_of(EVENTS[:events], kind))


async def failure(provider: Provider, kind: type[ProviderError], *, events: int = 1) -> ProviderError:
    with pytest.raises(kind) as raised:
        await provider.generate(request_of(EVENTS[:events]))
    assert type(raised.value) is kind
    return raised.value


async def failure_at(api: Api, kind: type[ProviderError], *answers: Say, events: int = 1) -> tuple[ProviderError, int]:
    """The error and how many calls it took."""
    with model_server(*answers) as server:
        async with provider_at(server, api) as provider:
            error = await failure(provider, kind, events=events)
            return error, len(server.asked)


class TestForms:
    @each_api
    async def test_a_structured_answer_is_asked_for_first(self, api: Api) -> None:
        with model_server(Say(notes=(NOTE,))) as server:
            async with provider_at(server, api) as provider:
                answer = await provider.generate(request_of(EVENTS[:1]))
            assert server.asked[0].structured
            assert server.asked[0].key == KEY
        assert [draft.title for draft in answer.drafts] == ["Totals rounded"]
        assert (answer.provider, answer.prompt_version) == (api, "1/code")

    @each_api
    async def test_an_endpoint_that_refuses_it_is_asked_in_words_and_never_again_otherwise(self, api: Api) -> None:
        with model_server() as server:
            server.refuses_structured = True
            async with provider_at(server, api) as provider:
                for _ in range(2):
                    assert (await provider.generate(request_of(EVENTS[:1]))).drafts
            assert (len(server.asked), server.refused) == (2, 1)
            assert "JSON object" in server.asked[0].prompt

    @each_api
    async def test_a_refusal_for_another_reason_is_not_remembered(self, api: Api) -> None:
        refusals = (Say(status=400), Say(status=400))
        with model_server(*refusals) as server:
            async with provider_at(server, api) as provider:
                await failure(provider, Rejected)
                await provider.generate(request_of(EVENTS[:1]))
            assert [each.structured for each in server.asked] == [True, False, True]

    @each_api
    async def test_once_it_has_worked_a_refusal_is_about_the_request(self, api: Api) -> None:
        with model_server(Say(), Say(status=400)) as server:
            async with provider_at(server, api) as provider:
                await provider.generate(request_of(EVENTS[:1]))
                await failure(provider, Rejected)
            assert len(server.asked) == 2

    async def test_a_limit_of_the_answer_that_is_refused_gets_its_other_name(self) -> None:
        refusal = Say(status=400, code="unsupported_parameter", param="max_tokens")
        with model_server(refusal) as server:
            async with provider_at(server, "openai") as provider:
                for _ in range(2):
                    await provider.generate(request_of(EVENTS[:1]))
            limits = [{"max_tokens", "max_completion_tokens"} & each.body.keys() for each in server.asked]
            assert limits == [{"max_tokens"}, {"max_completion_tokens"}, {"max_completion_tokens"}]
            assert all(each.structured for each in server.asked)

    @each_api
    async def test_an_endpoint_that_ignores_the_schema_is_soon_asked_in_words(self, api: Api) -> None:
        good = Say(text='{"observations": []}')
        with model_server(Say(text=PROSE), good, Say(text=PROSE), good, good) as server:
            async with provider_at(server, api) as provider:
                for _ in range(3):
                    await provider.generate(request_of(EVENTS[:1]))
            assert [each.structured for each in server.asked] == [True, False, True, False, False]

    @each_api
    async def test_the_stable_part_comes_first_and_never_changes(self, api: Api) -> None:
        with model_server() as server:
            async with provider_at(server, api) as provider:
                for kind in (JobKind.EVENT, JobKind.SUMMARY):
                    await provider.generate(request_of([asked("one"), ran("make")], kind))
            first, second = server.asked
            assert first.system == second.system
            if api == "anthropic":
                assert first.body["tools"] == second.body["tools"]
                assert first.body["system"][-1]["cache_control"] == {"type": "ephemeral"}


class TestRepair:
    @each_api
    async def test_an_unusable_answer_gets_one_repair_round(self, api: Api) -> None:
        with model_server(Say(text=PROSE), Say(notes=(NOTE,))) as server:
            async with provider_at(server, api) as provider:
                answer = await provider.generate(request_of(EVENTS[:1]))
            assert len(server.asked) == 2
            assert [text for _, text in server.asked[1].turns[1:2]] == [PROSE]
            assert "cannot be used" in server.asked[1].turns[2][1]
        assert (len(answer.drafts), total_usage(answer.uses).calls) == (1, 2)

    @each_api
    async def test_a_second_one_fails_the_job_with_what_was_wrong_and_what_it_cost(self, api: Api) -> None:
        error, calls = await failure_at(api, Unreadable, Say(text=PROSE, input_tokens=900), Say(text=PROSE))
        assert calls == total_usage(error.uses).calls == 2
        assert total_usage(error.uses).input_tokens > 900
        assert "neither" in str(error)
        assert PROSE not in str(error)

    @each_api
    async def test_an_empty_answer_is_not_repaired(self, api: Api) -> None:
        _, calls = await failure_at(api, Unreadable, Say(text=""))
        assert calls == 1

    @each_api
    async def test_tags_are_taken_from_whoever_knows_them(self, api: Api) -> None:
        answer = await ask(api, Say(text="<observation><title>x</title></observation>"))
        assert [draft.title for draft in answer.drafts] == ["x"]

    @each_api
    async def test_an_overload_in_the_place_of_an_answer_is_one(self, api: Api) -> None:
        text = 'API Error: 529 {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}'
        _, calls = await failure_at(api, Busy, Say(text=text))
        assert calls == 1

    @each_api
    async def test_an_unknown_error_in_the_place_of_an_answer_is_never_stored(self, api: Api) -> None:
        await failure_at(api, Unreadable, Say(text='{"error":"QA pack assessment failed","reason":"timeout"}'))

    async def test_an_error_in_the_choice_is_one(self) -> None:
        with model_server() as server:
            async with provider_at(server, "openai") as provider:
                body = {"error": {"code": 429, "message": "x"}, "choices": []}
                wire = provider._wire  # type: ignore[attr-defined]  # the wire under the provider is the seam here
                assert wire.read(body).error == body
                assert wire.read({"choices": [{"error": {"code": 502}, "message": {}}]}).error


class TestTheWay:
    async def test_a_proxy_is_asked_for_what_is_not_on_this_machine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with model_server(Say(notes=(NOTE,)), Say(notes=(NOTE,))) as server:
            monkeypatch.setenv("HTTP_PROXY", server.url.replace("http://", "http://me:secret@"))
            far = {"openai_base_url": "http://model.invalid/v1"}
            async with provider_at(server, "openai", given=far) as provider:
                await provider.generate(request_of(EVENTS[:1]))
            through = server.asked[0]
            assert through.path == "http://model.invalid/v1/chat/completions"
            assert through.headers["proxy-authorization"].startswith("Basic ")
            async with provider_at(server, "openai") as provider:
                await provider.generate(request_of(EVENTS[:1]))
            assert server.asked[1].path == "/v1/chat/completions"
            monkeypatch.setenv("NO_PROXY", "model.invalid")
            async with provider_at(server, "openai", given=far) as provider:
                error = await failure(provider, Busy)
            assert "secret" not in str(error)

    async def test_an_authority_of_ones_own_is_trusted_where_the_settings_name_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        authority = new_authority(tmp_path / "ca.pem")
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(*authority.sign(tmp_path))
        with model_server(Say(notes=(NOTE,)), Say(notes=(NOTE,)), tls=tls) as server:
            async with provider_at(server, "openai") as provider:
                error = await failure(provider, Busy)
            assert "its certificate is not trusted" in str(error)
            async with provider_at(server, "openai", given={"ca_file": str(authority.file)}) as provider:
                assert (await provider.generate(request_of(EVENTS[:1]))).drafts
            monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
            async with provider_at(server, "openai") as provider:
                assert (await provider.generate(request_of(EVENTS[:1]))).drafts


class TestStops:
    @each_api
    async def test_refused_content_is_rejected(self, api: Api) -> None:
        error, calls = await failure_at(api, Rejected, Say(text="", stop="refusal"))
        assert calls == 1
        assert total_usage(error.uses).calls == 1
        assert not error.retryable

    @each_api
    async def test_an_answer_that_is_cut_keeps_its_whole_blocks(self, api: Api) -> None:
        notes = json.dumps({"observations": [{"title": "a", "events": [0]}, {"title": "b", "events": [1]}]})
        answer = await ask(api, Say(text=notes[:-15], stop="length"), events=3)
        assert ([draft.title for draft in answer.drafts], answer.answered) == (["a"], 1)

    @each_api
    async def test_an_answer_cut_before_its_first_end_is_asked_for_in_parts(self, api: Api) -> None:
        error, calls = await failure_at(api, TooLong, Say(text='{"observations": [{"tit', stop="length"), events=3)
        assert calls == total_usage(error.uses).calls == 1

    @each_api
    async def test_for_one_event_there_are_no_parts(self, api: Api) -> None:
        error, _ = await failure_at(api, Unreadable, Say(text="", stop="length"))
        assert "limit" in str(error)


TABLE: list[tuple[Api, Say, type[ProviderError]]] = [
    ("anthropic", Say(status=401), BadSettings),
    ("anthropic", Say(status=402), Exhausted),
    ("anthropic", Say(status=403), BadSettings),
    ("anthropic", Say(status=404), BadSettings),
    ("anthropic", Say(status=413), TooLong),
    ("anthropic", Say(status=429), Busy),
    ("anthropic", Say(status=500), Busy),
    ("anthropic", Say(status=504), Busy),
    ("anthropic", Say(status=529), Busy),
    ("openai", Say(status=401, code="invalid_api_key"), BadSettings),
    ("openai", Say(status=404, code="model_not_found"), BadSettings),
    ("openai", Say(status=429, code="rate_limit_exceeded"), Busy),
    ("openai", Say(status=429, code="insufficient_quota"), Exhausted),
    ("openai", Say(status=429, code="credit_balance_exhausted"), Exhausted),
    ("openai", Say(status=402), Exhausted),
    ("openai", Say(status=400, code="context_length_exceeded"), TooLong),
    ("openai", Say(status=413, code="rate_limit_exceeded"), TooLong),
    ("openai", Say(status=400, code="content_policy_violation"), Rejected),
    ("openai", Say(status=408), Busy),
    ("openai", Say(status=500), Busy),
    ("openai", Say(status=502, broken="not-json"), Busy),
    ("openai", Say(status=503), Busy),
    ("gemini", Say(status=400, code="API_KEY_INVALID"), BadSettings),
    ("gemini", Say(status=403), BadSettings),
    ("gemini", Say(status=404), BadSettings),
    ("gemini", Say(status=429, details=(retry_info("34s"),)), Busy),
    (
        "gemini",
        Say(status=429, details=(quota_failure("GenerateRequestsPerDayPerProjectPerModel-FreeTier"),)),
        Exhausted,
    ),
    ("gemini", Say(status=403, code="BILLING_DISABLED"), Exhausted),
    ("gemini", Say(status=500), Busy),
    ("gemini", Say(status=503), Busy),
    ("gemini", Say(status=504), Busy),
]


class TestErrors:
    @pytest.mark.parametrize("api, said, kind", TABLE)
    async def test_status_and_name_decide(self, api: Api, said: Say, kind: type[ProviderError]) -> None:
        with model_server(said, said, said) as server:
            async with provider_at(server, api) as provider:
                error = await failure(provider, kind)
                assert error.provider == api
        assert str(said.status) in str(error)

    @each_api
    async def test_words_decide_nothing(self, api: Api) -> None:
        words = "Your credit balance is too low. Rate limit. Prompt is too long. Invalid API key. Overloaded."
        await failure_at(api, Busy, Say(status=500, message=words))
        error, _ = await failure_at(api, Rejected, Say(status=400, message=words), Say(status=400, message=words))
        assert words not in str(error)

    @each_api
    @pytest.mark.parametrize("broken", ["reset", "half", "garbage", "not-json", "endless"])
    async def test_no_whole_answer_is_the_providers_failure(self, api: Api, broken: Any) -> None:
        error, _ = await failure_at(api, Busy, Say(broken=broken))
        assert total_usage(error.uses).calls == 0

    @each_api
    async def test_no_answer_in_time_is_the_providers_failure(self, api: Api) -> None:
        with model_server(Say(delay_s=30)) as server:
            async with provider_at(server, api, given={f"{api}_timeout_s": 0.2}) as provider:
                error = await failure(provider, Busy)
        assert "0.2 s" in str(error)
        (use,) = error.uses
        assert (use.provider, use.usage.calls, use.usage.output_tokens) == (api, 1, MAX_OUTPUT_TOKENS)
        assert use.usage.input_tokens > 100

    @each_api
    async def test_what_was_paid_before_the_time_was_up_is_told(self, api: Api) -> None:
        with model_server(Say(text=PROSE), Say(delay_s=30)) as server:
            async with provider_at(server, api, given={f"{api}_timeout_s": 0.5}) as provider:
                error = await failure(provider, Busy)
        assert [(use.provider, use.usage.calls) for use in error.uses] == [(api, 1), (api, 1)]
        assert error.uses[0].usage.output_tokens < MAX_OUTPUT_TOKENS

    @each_api
    async def test_nobody_there_is_the_providers_failure(self, api: Api) -> None:
        with model_server() as server:
            pass
        async with provider_at(server, api) as provider:
            await failure(provider, Busy)

    @each_api
    async def test_a_redirect_is_not_followed(self, api: Api) -> None:
        with model_server(Say(status=307, headers={"location": "http://127.0.0.1:1/"})) as server:
            async with provider_at(server, api) as provider:
                await failure(provider, BadSettings)

    async def test_one_event_that_is_too_long_is_cut_shorter_before_it_fails(self) -> None:
        long = Say(status=400, code="context_length_exceeded")
        event = ran("make", "word " * 5_000)
        with model_server(long, long, Say(notes=(NOTE,))) as server:
            async with provider_at(server, "openai") as provider:
                answer = await provider.generate(request_of([event]))
            lengths = [len(each.prompt) for each in server.asked]
        assert answer.drafts
        assert lengths[0] > lengths[1] > lengths[2]

    async def test_several_events_that_are_too_long_are_the_callers_to_split(self) -> None:
        _, calls = await failure_at("openai", TooLong, Say(status=400, code="context_length_exceeded"), events=3)
        assert calls == 1

    @each_api
    async def test_the_key_is_nowhere_to_be_seen(
        self, api: Api, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
    ) -> None:
        caplog.set_level(logging.DEBUG)
        with model_server(Say(status=401, message=f"Incorrect API key provided: {KEY}")) as server:
            async with provider_at(server, api) as provider:
                error = await failure(provider, BadSettings)
                shown = [repr(error), str(error), repr(provider), repr(provider.lanes())]
        out, err = capfd.readouterr()
        assert not any(KEY in text for text in (*shown, caplog.text, out, err))


class TestLanes:
    @each_api
    async def test_a_rate_limit_pauses_the_lane_for_the_time_it_names(self, api: Api) -> None:
        with model_server(Say(status=429, headers={"retry-after": "30"})) as server:
            async with provider_at(server, api) as provider:
                first = await failure(provider, Busy)
                second = await failure(provider, Busy)
                assert 29 < (first.retry_after_s or 0) <= 30
                assert 29 < (second.retry_after_s or 0) <= 30
                assert provider.lanes()[0].condition is LaneCondition.PAUSED
            assert len(server.asked) == 1

    async def test_a_reset_header_is_honoured_where_nothing_else_is_said(self) -> None:
        headers = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m12s"}
        error, _ = await failure_at("openai", Busy, Say(status=429, headers=headers))
        assert 71 < (error.retry_after_s or 0) <= 72

    async def test_the_last_call_of_a_limit_pauses_the_lane_before_one_is_refused(self) -> None:
        headers = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "20s"}
        with model_server(Say(headers=headers)) as server:
            async with provider_at(server, "openai") as provider:
                await provider.generate(request_of(EVENTS[:1]))
                await failure(provider, Busy)
            assert len(server.asked) == 1

    @each_api
    async def test_bad_keys_and_used_up_quotas_hold_until_much_later(self, api: Api) -> None:
        status = {"anthropic": 401, "openai": 401, "gemini": 403}[api]
        with model_server(Say(status=status)) as server:
            async with provider_at(server, api) as provider:
                error = await failure(provider, BadSettings)
                assert (error.retry_after_s or 0) > 300
                await failure(provider, BadSettings)
                await asyncio.wait_for(provider.ready(), 5)  # jobs are claimed and parked
            assert len(server.asked) == 1

    @each_api
    async def test_an_outage_closes_the_lane_and_its_end_opens_it(self, api: Api) -> None:
        with model_server() as server:
            server.down = "status"
            async with provider_at(server, api) as provider:
                for _ in range(3):
                    await failure(provider, Busy)
                calls = server.refused
                await failure(provider, Busy)
                assert server.refused == calls
                assert provider.lanes()[0].condition is LaneCondition.DOWN
                server.down = ""
                recovered = asyncio.create_task(provider.recovered())
                await asyncio.wait_for(provider.ready(), 5)
                await provider.generate(request_of(EVENTS[:1]))
                await asyncio.wait_for(recovered, 5)
                assert provider.lanes()[0].condition is LaneCondition.OPEN

    async def test_refused_content_closes_nothing(self) -> None:
        with model_server(*(Say(text="", stop="refusal") for _ in range(5))) as server:
            async with provider_at(server, "openai") as provider:
                for _ in range(5):
                    await failure(provider, Rejected)
                assert provider.lanes()[0].condition is LaneCondition.OPEN


class TestChains:
    @pytest.mark.parametrize("said", [Say(status=402), Say(status=401), Say(status=429), Say(status=503)])
    async def test_the_next_provider_does_what_the_first_cannot(self, said: Say) -> None:
        with model_server(said) as server:
            async with provider_at(server, "anthropic", "openai") as provider:
                answer = await provider.generate(request_of(EVENTS[:1]))
            assert [each.api for each in server.asked] == ["anthropic", "openai"]
        assert (answer.provider, answer.model) == ("openai", "gpt-5-mini")

    async def test_each_ones_calls_are_told_apart(self) -> None:
        said = (Say(text=PROSE, output_tokens=30), Say(status=503), Say(notes=(NOTE,), output_tokens=50))
        with model_server(*said) as server:
            async with provider_at(server, "anthropic", "openai") as provider:
                answer = await provider.generate(request_of(EVENTS[:1]))
                asked = [lane.model for lane in provider.lanes()]
        assert [(use.provider, use.model, use.usage.calls, use.usage.output_tokens) for use in answer.uses] == [
            ("anthropic", asked[0], 1, 30),
            ("openai", asked[1], 1, 50),
        ]

    async def test_a_closed_lane_is_passed_over_without_a_call(self) -> None:
        with model_server(Say(status=402)) as server:
            async with provider_at(server, "anthropic", "openai") as provider:
                for _ in range(3):
                    await provider.generate(request_of(EVENTS[:1]))
            assert [each.api for each in server.asked] == ["anthropic", "openai", "openai", "openai"]

    @pytest.mark.parametrize("said, kind", [(Say(text="", stop="refusal"), Rejected), (Say(text=""), Unreadable)])
    async def test_what_one_refuses_or_garbles_is_not_shown_to_the_next(
        self, said: Say, kind: type[ProviderError]
    ) -> None:
        with model_server(said) as server:
            async with provider_at(server, "anthropic", "openai") as provider:
                await failure(provider, kind)
            assert len(server.asked) == 1

    async def test_when_none_can_the_outage_that_ends_first_counts(self) -> None:
        with model_server(Say(status=402), Say(status=429, headers={"retry-after": "20"})) as server:
            async with provider_at(server, "anthropic", "openai") as provider:
                error = await failure(provider, Busy)
                assert error.provider == "openai"
                assert 19 < (error.retry_after_s or 0) <= 20
                assert [lane.condition for lane in provider.lanes()] == [
                    LaneCondition.EXHAUSTED,
                    LaneCondition.PAUSED,
                ]

    async def test_rules_can_be_the_last(self) -> None:
        with model_server(Say(status=402)) as server:
            async with provider_at(server, "anthropic", given={"provider": "anthropic,rules"}) as provider:
                answer = await provider.generate(request_of([ran("make test", "2 passed in 0.1s")]))
        assert (answer.provider, answer.prompt_version) == ("rules", "rules-1")

    async def test_a_chain_is_ready_when_one_of_it_is(self) -> None:
        with model_server(Say(status=429, headers={"retry-after": "50"})) as server:
            async with provider_at(server, "anthropic", "openai") as provider:
                await provider.generate(request_of(EVENTS[:1]))
                await asyncio.wait_for(provider.ready(), 5)


def test_what_was_written_into_the_cache_of_anthropic_is_told_apart() -> None:
    usage = {
        "input_tokens": 10,
        "cache_creation_input_tokens": 2_000,
        "cache_read_input_tokens": 300,
        "output_tokens": 5,
    }
    read = Anthropic(base_url="https://api.anthropic.com", model="m", key="k").read({"content": [], "usage": usage})
    assert read.usage == Usage(1, 2_310, 5, cached_tokens=300, written_tokens=2_000)


async def test_what_a_call_costs_is_told_by_each_api() -> None:
    for api in APIS:
        said = Say(notes=(NOTE,), input_tokens=1_000, output_tokens=50, cached_tokens=600)
        usage = total_usage((await ask(api, said)).uses)
        assert (usage.input_tokens, usage.output_tokens, usage.cached_tokens) == (1_000, 50, 600)
