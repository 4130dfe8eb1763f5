"""What is made of a model's answer, by its form: the shapes that models and gateways in the field give."""

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onlooker.domain.jobs import JobKind
from onlooker.domain.models import Draft, ObservationKind
from onlooker.providers.answers import Problem, Reading, read_answer
from onlooker.providers.contract import RecentNote
from onlooker.providers.modes import Modes
from onlooker.providers.prompt import Prompt, build_prompt
from onlooker.providers.rendering import Renderer
from providers.happened import ran, request_of

FULL = (
    "<observation><type>bugfix</type><title>Totals rounded</title><narrative>Half cents were lost.</narrative>"
    "<facts><fact>uses Decimal</fact></facts><concepts><concept>gotcha</concept></concepts><files_read></files_read>"
    "<files_modified><file>src/total.py</file></files_modified></observation>"
)


def prompt_for(events: int = 3, kind: JobKind = JobKind.EVENT) -> Prompt:
    request = request_of([ran(f"make {n}") for n in range(events)], kind)
    recent = [RecentNote(f"id-{n}", ObservationKind.CHANGE, f"note {n}") for n in (1, 2)]
    request = type(request)(
        request.kind, request.project_name, request.session_id, request.events, request.idempotency_key, recent=recent
    )
    return build_prompt(request, Modes().get("code"), Renderer(), 10_000)


def reading_of(answer: str | Mapping[str, Any], *, events: int = 3, cut: bool = False) -> Reading:
    text, data = (answer, None) if isinstance(answer, str) else ("", answer)
    found = read_answer(text, data, prompt_for(events), cut_by_limit=cut)
    assert isinstance(found, Reading), found
    return found


def notes_in(answer: str | Mapping[str, Any], *, events: int = 3, cut: bool = False) -> list[Draft]:
    return list(reading_of(answer, events=events, cut=cut).drafts)


def note_in(answer: str | Mapping[str, Any], *, events: int = 3) -> Draft:
    (note,) = notes_in(answer, events=events)
    return note


def problem_with(answer: str) -> Problem:
    found = read_answer(answer, None, prompt_for(), cut_by_limit=False)
    assert isinstance(found, Problem), found
    return found


def skip_reason(answer: str) -> str | None:
    found = reading_of(answer)
    assert found.drafts == ()
    return found.skip_reason


