from __future__ import annotations

import os

import pytest

from consumer.secrets import MAX_BYTES, MAX_KEPT, TTL_S, Missing, Secrets


def test_text_without_references_is_itself():
    assert Secrets({}).resolve("Bearer $HOME {env:X} $${x}", 0.0) == "Bearer $HOME {env:X} $${x}"


def test_references_are_replaced_where_they_stand(tmp_path):
    file = tmp_path / "token"
    file.write_text("from-file\n")
    secrets = Secrets({"USER_ID": "7"})
    assert secrets.resolve(f"a ${{env:USER_ID}}:${{file:{file}}} z", 0.0) == "a 7:from-file z"


@pytest.mark.parametrize(
    ("content", "value"),
    [
        pytest.param(b"x\n", "x", id="one line end goes"),
        pytest.param(b"x\r\n", "x", id="CRLF goes"),
        pytest.param(b"x\n\n", "x\n", id="only one"),
        pytest.param(b"a\nb", "a\nb", id="a key of many lines stays whole"),
        pytest.param("gr\u00fc\u00df".encode(), "gr\u00fc\u00df", id="UTF-8"),
        pytest.param(b"x" * MAX_BYTES, "x" * MAX_BYTES, id="largest"),
        pytest.param(b" x ", " x ", id="blanks stay"),
    ],
)
def test_a_files_text(tmp_path, content, value):
    (tmp_path / "s").write_bytes(content)
    assert Secrets({}).resolve(f"${{file:{tmp_path}/s}}", 0.0) == value


def test_a_resolved_value_is_not_read_again_as_references():
    assert Secrets({"A": "${env:B}", "B": "b"}).resolve("${env:A}", 0.0) == "${env:B}"


def missing_cases(tmp_path):
    (tmp_path / "empty").write_bytes(b"\n")
    (tmp_path / "big").write_bytes(b"SECRET" * MAX_BYTES)
    (tmp_path / "latin1").write_bytes(b"SECRET\xe9")
    os.mkfifo(tmp_path / "pipe")
    return {
        "${env:NOT_SET}": "is not set in the environment",
        "${env:EMPTY}": "is not set in the environment",
        f"${{file:{tmp_path}/none}}": "cannot be read (No such file or directory)",
        "${file:a\0b}": "cannot be read (not a path)",
        f"${{file:{tmp_path}}}": "is not a file",
        f"${{file:{tmp_path}/pipe}}": "is not a file",
        f"${{file:{tmp_path}/empty}}": "is empty",
        f"${{file:{tmp_path}/big}}": f"is larger than {MAX_BYTES} bytes",
        f"${{file:{tmp_path}/latin1}}": "is not UTF-8 text",
    }


def test_a_missing_secret_is_named_and_never_shown(tmp_path):
    secrets = Secrets({"EMPTY": "", "OK": "SECRET"})
    for reference, why in missing_cases(tmp_path).items():
        found = secrets.resolve(f"SECRET ${{env:OK}} {reference}", 0.0)
        assert found == Missing(f"{reference} {why}")
        assert "SECRET" not in repr(found) + repr(secrets)


def test_a_rotated_file_is_seen_after_the_ttl(tmp_path):
    file = tmp_path / "s"
    reference = f"${{file:{file}}}"
    secrets = Secrets({})
    file.write_text("old")
    assert secrets.resolve(reference, 100.0) == "old"
    file.write_text("new")
    assert secrets.resolve(reference, 100.0 + TTL_S - 0.001) == "old"
    assert secrets.resolve(reference, 100.0 + TTL_S) == "new"


def test_a_secret_put_right_is_seen_at_once(tmp_path):
    file = tmp_path / "s"
    reference = f"${{file:{file}}}"
    secrets = Secrets({})
    assert isinstance(secrets.resolve(reference, 0.0), Missing)
    file.write_text("there")
    assert secrets.resolve(reference, 0.0) == "there"
    file.unlink()
    assert isinstance(secrets.resolve(reference, TTL_S), Missing)


def test_what_is_kept_is_bounded():
    secrets = Secrets({f"V{number}": "x" for number in range(MAX_KEPT + 10)})
    for number in range(MAX_KEPT + 10):
        secrets.resolve(f"${{env:V{number}}}", 0.0)
    assert len(secrets._kept) == MAX_KEPT
