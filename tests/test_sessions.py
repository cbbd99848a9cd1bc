"""Sessions end when they should, and guessing gets slow."""

from __future__ import annotations

import math
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from hypothesis import given
from hypothesis import strategies as st

from skinedge.clinic.sessions import ABSOLUTE_S, IDLE_S, Session, Sessions, Throttle, csrf_matches


class Clock:
    """A clock that is set by hand, in seconds."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_ids_and_tokens_are_256_bits_that_never_come_again() -> None:
    made = [Sessions().begin() for _ in range(500)]
    keys = [k for s in made for k in (s.id, s.csrf)]
    assert len(set(keys)) == 1000
    assert {len(bytes.fromhex(k)) for k in keys} == {32}
    assert made[0].id not in repr(made[0])
    assert made[0].csrf not in repr(made[0])


def test_a_session_ends_after_half_an_hour_of_nothing_and_after_half_a_day_of_work() -> None:
    clock, ended = Clock(), list[Session]()
    sessions = Sessions(clock=clock, on_end=ended.append)
    idle, busy = sessions.begin(), sessions.begin()
    for minute in range(1, 12 * 60 + 1):
        clock.now += 60
        found = sessions.find(busy.id)
        assert (found is not None) == (minute < 12 * 60), minute
        assert (idle.id in [s.id for s in ended]) == (minute >= 30), minute
    assert [s.id for s in ended] == [idle.id, busy.id]
    assert (IDLE_S, ABSOLUTE_S) == (1800, 43200)
    assert len(sessions) == 0


def test_unknown_ids_are_nobodys() -> None:
    sessions = Sessions()
    sessions.begin()
    for id in (None, "", "0" * 64, "../x", "\ud800"):
        assert sessions.find(id) is None
    sessions.end("0" * 64)
    assert len(sessions) == 1


def test_a_login_renews_id_and_token() -> None:
    ended = list[Session]()
    sessions = Sessions(on_end=ended.append)
    before = sessions.begin()
    after = sessions.log_in(before, "Dr Zhou", "clinician")
    assert {before.id, before.csrf}.isdisjoint({after.id, after.csrf})
    assert sessions.find(before.id) is None
    found = sessions.find(after.id)
    assert found is not None
    assert (found.operator, found.role, found.csrf) == ("Dr Zhou", "clinician", after.csrf)
    assert ended == [before]
    sessions.end(after.id)
    assert sessions.find(after.id) is None


def test_all_sessions_of_somebody_end_at_once() -> None:
    sessions = Sessions()
    hers = [sessions.log_in(sessions.begin(), "Dr Zhou", "clinician") for _ in range(3)]
    his = sessions.log_in(sessions.begin(), "Dr Wu", "admin")
    sessions.end_all_of("Dr Zhou")
    assert [sessions.find(s.id) for s in hers] == [None] * 3
    assert sessions.find(his.id) is not None


def test_strangers_cannot_push_an_operator_out() -> None:
    sessions, ended = Sessions(most=8, on_end=lambda s: ended.append(s)), list[Session]()
    operator = sessions.log_in(sessions.begin(), "Dr Zhou", "clinician")
    strangers = [sessions.begin() for _ in range(7)]
    sessions.find(strangers[0].id)  # seen last
    for _ in range(3):
        sessions.begin()
    assert [s.id for s in ended[1:]] == [s.id for s in strangers[1:4]]
    for _ in range(500):
        sessions.begin()
    assert len(sessions) == 8
    assert sessions.find(operator.id) is not None
    full = Sessions(most=2)
    first, second, third = (full.log_in(full.begin(), name, "admin") for name in "abc")
    assert [full.find(s.id) is None for s in (first, second, third)] == [True, False, False]


@given(token=st.one_of(st.none(), st.text(max_size=80), st.just("ü" * 32)))
def test_only_its_own_token_is_a_sessions(token: str | None) -> None:
    session = Sessions().begin()
    assert csrf_matches(session, session.csrf)
    assert not csrf_matches(session, token)
    assert not csrf_matches(session, session.csrf.upper() + "\ud800")
    assert not csrf_matches(Sessions().begin(), session.csrf)


def test_threads_share_them() -> None:
    sessions = Sessions(most=50)
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda _: sessions.log_in(sessions.begin(), "a", "admin").id, range(400)))
    assert len(set(ids)) == 400
    assert len(sessions) <= 50


def waits(throttle: Throttle, clock: Clock, attempts: int, name: str = "a", address: str = "::1") -> list[float]:
    """The waits of somebody who always guesses wrong and always waits."""
    told = []
    for _ in range(attempts):
        wait = throttle.attempt(name, address)
        if wait:
            clock.now += wait
            assert throttle.attempt(name, address) == 0
        told.append(wait)
    return told


def test_from_the_fifth_failure_the_wait_doubles_up_to_a_quarter_of_an_hour() -> None:
    clock = Clock()
    told = waits(Throttle(clock=clock), clock, 18)
    assert told == [0, 0, 0, 0, 0, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900, 900]


def test_a_year_of_guessing_one_name_is_few_guesses() -> None:
    clock = Clock()
    throttle = Throttle(clock=clock, most=16)
    begin, guesses = clock.now, 0
    while clock.now - begin < 365 * 86400:
        clock.now += throttle.attempt("a", str(guesses))  # from ever new addresses
        guesses += throttle.attempt("a", str(guesses)) == 0
    assert guesses < 80_000
    assert math.isfinite(throttle.attempt("a", "x"))


def test_an_attempt_during_the_wait_neither_counts_nor_prolongs() -> None:
    clock = Clock()
    throttle = Throttle(clock=clock)
    waits(throttle, clock, 5)
    assert [throttle.attempt("a", "::1") for _ in range(100)] == [2.0] * 100
    clock.now += 1.5
    assert throttle.attempt("a", "::1") == 0.5


def test_name_and_address_count_each_by_itself() -> None:
    clock = Clock()
    throttle = Throttle(clock=clock)
    for n in range(5):
        assert throttle.attempt("a", f"10.0.0.{n}") == 0
    assert throttle.attempt("a", "10.0.0.9") == 2
    assert throttle.attempt("b", "10.0.0.9") == 0
    for n in range(4):
        assert throttle.attempt(f"c{n}", "10.0.0.9") == 0
    assert throttle.attempt("d", "10.0.0.9") == 2


def test_a_name_written_otherwise_is_the_same_name() -> None:
    clock = Clock()
    throttle = Throttle(clock=clock)
    for n, name in enumerate(("Zo\u00eb", "Zoe\u0308", " Zo\u00eb", "Zo\u00eb\n", "Zoe\u0308 ")):
        assert throttle.attempt(name, str(n)) == 0
    assert throttle.attempt("Zo\u00eb", "9") == 2


def test_the_right_passphrase_ends_it_and_so_does_an_hour_of_quiet() -> None:
    clock = Clock()
    throttle = Throttle(clock=clock)
    waits(throttle, clock, 7)
    throttle.succeeded("a", "::1")
    assert len(throttle) == 0
    waits(throttle, clock, 7)
    wait = throttle.attempt("a", "::1")
    clock.now += wait + 3599
    assert throttle.attempt("a", "::1") == 0
    assert throttle.attempt("a", "::1") == 16
    clock.now += 16 + 3600
    assert waits(throttle, clock, 6) == [0, 0, 0, 0, 0, 2]


def test_many_attempts_at_once_get_no_more_than_five_through() -> None:
    clock = Clock()
    throttle = Throttle(clock=clock)
    with ThreadPoolExecutor(16) as pool:
        told = Counter(pool.map(lambda _: throttle.attempt("a", "::1"), range(200)))
    assert told == {0.0: 5, 2.0: 195}


def test_the_table_is_bounded_and_forgets_the_least_guessed_first() -> None:
    clock = Clock()
    throttle = Throttle(clock=clock, most=10)
    for _ in range(5):
        throttle.attempt("victim", "10.0.0.1")
    for n in range(1000):
        clock.now += 0.001
        throttle.attempt(f"name {n}", f"10.1.0.{n}")
    assert len(throttle) == 10
    assert throttle.attempt("victim", "10.9.9.9") > 0
    throttle.attempt("n" * 10**6, "a" * 10**6)
    assert len(throttle) == 10
