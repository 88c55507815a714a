"""Pages: one self-contained HTML file with figures and tables, made from a JSON document and nothing else.

Read: drawing and charts (figures as SVG), maps (coloured tables), page (what fills the templates), then the two pages,
`pool` and `evaluate`, each beside its template.
"""
