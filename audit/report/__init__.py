"""Pages that hold their own evidence: one HTML file, no script, nothing fetched, printable.

`render` draws `report.json` as `report.html`; `charts` turns numbers into inline SVG; `frame` is
what every page of this project shares.
"""
