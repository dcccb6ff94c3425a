"""Messages: what is said is what is heard, and a message of a thousand members fits."""

# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcrd.dataplane._dataplane import lib

from mcrd.dataplane import messages

NUMBERS = st.integers(-(2**31), 2**32)
ADDRESSES = st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16)
NETWORKS = st.lists(st.builds(messages.Network, ADDRESSES, NUMBERS), max_size=3)
ENDPOINTS = st.builds(messages.Endpoint, ADDRESSES, NUMBERS)
MEMBERS = st.builds(messages.MemberKey, NUMBERS, ENDPOINTS, st.none() | ENDPOINTS)
MATCHES = st.builds(
    messages.Match,
    first=ENDPOINTS,
    bits=NUMBERS,
    last_port=NUMBERS,
    protocol=NUMBERS,
    vlan=NUMBERS,
    limit=NUMBERS,
    by_source=st.booleans(),
    sources=NETWORKS,
    exclude=NETWORKS,
)
# Words of a worker: a line, and not a long one.
WORDS = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=1000)
st.register_type_strategy(
    messages.Ready,
    st.builds(
        messages.Ready,
        sequence=NUMBERS,
        held=st.lists(WORDS, max_size=3),
        missing=st.dictionaries(WORDS, WORDS, max_size=3),
        engine=st.sampled_from(["io_uring", "poll"]),
        refused=WORDS,
    ),
)
st.register_type_strategy(
    messages.Refused, st.builds(messages.Refused, sequence=NUMBERS, reason=WORDS)
)
st.register_type_strategy(int, NUMBERS)
st.register_type_strategy(
    messages.Wanted,
    st.builds(
        messages.Wanted,
        st.lists(MEMBERS, min_size=1, max_size=messages.MEMBERS_AT_ONCE),
    ),
)
st.register_type_strategy(
    messages.Unknown,
    st.builds(messages.Unknown, st.lists(NUMBERS, min_size=1, max_size=messages.MEMBERS_AT_ONCE)),
)
st.register_type_strategy(messages.Endpoint, ENDPOINTS)
st.register_type_strategy(messages.Match, MATCHES)
# hypothesis takes a default that is made anew each time for a value.
SOURCES = st.lists(st.builds(messages.SourceRun, ADDRESSES, ADDRESSES), max_size=3)
OUTPUTS = st.builds(messages.RuleOutput, st.none() | NUMBERS, NUMBERS, NUMBERS, NUMBERS, SOURCES)
st.register_type_strategy(messages.RuleOutput, OUTPUTS)
st.register_type_strategy(
    messages.ReplaceRule,
    st.builds(
        messages.ReplaceRule,
        sequence=NUMBERS,
        slot=NUMBERS,
        match=MATCHES,
        outputs=st.lists(OUTPUTS, max_size=3),
        kept=st.lists(st.none() | NUMBERS, max_size=3),
    ),
)

REQUESTS = get_args(messages.AnyRequest)
ANSWERS = get_args(messages.Answer)


@pytest.mark.parametrize("kind", REQUESTS, ids=lambda kind: kind.__name__)
def test_what_is_asked_is_what_is_heard(kind: type[messages.AnyRequest]) -> None:
    @given(st.from_type(kind))
    def check(request: messages.AnyRequest) -> None:
        assert messages.decode_request(messages.encode(request)) == request

    check()


@pytest.mark.parametrize("kind", ANSWERS, ids=lambda kind: kind.__name__)
def test_what_is_answered_is_what_is_heard(kind: type[messages.Answer]) -> None:
    @given(st.from_type(kind))
    def check(answer: messages.Answer) -> None:
        assert messages.decode_answer(messages.encode(answer)) == answer

    check()


@pytest.mark.parametrize("kind", ANSWERS, ids=lambda kind: kind.__name__)
def test_an_answer_is_no_request(kind: type[messages.Answer]) -> None:
    key = messages.MemberKey(0, messages.Endpoint(bytes(4), 1), None)
    answer = messages.Wanted([key]) if kind is messages.Wanted else messages.Done(1)
    with pytest.raises(msgspec.ValidationError):
        messages.decode_request(messages.encode(answer))


def test_what_a_match_leaves_out_is_any_source_of_an_untagged_udp_flow() -> None:
    match = messages.Match(messages.Endpoint(bytes(4), 5000), 32, 5000)
    assert (match.protocol, match.vlan, match.limit, match.by_source) == (17, 0, 0, False)
    assert (match.sources, match.exclude) == ([], [])


def test_all_that_are_wanted_at_once_fit_one_message() -> None:
    endpoint = messages.Endpoint(bytes([255] * 16), 65535)
    key = messages.MemberKey(lib.MCRD_RULE_SLOTS - 1, endpoint, endpoint)
    most = messages.Wanted([key] * messages.MEMBERS_AT_ONCE)
    assert len(messages.encode(most)) <= messages.LARGEST
    assert messages.decode_answer(messages.encode(most)) == most
    with pytest.raises(msgspec.ValidationError):
        messages.decode_answer(messages.encode(messages.Wanted([*most.members, key])))


@pytest.mark.parametrize("text", ["two\nlines", "\x1b[2J", "\x7f", "\x9b", "\u2028", "x" * 1001])
def test_what_a_worker_says_is_one_line_of_bounded_length(text: str) -> None:
    for answer in (
        messages.Refused(1, text),
        messages.Ready(1, [text], {}),
        messages.Ready(1, [], {text: ""}),
        messages.Ready(1, [], {"": text}),
    ):
        with pytest.raises(msgspec.ValidationError):
            messages.decode_answer(messages.encode(answer))