class TestBlocks:
    def test_a_full_block_is_stored_with_all_its_members(self) -> None:
        assert note_in(FULL) == Draft(
            ObservationKind.BUGFIX, "Totals rounded", narrative="Half cents were lost.", facts=("uses Decimal",),
            concepts=("gotcha",), files_modified=("src/total.py",),
        )  # fmt: skip

    @pytest.mark.parametrize("fence", ["```xml\n{}\n```", "```\n{}\n```", "  ```xml\n{}```  "])
    def test_a_code_fence_around_all_is_stripped(self, fence: str) -> None:
        assert note_in(fence.format(FULL)).title == "Totals rounded"

    def test_text_around_blocks_is_ignored_and_each_block_counts(self) -> None:
        second = FULL.replace("Totals rounded", "Another")
        answer = f"Here is what I saw:\n{FULL}\nand then\n{second}\nThat is all & <done>."
        assert [note.title for note in notes_in(answer)] == ["Totals rounded", "Another"]

    def test_identical_blocks_count_once(self) -> None:
        assert len(notes_in(FULL + FULL)) == 1

    def test_tags_count_in_any_case(self) -> None:
        assert note_in(FULL.upper()).facts == ("USES DECIMAL",)
        assert note_in("<Observation><Type>Bugfix</Type><Title>x</Title></Observation>").kind is ObservationKind.BUGFIX

    def test_a_type_may_be_an_attribute(self) -> None:
        assert note_in('<observation type="decision"><title>x</title></observation>').kind is ObservationKind.DECISION

    @pytest.mark.parametrize(
        "items", ["- one\n- two", "one\ntwo", "\n * one\n\n * two\n", "1. one\n2) two", "<item>one</item><li>two</li>"]
    )
    def test_plain_lines_where_items_were_asked_for_are_items(self, items: str) -> None:
        assert note_in(f"<observation><title>x</title><facts>{items}</facts></observation>").facts == ("one", "two")

    def test_entities_are_decoded(self) -> None:
        note = note_in("<observation><title>a &lt;b&gt; &amp; &quot;c&quot;</title></observation>")
        assert note.title == 'a <b> & "c"'

    def test_tags_and_signs_inside_a_narrative_stay_in_it(self) -> None:
        narrative = "The template printed <title>Hi</title> and a & sign, also </narrative-ish text."
        answer = (
            f"<observation><type>bugfix</type><title>Escaping</title><narrative>{narrative}</narrative></observation>"
        )
        assert (note_in(answer).title, note_in(answer).narrative) == ("Escaping", narrative)

    def test_a_narrative_may_speak_of_observations(self) -> None:
        narrative = "The parser takes <observation> and </observation> apart."
        answer = f"<observation><title>Parser</title><narrative>{narrative}</narrative></observation>"
        assert note_in(answer).narrative == narrative

    def test_a_block_that_is_not_closed_is_lost_alone(self) -> None:
        answer = f"<observation><type>change</type><title>lost</title>\n{FULL}"
        assert [note.title for note in notes_in(answer)] == ["Totals rounded"]

    def test_a_member_that_is_not_closed_is_lost_alone(self) -> None:
        assert note_in("<observation><title>x</title><subtitle>lost<narrative>kept</narrative></observation>") == Draft(
            ObservationKind.DISCOVERY, "x", narrative="kept"
        )

    def test_prose_in_a_closed_block_is_kept_with_the_neutral_type(self) -> None:
        prose = "The cart service now retries three times. The tests pass."
        note = note_in(f"<observation>\n{prose}\n</observation>")
        assert (note.kind, note.title, note.narrative) == (
            ObservationKind.DISCOVERY, "The cart service now retries three times.", prose,
        )  # fmt: skip

    def test_prose_with_a_tag_in_it_is_prose(self) -> None:
        note = note_in("<observation>The <b>cart</b> service now retries three times.</observation>")
        assert note.narrative == "The <b>cart</b> service now retries three times."

    def test_json_in_a_block_is_read(self) -> None:
        note = note_in('<observation>{"type": "feature", "title": "Coupon"}</observation>')
        assert (note.kind, note.title) == (ObservationKind.FEATURE, "Coupon")

    @pytest.mark.parametrize("word", ["", "<type></type>", "<type>miracle</type>", "<type>summary</type>"])
    def test_a_missing_or_unknown_type_becomes_the_neutral_one(self, word: str) -> None:
        assert note_in(f"<observation>{word}<title>x</title></observation>").kind is ObservationKind.DISCOVERY

    def test_a_type_is_known_however_it_is_spelled(self) -> None:
        answer = "<observation><type> Security Alert </type><title>x</title></observation>"
        assert note_in(answer).kind is ObservationKind.SECURITY_ALERT

    def test_a_modes_own_type_is_kept_beside_the_kind(self) -> None:
        prompt = replace(prompt_for(), mode=Modes().get("research"))
        for word, own in (("Open question", "open_question"), ("decision", ""), ("miracle", "finding")):
            answer = f"<observation><type>{word}</type><title>x</title></observation>"
            found = read_answer(answer, None, prompt, cut_by_limit=False)
            assert isinstance(found, Reading)
            (note,) = found.drafts
            assert (note.own_type, note.concepts) == (own, (own,) if own else ())

    def test_a_title_that_is_missing_is_the_first_sentence(self) -> None:
        assert note_in("<observation><narrative>One. Two.</narrative></observation>").title == "One."
        assert note_in("<observation><facts><fact>f</fact></facts></observation>").title == "f"
        assert note_in("<observation><concepts><concept>Gotcha</concept></concepts></observation>").title == "gotcha"

    def test_events_and_superseded_notes_that_do_not_exist_are_dropped(self) -> None:
        answer = (
            "<observation><title>x</title><events><index>2</index><index>7</index><index>0</index></events>"
            "<supersedes><id>n2</id><id>n9</id></supersedes></observation>"
        )
        assert (note_in(answer).sources, note_in(answer).supersedes) == ((2, 0), ("id-2",))

    def test_a_block_without_its_end_behind_others_is_lost_alone(self) -> None:
        found = reading_of(f"{FULL}<observation><title>lost")
        assert ([note.title for note in found.drafts], found.answered, found.is_cut) == (
            ["Totals rounded"],
            None,
            False,
        )

    def test_text_as_it_is_is_text(self) -> None:
        answer = "<observation><title><![CDATA[A < B & C]]></title><narrative>caf&#233; &mdash; ?a=1&copy=2</narrative>"
        note = note_in(f"{answer}</observation>")
        assert (note.title, note.narrative) == ("A < B & C", "café — ?a=1&copy=2")

    @pytest.mark.parametrize("prose", ["Retry added", "修复四舍五入"])
    def test_short_prose_is_prose(self, prose: str) -> None:
        assert note_in(f"<observation>{prose}</observation>").title == prose

    def test_a_summary_in_an_observation_is_its_narrative(self) -> None:
        note = note_in("<observation><title>Parser</title><summary>It retries now.</summary></observation>")
        assert (note.title, note.narrative) == ("Parser", "It retries now.")
        assert note_in("<observation>\n<summary>It retries now.</summary>\n</observation>").title == "It retries now."

    def test_names_may_stand_in_one_line(self) -> None:
        note = note_in(
            "<observation><title>x</title><concepts>gotcha, pattern</concepts><files_read>a.py, b.py</files_read>"
            '<facts>["one, two", "three"]</facts></observation>'
        )
        assert (note.concepts, note.files_read, note.facts) == (
            ("gotcha", "pattern"), ("a.py", "b.py"), ("one, two", "three"),
        )  # fmt: skip

    @pytest.mark.parametrize("word", ["Bug fix", "🔴 bugfix", '"bugfix"', "[ bug-fix ]", "BUG_FIX"])
    def test_signs_around_a_type_do_not_hide_it(self, word: str) -> None:
        assert note_in(f"<observation><type>{word}</type><title>x</title></observation>").kind is ObservationKind.BUGFIX

    @pytest.mark.parametrize(
        "said, indexes",
        [("0, 2", (0, 2)), ("0-2", (0, 1, 2)), ("#1", (1,)), ("event 2.0", (2,)), ("-1", ()), ("1.5", ()), ("2-1", ())],
    )
    def test_indexes_are_read_in_any_spelling(self, said: str, indexes: tuple[int, ...]) -> None:
        assert note_in(f"<observation><title>x</title><events>{said}</events></observation>").sources == indexes
        assert note_in({"observations": [{"title": "x", "events": [said]}]}).sources == indexes


