"""Pages: one self-contained HTML file with figures and tables, made from a JSON document and nothing else.

Read: drawing and charts (figures as SVG), then the two pages, `pool` and `evaluate`.
"""
