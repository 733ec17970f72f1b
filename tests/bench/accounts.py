"""The fifty accounts of the bench, each with one connection of the same shape."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from deploy.embedded.accounts import ACCOUNTS

#: What a CRM wants of a person: renames, a value map, a constant and an answer, as the demo's files have
#: them. Some 600 bytes of JSON.
FIELDS = """[referral_id, email, first_name, last_name, postal_code, country, phone_e164, opted_in_at,
      {name: sex, from: gender, values: {M: Male, F: Female}, empty: Unknown},
      {name: origin, constant: marketplace}, {name: home_owner, from: answers.home, empty: n/a},
      campaign_name, bid_price, currency, consent.text_version, consent.text, consent.page_url, ad_text,
      user_agent]"""

#: The same as the columns of a file, without what only bodies have.
COLUMNS = (
    "referral_id", "email", "first_name", "last_name", "postal_code", "country", "phone_e164", "opted_in_at",
    "campaign_name", "bid_price", "currency", "ad_text", "user_agent",
)  # fmt: skip


def crms(base: str, accounts: Iterable[str] = ACCOUNTS, **options: str) -> Mapping[str, str]:
    """A CRM each; `base` may have the account in it."""
    return {account: _file(account, _crm(base, account, options)) for account in accounts}


def folders(
    port: int, host_key: str, accounts: Iterable[str] = ACCOUNTS, **options: str
) -> Mapping[str, str]:
    """A folder on one SFTP server each, filled once a year."""
    made = {
        "host": "127.0.0.1",
        "port": str(port),
        "username": "advertiser",
        "password": "${env:BENCH_SECRET}",
        "host_keys": f'["{host_key}"]',
        "schedule": '{cron: "0 8 1 1 *", zone: UTC}',
        **options,
    }
    return {a: _file(a, f"  - name: {a}-sftp\n    kind: sftp{_lines(made)}\n") for a in accounts}


def _crm(base: str, account: str, options: Mapping[str, str]) -> str:
    url = f"{base.replace('ACCOUNT', account)}/{account}-crm"
    return f"  - name: {account}-crm\n    kind: http{_lines({'url': url, **options})}\n"


def _lines(options: Mapping[str, str]) -> str:
    given = {"fields": FIELDS, **options}
    return "".join(f"\n    {key}: {value}" for key, value in given.items())


def _file(account: str, connections: str) -> str:
    return f"account: {account}\nconnections:\n{connections}"
