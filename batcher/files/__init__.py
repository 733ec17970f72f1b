"""The files an advertiser gets: how rows become bytes."""
