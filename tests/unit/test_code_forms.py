"""Codes by chance: in their form, each as likely as the others; and files of codes, wherever their pieces end."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vouchsafe.domain.code_lines import CodeLine, CodeLines
from vouchsafe.domain.codes import CHARSET, GUESSES_PER_CODE, CodeForm
from vouchsafe.domain.errors import InvalidRequest


def test_the_charset_has_no_look_alikes() -> None:
    assert len(set(CHARSET)) == len(CHARSET) == 31
    assert not set(CHARSET) & set("01ILO")


@given(st.from_regex(r"[A-Z_-]{0,5}#{1,6}[A-Z-]{0,3}#{0,6}[A-Z]{0,3}", fullmatch=True), st.integers(1, 50))
def test_codes_have_the_form(pattern: str, count: int) -> None:
    codes = CodeForm(pattern, "23456").draw(count)
    assert len(codes) == count
    for code in codes:
        assert len(code) == len(pattern)
        assert all(
            character in "23456" if wanted == "#" else character == wanted
            for character, wanted in zip(code, pattern, strict=True)
        )


# 31 and 36 divide no power of two: taking bytes by their remainder would prefer the first characters by an eighth.
@pytest.mark.parametrize("charset", ["AB", CHARSET, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"], ids=len)
def test_every_character_is_as_likely_as_the_others_at_every_place(charset: str) -> None:
    count = 40_000
    codes = CodeForm("#" * 8, charset).draw(count)
    assert len(set(codes)) == count or len(charset) == 2
    expected = count / len(charset)
    for place in range(8):
        found = Counter(code[place] for code in codes)
        # Chi-squared with some dozens of degrees of freedom: 150 is beyond one in a billion.
        assert sum((found[one] - expected) ** 2 / expected for one in charset) < 150


@pytest.mark.parametrize("charset", ["AB", CHARSET], ids=len)
@pytest.mark.parametrize("codes", [1, 10_000, 10_000_000])
def test_a_form_is_accepted_from_the_length_on_that_the_refusal_names(charset: str, codes: int) -> None:
    length = 1
    while CodeForm("#" * length, charset).space < codes * GUESSES_PER_CODE:
        with pytest.raises(InvalidRequest) as caught:
            CodeForm("#" * length, charset).check(codes)
        told = int(caught.value.violations[0].description.split("a length of ")[1].split()[0])
        CodeForm("#" * told, charset).check(codes)
        length += 1
    assert told == length


FILE = b"\xef\xbb\xbfcode, customer_id\r\nA-1,c\r\n\r\nb_2,\nbad code,\n" + b"x" * 3_000 + b"\nC-3,\xff\nD-4,d"
LINES = [
    CodeLine(2, "A-1", 1, "c"),
    CodeLine(4, "B_2"),
    CodeLine(5, problem="code: has to be 3 to 64 letters, digits, hyphens and underscores"),
    CodeLine(6, problem="has more than 1024 bytes"),
    CodeLine(7, problem="is not a line of CSV in UTF-8"),
    CodeLine(8, "D-4", 1, "d"),
]


@given(st.lists(st.integers(0, len(FILE)), max_size=20))
def test_a_file_is_read_the_same_wherever_its_pieces_end(cuts: list[int]) -> None:
    reader = CodeLines()
    places = [0, *sorted(cuts), len(FILE)]
    found = [line for start, end in itertools.pairwise(places) for line in reader.feed(FILE[start:end])]
    assert [*found, *reader.end()] == LINES


@given(st.binary(max_size=200))
def test_whatever_a_file_holds_is_told(data: bytes) -> None:
    reader = CodeLines()
    assert list(reader.feed(b"code\n")) == []
    for line in [*reader.feed(data), *reader.end()]:
        assert line.problem or line.code
