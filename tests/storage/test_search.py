"""Search through the real index, on both databases."""

import dataclasses
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from observed import new_scope
from onlooker.domain.models import Draft, NewObservation, NewSession, ObservationKind, Scope, SearchFilter
from onlooker.host import new_id
from onlooker.storage import dialect, observations, search, search_index, sessions
from onlooker.storage.database import Connection, Database

EVERYTHING = SearchFilter()


def a_note(
    text: str, *, at: int = 1_790_000_000_000, kind: ObservationKind = ObservationKind.CHANGE, **given: str
) -> NewObservation:
    note_id = new_id()
    draft = Draft(kind, text, files_modified=(given["file"],) if "file" in given else ())
    return NewObservation(
        note_id, draft, note_id, at, at, draft.content,
        session_id=given.get("session"), platform_source=given.get("platform"),
    )  # fmt: skip


async def store(database: Database, scope: Scope, *notes: NewObservation) -> None:
    await database.tx(lambda conn: observations.store_observations(conn, scope, notes, 1))


async def find(
    database: Database, scope: Scope, query: str, wanted: SearchFilter = EVERYTHING, *, limit: int = 10
) -> list[str]:
    """The titles of what is found, best first."""

    def work(conn: Connection) -> list[str]:
        ids = [note_id for note_id, _ in search.search(conn, scope, query, wanted, limit=limit)]
        return [note.title for note in observations.observations_by_ids(conn, scope, ids)]

    return await database.read(work)


async def test_any_word_of_the_question_finds_and_more_words_rank_higher(database: Database) -> None:
    scope = await new_scope(database)
    await store(database, scope, a_note("cache cleared"), a_note("cache of tokens refreshed"), a_note("unrelated"))
    assert await find(database, scope, "why was the token cache refreshed?") == [
        "cache of tokens refreshed", "cache cleared",
    ]  # fmt: skip


async def test_a_rare_word_weighs_more_than_a_common_one(database: Database) -> None:
    scope = await new_scope(database)
    await store(database, scope, *(a_note(f"test number {n}") for n in range(50)), a_note("deadlock seen"))
    assert (await find(database, scope, "test deadlock"))[0] == "deadlock seen"


@pytest.mark.parametrize(
    "query",
    ["don't use agents", "Downloads/transcripts", "multi-agent", "ubuntu 20.04", "foo::bar", '"', "NOT", "*", "",
     "a OR b", "x' OR '1'='1", "NEAR(", "col:term", "^start", "\\", "'; DROP TABLE x", "x" * 10_000, "\ud800", "日",
     " ".join(f"w{n}" for n in range(5_000)), "".join(chr(0x4E00 + n) for n in range(10_000)), '"a b" -c' * 1_000,
     "-word " * 2_000, '"' * 9_999],
)  # fmt: skip
async def test_no_query_is_an_error(database: Database, query: str) -> None:
    scope = await new_scope(database)
    await store(database, scope, a_note("a multi-agent run in Downloads/transcripts on ubuntu 20.04 使日本"))
    assert isinstance(await find(database, scope, query), list)


async def test_filters_narrow_what_may_be_found(database: Database) -> None:
    scope = await new_scope(database)
    await store(
        database,
        scope,
        a_note("cache one", at=1_000, kind=ObservationKind.BUGFIX, file="src/a/cache.py", platform="codex"),
        a_note("cache two", at=2_000, kind=ObservationKind.DECISION, file="src/b/cache.py", platform="cursor"),
    )
    for wanted, expected in (
        (SearchFilter(kinds=frozenset({ObservationKind.BUGFIX})), ["cache one"]),
        (SearchFilter(platform_source="cursor"), ["cache two"]),
        (SearchFilter(file="a/cache.py"), ["cache one"]),
        (SearchFilter(file="che.py"), []),
        (SearchFilter(since=1_500), ["cache two"]),
        (SearchFilter(until=1_500), ["cache one"]),
    ):
        assert await find(database, scope, "cache", wanted) == expected, wanted


