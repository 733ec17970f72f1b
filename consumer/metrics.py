"""Every metric of the services, listed once. The one owner of prometheus_client.

Times are exported as timestamps, not ages; every label set stands at 0 from the start. No label
ever names a person, a referral or an advertiser.
"""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics, generate_latest

from schemas.delivery import Outcome

disable_created_metrics()  # type: ignore[no-untyped-call]

CONSUMED = Counter("referral_consumed", "Records read from Kafka and taken by intake.")
REPLAYED = Counter("referral_replayed_dropped", "Records read again and dropped: Redis had them.")
DUPLICATES = Counter("referral_duplicates_dropped", "Records upstream published twice.")
FENCED = Counter("referral_fenced", "Calls Redis refused.", ["reason"])
OFFSET_GAP = Counter("referral_offset_gap", "Offsets missing between two records read in a row.")
MISKEYED = Counter(
    "referral_miskeyed",
    "Records whose key is not their referral id, or that murmur2 puts in another partition.",
)
REDIS_REWIND = Counter("referral_redis_rewind", "Times Redis stood behind what it had confirmed.")
UNROUTED = Counter("referral_unrouted", "Records no connection wants.")
DEAD_LETTERS = Counter("referral_dlq", "Records and deliveries sent to dead letters.", ["reason"])
REMOVALS = Counter("referral_removals", "Removal events spread over the partitions.")
LAG = Gauge("referral_lag_records", "Records in Kafka that intake has not taken yet.", ["partition"])
PROGRESS = Gauge("referral_last_progress_timestamp_seconds", "When the main loop last went round.")
TAKEN_AT = Gauge("referral_last_intake_timestamp_seconds", "When intake last took a record.")

ATTEMPTS = Counter("referral_push_attempts", "Requests to CRMs by what they came to.", ["outcome"])
LATENCY = Histogram(
    "referral_push_latency_seconds",
    "From upstream's publication to the CRM's acceptance.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300, 3600, 86400),
)
AGE = Histogram(
    "referral_delivery_age_seconds",
    "Age of a delivery when it ended, however it ended; waiting counts.",
    buckets=(0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 14400, 86400, 259200),
)
PENDING = Gauge("referral_push_pending", "Deliveries waiting or under way in loaded lanes.")
IN_FLIGHT = Gauge("referral_push_in_flight", "Requests without an answer yet.")
OLDEST_PENDING = Gauge(
    "referral_push_oldest_pending_timestamp_seconds", "Publication time of the oldest loaded delivery, or 0."
)
PAUSED = Gauge("referral_connections_paused", "Connections paused by an operator or by an answer.")
GATES = Gauge("referral_connections_held_back", "Connections that start nothing or less now.", ["state"])
UNCERTAIN = Counter(
    "referral_push_uncertain", "Deliveries held for a person: applied or not, the key may be forgotten."
)
PARKED = Gauge("referral_push_parked", "Deliveries whose rows Kafka alone holds, as their lane is full.")
OLDEST_PARKED = Gauge(
    "referral_push_oldest_parked_timestamp_seconds",
    "When the oldest record of parked deliveries was published, as looked at once a minute, or 0.",
)
PARKED_GIVEN_UP = Counter(
    "referral_push_parked_given_up", "Parked deliveries made dead letters before Kafka deleted them."
)
PARKED_LOST = Counter("referral_push_parked_lost", "Parked deliveries whose records Kafka deleted first.")
ENDED = Counter("referral_deliveries_ended", "Deliveries and records by how they ended.", ["outcome"])
OUTBOX = Gauge("referral_outbox_length", "Receipts Kafka has not acknowledged yet.")

OLDEST_UNSEALED = Gauge(
    "referral_window_oldest_unsealed_timestamp_seconds",
    "When the oldest open window got its first row, or 0.",
)
FLUSH_OVERDUE = Gauge("referral_flush_overdue", "Windows whose scheduled time has passed by over 15 minutes.")
FLUSH_STATE = Gauge("referral_flush_state", "Windows by state.", ["state"])
FLUSHED = Counter(
    "referral_flush_artefacts", "Files and mails by how sending them ended.", ["channel", "outcome"]
)
AMBIGUOUS = Counter("referral_ambiguous", "Attempts whose outcome nobody can know.", ["sink"])

ATTEMPT_OUTCOMES = (
    "delivered",
    "duplicate",
    "rejected",
    "retry",
    "unknown",
    "pause",
    "disable",
    "key_conflict",
)
GATE_STATES = ("paused", "quiet", "open", "slowed", "limited")
FENCED_REASONS = ("epoch", "offset", "set", "token")
DEAD_LETTER_REASONS = ("undecodable", "rejected", "exhausted")
WINDOW_STATES = ("CLAIMED", "SEALED", "UPLOADED", "SENDING", "ENDED", "HELD")
CHANNELS = ("sftp", "ftps", "email")
SEND_OUTCOMES = ("delivered", "retry", "held", "uncertain", "refused")


def start(partitions: Iterable[int] = ()) -> None:
    """Put every label set at 0: a metric that is missing looks like one that is fine."""
    labelled: tuple[tuple[Counter | Gauge, Iterable[str]], ...] = (
        (ATTEMPTS, ATTEMPT_OUTCOMES),
        (GATES, GATE_STATES),
        (FENCED, FENCED_REASONS),
        (DEAD_LETTERS, DEAD_LETTER_REASONS),
        (ENDED, Outcome),
        (FLUSH_STATE, WINDOW_STATES),
        (AMBIGUOUS, ("crm", "email")),
    )
    for metric, labels in labelled:
        for label in labels:
            metric.labels(label)
    for channel in CHANNELS:
        for outcome in SEND_OUTCOMES:
            FLUSHED.labels(channel, outcome)
    for partition in partitions:
        LAG.labels(str(partition)).set(0)


def exposition() -> bytes:
    """What `/metrics` answers."""
    return generate_latest()
