"""What has become of a file whose upload is durably noted, decided from what the server shows.

The law: temporary gone means renamed. The final name's presence never decides alone: someone else may
have put a file there, and the receiver may have taken ours away already. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

from batcher.channels import Hold


@dataclass(frozen=True, slots=True)
class Uploaded:
    """The whole content lies under the temporary `name`, `size` in bytes."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Seen:
    """Sizes in bytes, None where there is no such file; `same`: the final one holds our content."""

    temporary: int | None
    final: int | None
    same: bool = False


@dataclass(frozen=True, slots=True)
class Renamed:
    """The content has, or had, its final name. `leftover`: the temporary name is still there too."""

    leftover: bool = False


@dataclass(frozen=True, slots=True)
class RenameNow:
    """The temporary file waits, and its final name is free."""


def resolve(seen: Seen, uploaded: Uploaded, final: str) -> Renamed | RenameNow | Hold:
    if seen.temporary is None:
        return Renamed()
    if seen.final is not None:
        if seen.same:
            return Renamed(leftover=True)  # the server died between the two halves of its rename
        return Hold(
            f"a file {final} with other or unreadable content is already there: "
            "find out with the advertiser whose it is and move it away"
        )
    if seen.temporary != uploaded.size:
        return Hold(
            f"the uploaded file {uploaded.name} now has {seen.temporary} bytes instead of {uploaded.size}: "
            "ask the advertiser what changed it"
        )
    return RenameNow()