async def test_a_file_is_found_by_the_end_of_its_path_however_it_is_written(database: Database) -> None:
    scope = await new_scope(database)
    await store(
        database,
        scope,
        a_note("cache one", file="/home/kim/tally/src/Money.py"),
        a_note("cache two", file="C:\\work\\tally\\src\\money.py"),
        a_note("cache three", file="src/money_test.py"),
        a_note("cache four", file="src/Übung_100%.py"),
        a_note("cache five", file="lib/ledger.py"),
    )
    for file, expected in (
        ("money.py", {"cache one", "cache two"}),
        ("src/money.py", {"cache one", "cache two"}),
        ("./src/Money.py", {"cache one", "cache two"}),
        ("src\\money.py", {"cache one", "cache two"}),
        ("C:\\work\\tally\\src\\money.py", {"cache two"}),
        ("/home/kim/tally/src/Money.py", {"cache one"}),
        ("/home/kim/tally/lib/ledger.py", {"cache five"}),
        ("D:\\tally\\lib\\ledger.py", {"cache five"}),
        ("tally/lib/ledger.py", set[str]()),
        ("/home/kim/tally/other-lib/ledger.py", set[str]()),
        ("oney.py", set[str]()),
        ("src", set[str]()),
        ("Übung_100%.py", {"cache four"}),
        ("Übung_1000.py", set[str]()),
    ):
        assert set(await find(database, scope, "cache", SearchFilter(file=file))) == expected, file


async def test_another_tenants_notes_are_neither_found_nor_counted(database: Database) -> None:
    mine, theirs = await new_scope(database), await new_scope(database)
    await store(database, theirs, *(a_note(f"secret plan {n}") for n in range(30)))
    await store(database, mine, a_note("secret of mine"))
    assert await find(database, mine, "secret plan") == ["secret of mine"]
    stolen = Scope(mine.team_id, theirs.project_id)
    assert await find(database, stolen, "secret plan") == []


async def test_a_note_is_found_by_its_date(database: Database) -> None:
    scope = await new_scope(database)
    await store(database, scope, a_note("moved house", at=1_684_454_400_000), a_note("sold car", at=1_600_000_000_000))
    assert await find(database, scope, "what happened in May 2023?") == ["moved house"]


async def test_what_stands_beside_a_good_note_ranks_before_an_equal_one(database: Database) -> None:
    scope = await new_scope(database)
    ids = []
    for name in ("one", "two"):
        new = NewSession(new_id(), content_session_id=name, started_at=1)
        ids.append(await open_session(database, scope, new))
    await store(
        database, scope, a_note("cache warmed later", session=ids[0]), a_note("deadlock in cache", session=ids[0])
    )
    await store(database, scope, a_note("cache warmed early", session=ids[1]), a_note("lunch", session=ids[1]))
    assert await find(database, scope, "deadlock cache") == [
        "deadlock in cache", "cache warmed later", "cache warmed early",
    ]  # fmt: skip


async def open_session(database: Database, scope: Scope, new: NewSession) -> str:
    return (await database.tx(lambda conn: sessions.open_session(conn, scope, new, 1)))[0].id


async def test_a_deleted_note_is_not_found_and_not_counted(database: Database) -> None:
    scope = await new_scope(database)
    gone, stays = a_note("cache gone"), a_note("cache stays")
    await store(database, scope, gone, stays)
    await database.tx(lambda conn: observations.delete_observation(conn, scope, gone.id, 1))
    assert await find(database, scope, "cache") == ["cache stays"]
    assert await counted(database, scope, "cach") == 1


async def counted(database: Database, scope: Scope, term: str) -> int:
    """In how many notes the index says that a term is."""

    def work(conn: Connection) -> int:
        project = search_index.find_project(conn, scope)
        assert project is not None
        name = search_index.in_project(project[0], term)
        return search_index.count_notes_with(conn, scope, [name])[0].get(name, 0)

    return await database.read(work)


async def test_words_of_deleted_notes_alone_are_not_kept_among_the_counts(database: Database) -> None:
    scope = await new_scope(database)
    notes = [a_note(f"cache {n} secretword") for n in range(search_index.MOST_UNCOUNTED)]
    await store(database, scope, *notes)
    await store(database, scope, a_note("cache stays"))

    def words(conn: Connection) -> set[str]:
        table = "search_vocabulary" if dialect.is_sqlite(conn) else "search_frequencies"
        known = conn.exec_driver_sql(f"SELECT term FROM {table}").scalars()  # noqa: S608 - names of ours
        return {term.partition(":")[2] for term in known}

    assert "secretword" in await database.read(words)

    def delete(conn: Connection) -> None:
        for note in notes:
            observations.delete_observation(conn, scope, note.id, 1)

    await database.tx(delete)
    assert "secretword" not in await database.read(words)
    assert await counted(database, scope, "cach") == 1


