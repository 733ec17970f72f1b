"""The operator's face: the `referrals` command."""
