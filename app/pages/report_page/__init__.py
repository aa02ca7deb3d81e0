"""report.html: a job's stored report as one file that needs nothing from anywhere, to keep, to print and to send on.

Figures in, text out: no network, no script. Pictures are SVG, drawn by `svg`; the page allows itself its own
style sheet and nothing else. Whether somebody may see it is for its routes to say.
"""
