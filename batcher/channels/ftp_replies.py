"""What the replies and errors of an FTPS server mean for a file. Pure.

The law: 4xx passes by itself, 5xx needs a person. The server's words are left out: they may name people.
"""

from __future__ import annotations

import ftplib
import ssl

from batcher.channels import Hold, Retry
from batcher.channels.line import broken, cannot_rename

_TOO_OLD = {"UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION", "NO_PROTOCOLS_AVAILABLE"}
_UNKNOWN_COMMAND = {500, 502, 504, 534, 536}
_NO_LOGIN = {530, 532}
_SESSION_NOT_REUSED, _NO_FILE, _NO_ROOM, _NAME_REFUSED = 522, 550, 552, 553


def explain(error: Exception, where: str, doing: str) -> Retry | Hold:
    """Any of ftplib, TLS or the network."""
    match error:
        case ssl.SSLCertVerificationError():
            meaning: Retry | Hold = Hold(
                f"the certificate of {where} is not valid for us ({error.verify_message}): ask the "
                "advertiser to mend it, or pin it in `certificates`, or give its authority in `ca`"
            )
        case ssl.SSLError() if error.reason in _TOO_OLD:
            meaning = Hold(
                f"{where} offers no version of TLS that is still safe: the advertiser must update it"
            )
        case ssl.SSLError():
            meaning = Retry(f"TLS with {where} failed while {doing} ({error.reason or type(error).__name__})")
        case ftplib.error_perm():
            meaning = refusal(code_of(error), where, doing)
        case ftplib.error_temp():
            meaning = Retry(f"{where} cannot do it now while {doing} (FTP reply {code_of(error)})")
        case ftplib.Error():
            meaning = Retry(f"{where} answers with what is no FTP while {doing}")
        case _:
            meaning = broken(error, where, doing)
    return meaning


def refusal(code: int, where: str, doing: str) -> Hold:
    """A reply of the 500s."""
    if code in _NO_LOGIN:
        return Hold(f"{where} refuses the user name or password: ask the advertiser for valid ones")
    if code in _UNKNOWN_COMMAND:
        return Hold(f"{where} does not support {doing}: another server or channel is needed")
    reasons = {
        _SESSION_NOT_REUSED: "does not accept the TLS session of the data connection",
        _NO_FILE: "knows no such folder or file, or denies it: check `directory` and our rights there",
        _NO_ROOM: "has no room left: the disk is full or the quota used up",
        _NAME_REFUSED: "allows no such file there: check `directory` and our rights there",
    }
    return Hold(f"while {doing} {where} {reasons.get(code, 'refuses')} (FTP reply {code})")


def rename_refusal(code: int, where: str) -> Hold:
    """A reply of the 500s to RNFR or RNTO, where the file is there."""
    if code in _UNKNOWN_COMMAND or code == _NO_FILE:
        return cannot_rename(where, f"FTP reply {code}")
    return refusal(code, where, "renaming a file")


def code_of(error: Exception) -> int:
    """Of an error reply, which begins with it."""
    return int(str(error)[:3]) if str(error)[:3].isdecimal() else 0
