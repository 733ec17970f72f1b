"""Accumulates referrals in windows and delivers each window as a file, on the advertiser's schedule."""