async def test_counts_stay_true_while_notes_come_and_go_by_the_hundred(database: Database) -> None:
    scope = await new_scope(database)
    notes = [a_note(f"cache note {n}") for n in range(700)]
    for start in range(0, len(notes), 70):
        await store(database, scope, *notes[start : start + 70])
    assert await counted(database, scope, "cach") == 700
    await remove(database, scope, [note.id for note in notes[:150]])
    assert await counted(database, scope, "cach") == 550
    assert await notes_in_index(database, scope) == 550


async def remove(database: Database, scope: Scope, ids: Sequence[str]) -> None:
    await database.tx(lambda conn: search.remove_observations(conn, scope, ids))


async def notes_in_index(database: Database, scope: Scope) -> int:
    def work(conn: Connection) -> int:
        project = search_index.find_project(conn, scope)
        assert project is not None
        return project[1] + search_index.count_notes_with(conn, scope, ["x"])[1]

    return await database.read(work)


async def test_how_often_a_word_is_in_a_note_is_known_exactly(database: Database) -> None:
    scope = await new_scope(database)
    times = [1, 2, 3, 7, 20, 100]
    await store(database, scope, *(a_note(" ".join(["cache"] * n)) for n in times))

    def work(conn: Connection) -> list[int]:
        project = search_index.find_project(conn, scope)
        assert project is not None
        term = search_index.in_project(project[0], "cach")
        counts = search_index.read_candidates(conn, scope, list(range(1, 100)), [term])
        return sorted(note.counts[term] for note in counts)

    assert await database.read(work) == times


async def test_a_search_is_planned_for_its_words_however_often_it_ran(database: Database) -> None:
    scope = await new_scope(database)
    await store(database, scope, a_note("cache cleared"))

    def work(conn: Connection) -> str | None:
        for _ in range(8):
            search.search(conn, scope, "cache", EVERYTHING, limit=5)
        if dialect.is_sqlite(conn):
            return None
        return str(conn.exec_driver_sql("SHOW plan_cache_mode").scalar_one())

    assert await database.read(work) in {None, "force_custom_plan"}
    assert await find(database, scope, "cache") == ["cache cleared"]


async def test_a_quoted_phrase_must_be_there_and_an_excluded_word_must_not(database: Database) -> None:
    scope = await new_scope(database)
    await store(
        database,
        scope,
        a_note("the token cache was cleared"),
        a_note("cache of a token, later cleared"),
        a_note("the redis cache was cleared"),
        a_note("use git rebase --onto main with -vv"),
    )
    for query, expected in (
        ('"token cache"', ["the token cache was cleared"]),
        ('cleared "token cache"', ["the token cache was cleared"]),
        ('"Tokens cached"', ["the token cache was cleared"]),
        ('"cache token"', ["cache of a token, later cleared"]),
        ('"redis token"', []),
        ("cleared -redis -later", ["the token cache was cleared"]),
        ('cleared -"token cache" -redis', ["cache of a token, later cleared"]),
        ('"cache was cleared" -redis', ["the token cache was cleared"]),
    ):
        assert await find(database, scope, query) == expected, query


@pytest.mark.parametrize("query", ["git rebase -onto", "rebase -vv", "-onto", 'rebase "never written so"'])
async def test_what_only_looks_like_an_operator_is_a_word(database: Database, query: str) -> None:
    scope = await new_scope(database)
    await store(database, scope, a_note("use git rebase --onto main with -vv"), a_note("lunch"))
    assert await find(database, scope, query) == ["use git rebase --onto main with -vv"]


@pytest.mark.parametrize("query", ["", "  ", "what was it", "!?", "-", '""'])
async def test_a_query_of_no_words_finds_the_newest(database: Database, query: str) -> None:
    scope = await new_scope(database)
    await store(database, scope, a_note("first"), a_note("second"))
    assert await find(database, scope, query) == ["second", "first"]


async def test_one_character_of_a_script_without_blanks_finds(database: Database) -> None:
    scope = await new_scope(database)
    await store(database, scope, a_note("数据库连接失败"), a_note("lunch"))
    assert await find(database, scope, "库") == ["数据库连接失败"]


async def test_a_note_that_was_replaced_is_found_where_it_is_asked_for_and_last(database: Database) -> None:
    scope = await new_scope(database)
    old, new = a_note("cache cache cache"), a_note("the cache is gone")
    await store(database, scope, old, new)
    await database.tx(lambda conn: observations.supersede(conn, scope, [old.id], by_id=new.id, now=1))
    assert await find(database, scope, "cache") == ["the cache is gone"]
    wanted = SearchFilter(superseded=True)
    assert await find(database, scope, "cache", wanted) == ["the cache is gone", "cache cache cache"]


