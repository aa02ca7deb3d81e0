"""HTML for people: the dashboard and the report page."""
