"""The team's window: pages made on the server from the answers of the API, and the few scripts that keep them live.

A page shows nothing that /v1 does not offer, and changes things through /v1 alone. No build step, nothing from another host:
what pages load lies in static/, the works of others in static/vendor/ beside their licences.
"""
