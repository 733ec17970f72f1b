from __future__ import annotations

import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.crm import identifiers
from consumer.crm.google_customer_match import CONSENT
from schemas.crms import GOOGLE_KEYS, META_KEYS

HASH = re.compile("[0-9a-f]{64}")


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    ("key", "value", "normal"),
    [
        pytest.param(
            "EMAIL", "  John_Smith@Gmail.com\t", "john_smith@gmail.com", id="email: trimmed, lower case"
        ),
        pytest.param(
            "EMAIL", "j.smith+news@gmail.com", "j.smith+news@gmail.com", id="email: dots and suffix stay"
        ),
        pytest.param("EMAIL", "nobody", "", id="email: none"),
        pytest.param("PHONE", "+1 (650) 555-1212", "16505551212", id="phone: digits alone"),
        pytest.param("PHONE", "001 650 555 1212", "16505551212", id="phone: no leading zeros"),
        pytest.param("PHONE", "000-000", "", id="phone: zeros alone are nothing"),
        pytest.param("PHONE", "n/a", "", id="phone: words are nothing"),
        pytest.param("GEN", "F", "f", id="gender: letter"),
        pytest.param("GEN", "Male", "m", id="gender: word"),
        pytest.param("GEN", "Mx", "", id="gender: neither"),
        pytest.param("DOBY", "1990-02-01", "1990", id="year of a date"),
        pytest.param("DOBM", "1990-02-01", "02", id="month of a date"),
        pytest.param("DOBD", "1990-02-01", "01", id="day of a date"),
        pytest.param("DOBM", "2", "02", id="month alone"),
        pytest.param("DOBD", "1st", "", id="day: no number"),
        pytest.param("FN", " Mary ", "mary", id="first name"),
        pytest.param("FN", "정", "정", id="first name in hangul"),
        pytest.param("FN", "Valéry", "valéry", id="first name with an accent"),
        pytest.param("FN", "Vale\u0301ry", "valéry", id="the same name, spelt with a combining accent"),
        pytest.param("LN", "O'Brien-Smith, Jr.", "obriensmith jr", id="last name: no punctuation"),
        pytest.param("FN", "Mary\n Ann", "mary ann", id="first names, one blank between them"),
        pytest.param("FI", "Zoë", "z", id="first initial"),
        pytest.param("CT", "St. John's", "stjohns", id="city: no blanks"),
        pytest.param("ST", " NSW", "nsw", id="state"),
        pytest.param("ZIP", "94035-1234", "94035", id="zip: what stands before the hyphen"),
        pytest.param("ZIP", "SW1A 1AA", "sw1a1aa", id="zip: no blanks"),
        pytest.param("ZIP", "02650", "02650", id="zip: keeps its zero"),
        pytest.param("COUNTRY", "AU", "au", id="country"),
        pytest.param("COUNTRY", "Australia", "", id="country: no code"),
    ],
)
def test_what_meta_hashes(key, value, normal):
    assert identifiers.meta(key, value) == (sha256(normal) if normal else "")


@pytest.mark.parametrize(
    ("key", "value", "normal"),
    [
        pytest.param(
            "emailAddress", " Dana@Example.com ", "dana@example.com", id="email: trimmed, lower case"
        ),
        pytest.param("emailAddress", "da na@ example.com", "dana@example.com", id="email: blanks inside"),
        pytest.param(
            "emailAddress",
            "cloudy.sanfrancisco+shopping@gmail.com",
            "cloudysanfrancisco@gmail.com",
            id="gmail.com",
        ),
        pytest.param(
            "emailAddress", "Cloudy.S+x+y@GoogleMail.com", "cloudys@googlemail.com", id="googlemail.com"
        ),
        pytest.param(
            "emailAddress", "user.name+NYC@Example.com", "user.name+nyc@example.com", id="another domain"
        ),
        pytest.param("emailAddress", "+all@gmail.com", "", id="nothing before the suffix"),
        pytest.param("emailAddress", "dana.example.com", "", id="email: none"),
        pytest.param("phoneNumber", "+1 (800) 555-0100", "+18005550100", id="phone: E.164 with its plus"),
        pytest.param("phoneNumber", "(800) 555-0100", "", id="phone: of no known country"),
        pytest.param("phoneNumber", "+1234567890123456", "", id="phone: too long"),
        pytest.param("phoneNumber", "+", "", id="phone: nothing"),
        pytest.param("givenName", " Dana ", "dana", id="given name"),
        pytest.param("familyName", "D'Angelo", "dangelo", id="family name: no punctuation"),
    ],
)
def test_what_google_hashes(key, value, normal):
    assert identifiers.google(key, value) == (sha256(normal) if normal else "")