class TestThoughts:
    DRAFT = "<observation><title>Draft</title></observation>"

    @pytest.mark.parametrize(
        "thoughts",
        ["<think>{}</think>\n", "<Thinking>\n{}\n</Thinking>", "I think: {}\n</think>\n", "\n<think>{}</think>"],
    )
    @pytest.mark.parametrize("answer", [FULL, '{"observations": [{"title": "Totals rounded"}]}'])
    def test_what_a_model_thought_aloud_is_no_answer(self, thoughts: str, answer: str) -> None:
        assert note_in(thoughts.format(self.DRAFT) + answer).title == "Totals rounded"

    def test_thoughts_alone_are_none(self) -> None:
        assert problem_with(f"<think>{self.DRAFT}</think>").can_repair
        assert reading_of(f"<think>{self.DRAFT} and", cut=True) == Reading(is_cut=True)

    def test_a_narrative_may_speak_of_them(self) -> None:
        narrative = "The parser drops <think>x</think> now."
        answer = f"<observation><title>Parser</title><narrative>{narrative}</narrative></observation>"
        assert note_in(answer).narrative == narrative


class TestNothingToNote:
    @pytest.mark.parametrize(
        "answer",
        [
            "<skip_summary/>",
            "<skip_summary></skip_summary>",
            "<Skip_Summary />",
            'Well:\n<skip_summary reason=""/>',
            "<skip-summary/>",
            '<skip_observation reason="x"/>',
            '<skip reason="x"/>',
            '<skip_summary reason="x">',
            "<observations></observations>",
            "<observations/>",
            "<observation/>",
        ],
    )
    def test_an_explicit_skip_is_success(self, answer: str) -> None:
        assert skip_reason(answer)

    def test_a_skip_says_why(self) -> None:
        assert skip_reason('<skip_summary reason="routine listing"/>') == "routine listing"
        assert skip_reason('{"observations": [], "skip_reason": "routine listing"}') == "routine listing"
        assert skip_reason('{"skip_summary": {"reason": "routine listing"}}') == "routine listing"
        assert skip_reason('<skip_summary reason="routine listing">') == "routine listing"

    @pytest.mark.parametrize(
        "answer",
        [
            "[]",
            '{"observations": []}',
            "```json\n[]\n```",
            '{"skip": true}',
            "Nothing to note: []",
            '{"observations": null}',
            '{"observations": {}}',
            '{"observations": [null]}',
            '{"data": {"observations": []}}',
            "{'observations': []}",
            '{"type": "None"}',
        ],
    )
    def test_an_empty_list_is_success(self, answer: str) -> None:
        assert skip_reason(answer)

    @pytest.mark.parametrize(
        "answer",
        [
            "<observation><type>skip</type></observation>",
            "<observation><type>bugfix</type><title></title><narrative> </narrative><facts></facts></observation>",
            "<observation><type>bugfix</type></observation>",
            '{"observations": [{"type": "bugfix", "title": "", "facts": []}]}',
            '{"observations": [{}]}',
            '{"observations": [{"type": "bugfix|feature", "title": "…", "narrative": "…", "facts": ["…"]}]}',
            "<observation><type>discovery</type><title>N/A</title><narrative>None</narrative></observation>",
            '{"observations": [{"title": "Untitled", "facts": ["null"]}]}',
            '{"observations": [{"type": "none", "title": "There was nothing"}]}',
            "<observation>ok</observation>",
        ],
    )
    def test_an_observation_that_says_nothing_is_dropped(self, answer: str) -> None:
        assert skip_reason(answer)

    def test_a_skip_beside_an_observation_loses_nothing(self) -> None:
        assert note_in(f"<skip_summary/>{FULL}").title == "Totals rounded"


