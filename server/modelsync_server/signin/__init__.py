"""Who somebody is, and what he may: tokens of an OpenID provider, signing in by one, proxies, printed links, sessions.

It imports no other room and knows no fleet, no store and no page; what may be looked at or done is its callers'.
"""
