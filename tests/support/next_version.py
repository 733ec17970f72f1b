"""Starts a real service as a later release of it would be: every Lua script under another digest.

Law: nothing but the scripts' text differs, by a comment at its end, so that Redis holds two versions of each
and both must get along with the same data.
"""

from __future__ import annotations

import sys


def main() -> None:
    from batcher.__main__ import SERVICES
    from consumer import __main__ as push
    from consumer import service, store

    given = store.Script.source
    store.Script.source = lambda script: f"{given(script)}\n-- the next release\n"  # type: ignore[method-assign]
    sys.exit(service.run({"push": push.main, **SERVICES}[sys.argv[1]]))


if __name__ == "__main__":
    main()
