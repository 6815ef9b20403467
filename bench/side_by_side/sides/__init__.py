"""One module a side: tenantry, each peer, and the same work by hand.

A side that makes tenants has `make_one`, seconds from asking until the tenant is ready, and `make_many`.
A side that keeps a fleet has `migrate`, seconds of the whole command, and `nothing_to_do`.
"""
