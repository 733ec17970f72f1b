"""The whole rule by which a file counts as renamed."""

from __future__ import annotations

import pytest

from batcher.channels import Hold
from batcher.channels.resolution import Renamed, RenameNow, Seen, Uploaded, resolve

OURS = Uploaded(".acme-000001.t1.part", 100, "aa")


@pytest.mark.parametrize(
    ("seen", "verdict"),
    [
        pytest.param(Seen(None, 100), Renamed(), id="gone, final there"),
        pytest.param(Seen(None, None), Renamed(), id="gone, final taken away by the receiver"),
        pytest.param(Seen(None, 7), Renamed(), id="gone, someone else's file under the final name"),
        pytest.param(Seen(100, None), RenameNow(), id="waiting"),
        pytest.param(Seen(100, 100, same=True), Renamed(leftover=True), id="server died inside its rename"),
        pytest.param(Seen(100, 100, same=False), Hold, id="foreign file of the same size"),
        pytest.param(Seen(100, 7), Hold, id="foreign file"),
        pytest.param(Seen(0, None), Hold, id="server lost our bytes"),
        pytest.param(Seen(0, 100, same=True), Renamed(leftover=True), id="ours in place, temporary damaged"),
    ],
)
def test_resolve(seen: Seen, verdict: object) -> None:
    found = resolve(seen, OURS, "acme-000001.csv")
    if verdict is Hold:
        assert isinstance(found, Hold)
        assert found.reason
    else:
        assert found == verdict
