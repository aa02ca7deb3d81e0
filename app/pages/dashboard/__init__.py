"""The dashboard: pages rendered on the server from the data of the API, and the scripts that keep them up to date.

Pages show nothing that /v1 does not offer, and change things through /v1 alone. There is no build step, and nothing loads
from another host: pages load static/, with third-party files and their licences in static/vendor/.
"""
