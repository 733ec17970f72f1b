"""`referrals rebuild`: the state of a lost Redis made anew.

`vacant` says whether Redis may be filled · `survey`, `told` and `restored` know what Kafka says · `replay`
takes records in once more · `run` the whole.
"""