class TestProblems:
    @pytest.mark.parametrize("answer", ["", " \n "])
    def test_an_empty_answer_is_a_failed_call(self, answer: str) -> None:
        assert not problem_with(answer).can_repair

    @pytest.mark.parametrize(
        "answer",
        [
            "You have reached your monthly spend limit. Raise it in your account settings.",
            "Prompt is too long",
            "I looked at the events and everything is fine.",
            "I looked at items[0] and args[] and everything is fine: {} stays {}, as in {x}.",
            "I'm sorry, but I can't help with that.",
            '{"refusal": "I can\'t help with that."}',
            '{"detail": "Not Found"}',
            '{"error": null}',
            '["The cart service retries three times."]',
            "<html><head><title>502 Bad Gateway</title></head></html>",
            "```json\n```",
            "null",
            "{}",
            '{"tool_name": "Bash", "tool_input": {"command": "ls"}}',
            '[{"type": "text", "text": "x"}]',
            "<summary><request>x</request></summary>",
        ],
    )
    def test_prose_and_other_things_are_never_stored(self, answer: str) -> None:
        assert problem_with(answer).can_repair

    @pytest.mark.parametrize(
        "inside",
        [
            '<what_happened>Bash</what_happened><parameters>{"command":"ls"}</parameters>',
            'Seen: <tool_name>Bash</tool_name>\n<tool_input>{"command": "ls -la /home/dev"}</tool_input>',
            '<event index="0" type="tool_use" tool="Bash">\n$ ls\n</event>',
        ],
    )
    def test_an_echo_of_what_was_given_is_no_observation(self, inside: str) -> None:
        assert problem_with(f"<observation>{inside}</observation>").can_repair
        assert len(notes_in(f"<observation>{inside}</observation>{FULL}")) == 1

    @pytest.mark.parametrize(
        "answer",
        [
            'API Error: 529 {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}',
            '{"error":"QA pack assessment failed","reason":"timeout"}',
        ],
    )
    def test_an_error_object_is_told_as_one(self, answer: str) -> None:
        assert problem_with(answer).error is not None