async def test_concepts_and_sessions_narrow_too(database: Database) -> None:
    scope = await new_scope(database)
    session_id = await open_session(database, scope, NewSession(new_id(), content_session_id="one", started_at=1))
    tagged = a_note("cache one")
    object.__setattr__(tagged, "draft", Draft(ObservationKind.CHANGE, "cache one", concepts=("gotcha", 'a "b"')))
    await store(database, scope, tagged, a_note("cache two", session=session_id))
    for wanted, expected in (
        (SearchFilter(concepts=frozenset({"gotcha", "pattern"})), ["cache one"]),
        (SearchFilter(concepts=frozenset({'a "b"'})), ["cache one"]),
        (SearchFilter(concepts=frozenset({"gotch"})), []),
        (SearchFilter(session_id=session_id), ["cache two"]),
    ):
        assert await find(database, scope, "cache", wanted) == expected, wanted


@dataclass(frozen=True)
class Made:
    """A note of many kinds, by what filters ask for."""

    title: str
    word: str
    kind: ObservationKind
    concept: str
    file: str
    platform: str
    session: str
    at: int
    superseded: bool

    def meets(self, wanted: SearchFilter, query: str) -> bool:
        return (
            (self.word in query.split() or query == "the")
            and (not wanted.kinds or self.kind in wanted.kinds)
            and (not wanted.concepts or self.concept in wanted.concepts)
            and (wanted.file is None or f"/{self.file}".endswith(f"/{wanted.file}"))
            and wanted.platform_source in {None, self.platform}
            and wanted.session_id in {None, self.session}
            and (wanted.since is None or self.at >= wanted.since)
            and (wanted.until is None or self.at <= wanted.until)
            and (wanted.superseded or not self.superseded)
        )


async def test_any_combination_of_filters_finds_exactly_what_meets_it(database: Database) -> None:
    chance = random.Random(7)  # noqa: S311 - the same in every run
    scope = await new_scope(database)
    sessions_there = [
        await open_session(database, scope, NewSession(new_id(), content_session_id=name, started_at=1))
        for name in ("one", "two")
    ]
    kinds = [ObservationKind.BUGFIX, ObservationKind.DECISION, ObservationKind.CHANGE]
    files = ["src/a/money.py", "lib/a/money.py", "src/b/50%_off.py"]
    made = [
        Made(
            f"{word} {n}", word, chance.choice(kinds), chance.choice(["gotcha", "pattern"]), chance.choice(files),
            chance.choice(["codex", "cursor"]), chance.choice(sessions_there), 1_000 + n, chance.random() < 0.2,
        )
        for n, word in enumerate(chance.choices(["cache", "parser", "数据"], k=60))
    ]  # fmt: skip
    notes = []
    for each in made:
        note = a_note(each.title, at=each.at, kind=each.kind, session=each.session, platform=each.platform)
        draft = Draft(each.kind, each.title, concepts=(each.concept,), files_read=(each.file,))
        notes.append(dataclasses.replace(note, draft=draft, content=each.title))
    await store(database, scope, *notes)
    replaced = [note.id for note, each in zip(notes, made, strict=True) if each.superseded]
    by_id = next(note.id for note in notes if note.id not in replaced)
    await database.tx(lambda conn: observations.supersede(conn, scope, replaced, by_id=by_id, now=1))

    for _ in range(150):
        since, until = sorted(chance.choices(range(1_000, 1_060), k=2))
        given: dict[str, Any] = {
            "kinds": frozenset(chance.sample(kinds, k=2)),
            "concepts": frozenset({chance.choice(["gotcha", "pattern"])}),
            "file": chance.choice(["money.py", "a/money.py", "src/a/money.py", "50%_off.py", "b/50__off.py"]),
            "platform_source": chance.choice(["codex", "cursor", "windsurf"]),
            "session_id": chance.choice(sessions_there),
            "since": since,
            "until": until,
            "superseded": True,
        }
        wanted = SearchFilter(**{name: given[name] for name in chance.sample(sorted(given), k=chance.randrange(5))})
        query = chance.choice(["cache", "cache parser", "数据", "the"])
        found = await find(database, scope, query, wanted, limit=100)
        assert len(set(found)) == len(found)
        assert set(found) == {each.title for each in made if each.meets(wanted, query)}, (query, wanted)
        superseded = [next(each for each in made if each.title == title).superseded for title in found]
        assert superseded == sorted(superseded)
