"""Reads referrals from Kafka and pushes each one to the CRMs that want it, at once."""