class TestJson:
    NOTE: Mapping[str, Any] = {"type": "feature", "title": "Coupon", "facts": ["one"]}

    @pytest.mark.parametrize(
        "shape",
        [
            '{"observations": [%s]}', '{"observation": %s}', "[%s]", "%s", '[{"observation": %s}]',
            "```json\n%s\n```", "Sure, here it is:\n%s\nAnything else?", '{"result": {"observations": [%s]}}',
            '{"name": "record_observations", "arguments": {"observations": [%s]}}', '{"Observations": [%s]}',
            '{"data": {"data": {"observations": [%s]}}}', '{"Data": {"observations": [%s]}}',
            '{"x": {"y": {"observations": [%s]}}}', '{"observations": {"0": %s}}', '{"observations": %s}',
            '[{"type": "tool_use", "input": {"observations": [%s]}}]', "{'observations': [%s]}",
            '<tool_call>{"name": "x", "arguments": {"observations": [%s]}}</tool_call>', '{"observations": [%s',
            '{"observations": [%s,],}', "{observations: [%s]}", '{"observations": [%s] // all\n}',
            '{"observations": [%s]', "~~~json\n%s\n~~~", '\ufeff{"observations": [%s]}',
            '{"error": null, "observations": [%s]}',
            'It failed: {"error": "boom"}\nNow:\n{"observations": [%s]}', '{"x": []}\n{"observations": [%s]}',
        ],
    )  # fmt: skip
    def test_json_is_understood_in_any_wrapping(self, shape: str) -> None:
        assert note_in(shape % json.dumps(self.NOTE)) == Draft(ObservationKind.FEATURE, "Coupon", facts=("one",))

    def test_an_answer_may_be_a_text_in_json(self) -> None:
        inner = json.dumps({"observations": [self.NOTE]})
        said = '<observation>\n<title>Coupon</title>\n<narrative>Says "yes".</narrative></observation>'
        for answer in (
            {"name": "record", "arguments": inner},
            {"tool_calls": [{"function": {"name": "record", "arguments": inner}}]},
            {"choices": [{"message": {"content": inner}}]},
            {"observations": json.dumps([self.NOTE])},
            inner,
            {"answer": said},
            {"content": [{"type": "text", "text": said}]},
        ):
            assert note_in(json.dumps(answer)).title == "Coupon"
        assert note_in(json.dumps({"answer": said})).narrative == 'Says "yes".'

    @pytest.mark.parametrize(
        "sloppy",
        [
            """{'observations': [{'type': 'feature', 'title': "Coupon", 'narrative': 'It\'s "in"'}], 'x': None}""",
            """{“observations”: [{“type”: “feature”, “title”: “Coupon”, “narrative”: “It's "in"”}]}""",
            """{"observations": [{"type": "feature", "title": "Coupon", "narrative": "It's "in"", }, ]}""",
            """{observations: [{type: "feature", /* x */ title: "Coupon", narrative: "It's \\"in\\""}]} # done""",
        ],
    )
    def test_json_is_understood_however_sloppily_it_is_written(self, sloppy: str) -> None:
        note = note_in(sloppy)
        assert (note.kind, note.title, note.narrative) == (ObservationKind.FEATURE, "Coupon", 'It\'s "in"')

    def test_escapes_that_there_are_not_stand_for_themselves(self) -> None:
        note = note_in(
            r'{"observations": [{"title": "C:\Users\dev \d+ caf\u00e9 \ud83d\ude00", "narrative": "a\nb \"c\""}]}'
        )
        assert (note.title, note.narrative) == ("C:\\Users\\dev \\d+ café 😀", 'a\nb "c"')

    def test_texts_in_the_list_are_narratives(self) -> None:
        (note,) = notes_in('{"observations": ["The cart service retries three times.", "", 7]}')
        assert (note.kind, note.narrative) == (ObservationKind.DISCOVERY, "The cart service retries three times.")

    def test_objects_where_texts_were_asked_for_are_their_first_text(self) -> None:
        note = note_in(
            {"observations": [{"title": "x", "facts": [{"fact": "a"}], "files_modified": [{"n": 1, "path": "b.py"}]}]}
        )
        assert (note.facts, note.files_modified) == (("a",), ("b.py",))

    def test_what_was_given_is_no_answer_wherever_it_holds_one(self) -> None:
        given = {"tool_name": "Write", "tool_input": {"content": json.dumps({"observations": [self.NOTE]})}}
        assert problem_with(json.dumps(given)).can_repair
        assert problem_with(json.dumps({"data": given})).can_repair

    def test_structured_data_is_read_as_such(self) -> None:
        note = note_in({"observations": [{**self.NOTE, "events": [1, 5], "supersedes": ["n1"]}], "skip_reason": ""})
        assert (note.sources, note.supersedes) == ((1,), ("id-1",))

    def test_members_of_the_wrong_type_do_no_harm(self) -> None:
        odd = {
            "type": 7, "title": ["a", "b"], "subtitle": None, "narrative": {"x": 1}, "facts": "- one\n- two",
            "concepts": [None, 3, {"a": 1}], "files_read": {"a": "x.py"}, "events": ["0", "[1, 2]", True, -1, 2.5],
        }  # fmt: skip
        note = note_in({"observations": [odd, 5, None, "text"]})
        assert note == Draft(
            ObservationKind.DISCOVERY, "a b", facts=("one", "two"), concepts=("3",), files_read=("x.py",),
            sources=(0, 1, 2),
        )  # fmt: skip

    def test_tags_quoted_inside_json_stay_there(self) -> None:
        answer = json.dumps({"observations": [{"title": "Tags", "narrative": FULL}]})
        assert [note.title for note in notes_in(answer)] == ["Tags"]

    def test_json_quoted_inside_a_block_stays_there(self) -> None:
        quoted = '{"observations": [{"title": "inner"}]}'
        answer = f"<observation><title>Outer</title><narrative>It sends {quoted}.</narrative></observation>"
        assert [note.title for note in notes_in(answer)] == ["Outer"]

    def test_what_stands_for_a_sign_in_the_prompt_is_the_sign_again(self) -> None:
        assert note_in({"observations": [{"title": "a &lt;div> tag"}]}).title == "a <div> tag"

    @pytest.mark.parametrize("opening", ["[" * 5000, "{" * 5000, '{"a":' * 5000])
    def test_nesting_without_end_is_no_answer(self, opening: str) -> None:
        assert problem_with(opening).can_repair


