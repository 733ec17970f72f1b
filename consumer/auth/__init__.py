"""What makes a request provably the marketplace's: credential, signature and client certificate.

A new kind of credential is a model in `schemas.auth`, a case in `static` (a value from a secret) or
`token_request` (a token that is fetched), and a row in the tests' tables.
"""
