"""report.html: a job's report as one self-contained file, to keep, print and forward.

It loads nothing and runs no script. `svg` draws the charts as inline SVG; the page's policy allows only its own style
sheet. Its routes check who may see it.
"""