class TestCutByTheLimit:
    def test_an_answer_cut_inside_its_only_block_has_nothing(self) -> None:
        cut = "<observation><type>feature</type><title>Importer</title><narrative>The importer now reads the old tab"
        assert reading_of(cut, cut=True) == Reading(is_cut=True)

    @pytest.mark.parametrize("structured", [True, False])
    def test_whole_blocks_are_kept_and_the_other_events_asked_again(self, structured: bool) -> None:
        notes = [{"title": f"t{n}", "events": [n]} for n in range(3)]
        answer = json.dumps({"observations": notes})[:-12]
        if not structured:
            block = "<observation><title>t{0}</title><events><index>{0}</index></events></observation>"
            answer = "".join(block.format(n) for n in range(3))[:-20]
        found = reading_of(answer, events=5, cut=True)
        assert ([note.title for note in found.drafts], found.answered) == (["t0", "t1"], 2)

    @pytest.mark.parametrize("cut_at", range(1, 120, 7))
    def test_json_cut_anywhere_keeps_whole_observations_only(self, cut_at: int) -> None:
        notes = [{"title": f"title {n}", "facts": ["one", "two"], "events": [n]} for n in range(3)]
        whole = json.dumps({"data": {"observations": notes}})
        found = read_answer(whole[:-cut_at], None, prompt_for(5), cut_by_limit=True)
        assert isinstance(found, Reading)
        kept = whole[:-cut_at].count("}")
        assert [note.title for note in found.drafts] == [f"title {n}" for n in range(min(kept, 3))]
        assert all(note.facts == ("one", "two") for note in found.drafts)

    def test_blocks_that_do_not_say_what_they_are_about_are_asked_again_with_all(self) -> None:
        assert reading_of(f"{FULL}<observation><title>x", events=5, cut=True) == Reading(is_cut=True)

    def test_of_one_event_whole_blocks_are_all_there_is(self) -> None:
        found = reading_of(f"{FULL}<observation><title>x", events=1, cut=True)
        assert ([note.title for note in found.drafts], found.answered) == (["Totals rounded"], None)


