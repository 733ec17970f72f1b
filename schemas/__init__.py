"""What we agreed with others. Pure: no network, no clock, no logging."""
