"""Content to gzip or zip as it is written. The one owner of gzip and pyzipper.

Without a password the same content gives the same bytes; a password draws a new salt each time.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

import pyzipper

from batcher.files.packing import Packing
from batcher.files.sink import Out, Quiet
from schemas.files import Compression

#: Nine tenths of what the highest level gains, in a third of its time; the one zips have, too.
LEVEL = 6
#: Before and after these years a zip has no dates.
_ZIP_YEARS = (1980, 2107)


@contextmanager
def compressing(out: Out, how: Compression, packing: Packing) -> Iterator[Out]:
    """What to write the content to; complete when the context is left without an error."""
    if how == "none":
        yield out
        return
    quiet = Quiet(out)
    with _gzip(quiet) if how == "gzip" else _zip(quiet, packing) as inner:
        try:
            yield _Checked(inner, quiet)
        except BaseException as error:
            quiet.give_up(error)
            raise
    quiet.check()


class _Checked:
    """An archive's content; a failure to pass the archive on is the writer's to know at once."""

    def __init__(self, inner: Out, quiet: Quiet) -> None:
        self._inner, self._quiet = inner, quiet

    def write(self, content: bytes, /) -> int:
        self._inner.write(content)
        self._quiet.check()
        return len(content)


@contextmanager
def _gzip(out: Quiet) -> Iterator[Out]:
    with gzip.GzipFile("", "wb", LEVEL, cast("BinaryIO", out), mtime=0) as inner:
        yield inner


@contextmanager
def _zip(out: Quiet, packing: Packing) -> Iterator[Out]:
    at = packing.at.replace(year=min(max(packing.at.year, _ZIP_YEARS[0]), _ZIP_YEARS[1]))
    with pyzipper.AESZipFile(out, "w", pyzipper.ZIP_DEFLATED) as archive:
        if packing.password is not None:
            archive.setencryption(pyzipper.WZ_AES, nbits=256)
            archive.setpassword(packing.password.encode())
        member = archive.zipinfo_cls(packing.name, at.timetuple()[:6])
        member.compress_type = pyzipper.ZIP_DEFLATED
        # Whatever its size will be: it is not known at the beginning, where it would have to be said.
        with archive.open(member, "w", force_zip64=True) as inner:
            yield inner