class TestSummaries:
    PARTS: Mapping[str, str] = {
        "request": "Mend the totals. And soon.", "investigated": "parser", "learned": "floats lose cents",
        "completed": "uses Decimal", "next_steps": "release", "notes": "prefers small commits",
    }  # fmt: skip

    def read(self, text: str, data: Any = None) -> Reading | Problem:
        return read_answer(text, data, prompt_for(kind=JobKind.SUMMARY), cut_by_limit=False)

    def assert_is_the_summary(self, found: Reading | Problem) -> None:
        assert isinstance(found, Reading)
        (draft,) = found.drafts
        assert (draft.kind, draft.title) == (ObservationKind.SUMMARY, "Mend the totals.")
        for part in self.PARTS.values():
            assert part in draft.content

    def test_a_summary_is_read_in_tags_and_in_json(self) -> None:
        tags = "".join(f"<{name}>{text}</{name}>" for name, text in self.PARTS.items())
        self.assert_is_the_summary(self.read(f"<summary>{tags}</summary>"))
        self.assert_is_the_summary(self.read(json.dumps({"summary": self.PARTS})))
        self.assert_is_the_summary(self.read(json.dumps(self.PARTS)))
        self.assert_is_the_summary(self.read("", {"summary": self.PARTS, "skip_reason": ""}))

    @pytest.mark.parametrize(
        "answer",
        ['<skip_summary reason="a nod"/>', '{"summary": null, "skip_reason": "a nod"}', '{"skip_reason": "a nod"}'],
    )
    def test_a_skip_is_success(self, answer: str) -> None:
        assert self.read(answer) == Reading(skip_reason="a nod")

    def test_an_empty_summary_is_a_skip(self) -> None:
        empty = dict.fromkeys(self.PARTS, "")
        assert self.read("", {"summary": empty, "skip_reason": "a nod"}) == Reading(skip_reason="a nod")
        assert self.read("<summary><request/><completed/></summary>") == Reading(skip_reason="nothing to sum up")

    def test_prose_in_a_summary_is_kept(self) -> None:
        for answer in ("<summary>The totals are right now.</summary>", '{"summary": "The totals are right now."}'):
            found = self.read(answer)
            assert isinstance(found, Reading)
            assert found.drafts[0].narrative == "The totals are right now."

    def test_observations_are_no_summary(self) -> None:
        assert isinstance(self.read(FULL), Problem)


PIECES = (
    "<observation>", "</observation>", "<observation type='bugfix'>", "<title>", "</title>", "<facts>", "<fact>",
    "</facts>", "<summary>", "</summary>", "<skip_summary/>", "```json\n", "```", "{", "}", "[", "]", ":", ",",
    '"observations"',
    '"title"', '"x"', "<", ">", "&lt;", "\n", " ", "text", "0", "null", "<event index='0'>",
)  # fmt: skip


class TestAnything:
    @given(st.text() | st.lists(st.sampled_from(PIECES), max_size=60).map("".join), st.booleans())
    def test_no_answer_breaks_the_reading_and_no_draft_is_empty(self, answer: str, cut: bool) -> None:
        for kind in (JobKind.EVENT, JobKind.SUMMARY):
            found = read_answer(answer, None, prompt_for(kind=kind), cut_by_limit=cut)
            if isinstance(found, Reading):
                for draft in found.drafts:
                    assert draft.title.strip()
                    assert set(draft.sources) <= {0, 1, 2}

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: (
                st.lists(inner, max_size=4)
                | st.dictionaries(
                    st.sampled_from(("observations", "title", "facts", "summary", "error", "x")), inner, max_size=4
                )
            ),
            max_leaves=12,
        )
    )
    def test_no_data_does_either(self, data: Any) -> None:
        for kind in (JobKind.EVENT, JobKind.SUMMARY):
            read_answer("", data, prompt_for(kind=kind), cut_by_limit=False)

    @pytest.mark.parametrize(
        "long",
        [
            "<observation>" * 20_000,
            "{" * 200_000,
            "<title></title>" * 15_000,
            "</observation>" * 15_000,
            "[[1]," * 40_000,
        ],
    )
    def test_a_long_one_is_read_in_no_time(self, long: str) -> None:
        began = time.process_time()
        read_answer(f"<observation>{long}</observation>", None, prompt_for(), cut_by_limit=False)
        assert time.process_time() - began < 5