@pytest.mark.parametrize(
    ("got", "published"),
    [
        # developers.facebook.com/docs/marketing-api/conversions-api/parameters/customer-information-parameters
        pytest.param(
            identifiers.meta("EMAIL", "John_Smith@gmail.com"),
            "62a14e44f765419d10fea99367361a727c12365e2520f32218d505ed9aa0f62f",
            id="Meta: email",
        ),
        pytest.param(
            identifiers.meta("PHONE", "(1) 650-555-1212"),
            "e323ec626319ca94ee8bff2e4c87cf613be6ea19919ed1364124e16807ab3176",
            id="Meta: phone",
        ),
        pytest.param(
            identifiers.meta("FN", "Mary"),
            "6915771be1c5aa0c886870b6951b03d7eafc121fea0e80a5ea83beb7c449f4ec",
            id="Meta: name",
        ),
        pytest.param(
            identifiers.meta("FN", "정"),
            "8fa8cd9c440be61d0151429310034083132b35975c4bea67fdd74158eb51db14",
            id="Meta: name in hangul",
        ),
        pytest.param(
            identifiers.meta("FN", "Valéry"),
            "08e1996b5dd49e62a4b4c010d44e4345592a863bb9f8e3976219bac29417149c",
            id="Meta: name with an accent",
        ),
        # developers.google.com/data-manager/api/get-started/quickstart, in capitals there
        pytest.param(
            identifiers.google("emailAddress", "dana@example.com"),
            "07e2f1394b0ea80e2adca010ea8318df697001a005ba7452720edda4b0ce57b3",
            id="Google: email",
        ),
        pytest.param(
            identifiers.google("emailAddress", "cloudySanFrancisco@GMAIL.com"),
            "223ebda6f6889b1494551ba902d9d381daf2f642bae055888e96343d53e9f9c4",
            id="Google: gmail.com",
        ),
    ],
)
def test_the_vendors_own_examples(got, published):
    assert got == published


@pytest.mark.parametrize(
    ("got", "clear"),
    [
        (identifiers.meta("EXTERN_ID", " A-1 "), "A-1"),
        (
            identifiers.meta("MADID", "6032D997-3AB0-4DE0-AA16-8AF0E5B482FB"),
            "6032d997-3ab0-4de0-aa16-8af0e5b482fb",
        ),
        (identifiers.google("regionCode", "au"), "AU"),
        (identifiers.google("regionCode", "Australia"), ""),
        (identifiers.google("postalCode", " SW1A 1AA "), "SW1A 1AA"),
    ],
)
def test_what_is_sent_as_it_is(got, clear):
    assert got == clear


def test_one_vendors_hash_is_not_the_others():
    for meta, google, value in (
        ("EMAIL", "emailAddress", "j.smith@gmail.com"),
        ("PHONE", "phoneNumber", "+61400000001"),
    ):
        assert identifiers.meta(meta, value) != identifiers.google(google, value)


every_hashed_key = pytest.mark.parametrize(
    ("ready", "key"),
    [
        *((identifiers.meta, key) for key in sorted(META_KEYS - identifiers.META_CLEAR)),
        *((identifiers.google, key) for key in sorted(GOOGLE_KEYS - identifiers.GOOGLE_CLEAR - set(CONSENT))),
    ],
)


@every_hashed_key
def test_blank_stays_blank_and_a_hash_is_not_hashed_again(ready, key):
    assert [ready(key, blank) for blank in ("", "  ", "\t\n", "\u00a0")] == [""] * 4
    hashed = sha256("somebody@example.com")
    assert ready(key, f" {hashed.upper()} ") == hashed


@every_hashed_key
@given(value=st.text(max_size=30))
def test_nothing_leaves_in_clear(ready, key, value):
    got = ready(key, value)
    assert got == "" or HASH.fullmatch(got)
    assert ready(key, f" {value}\n") == got


def test_every_key_a_connection_may_name_is_known():
    assert set(identifiers.META) == META_KEYS
    assert set(identifiers.GOOGLE) | set(CONSENT) == GOOGLE_KEYS
