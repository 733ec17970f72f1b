"""What the demo's advertisers offer: campaigns that belong to an account's name alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from random import Random

#: What campaigns are for: mostly leads and subscriptions; traffic must never carry personal data.
CAMPAIGN_TYPES = ("LEAD", "LEAD", "EMAIL_SUBSCRIPTION", "EMAIL_SUBSCRIPTION", "LEAD", "WEBSITE_TRAFFIC")
PRODUCTS = (
    "Meal Box",
    "Energy Plus",
    "Pet Club",
    "Travel Perks",
    "Book Nook",
    "Fit Studio",
    "Car Cover",
    "Solar Home",
)
SEASONS = ("Spring", "Summer", "Always-on", "Win-back")


@dataclass(frozen=True, slots=True)
class Campaign:
    campaign_id: str
    name: str
    campaign_type: str


@cache
def campaigns(account: str) -> tuple[Campaign, ...]:
    """An account's campaigns, one to four: the same for its name, whatever the seed."""
    choose = Random(f"campaigns of {account}")
    found = []
    for number in range(1, choose.randint(1, 4) + 1):
        name = f"{choose.choice(PRODUCTS)} {choose.choice(SEASONS)} {number}"
        found.append(Campaign(str(choose.randrange(10**17, 10**18)), name, choose.choice(CAMPAIGN_TYPES)))
    return tuple(found)
