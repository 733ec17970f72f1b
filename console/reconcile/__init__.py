"""`referrals reconcile`: whether every record published is accounted for, exactly once.

`record_class`, `judge`, `spans` and `filed` decide (pure) · `ledger`, `told`, `open_now` and `window_books`
read the topics and Redis · `facts` keeps what memory cannot · `books` is the result, `shown` how it is told ·
`run` the whole.
"""
