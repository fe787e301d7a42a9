"""A run, shown and compared.

rows.py      every figure with its ratios, and how numbers are written    (pure)
remarks.py   what a reader must know besides the figures                  (pure)
table.py     the table for a terminal
markdown.py  the same in Markdown; the README's part of it
plots.py     PNG and SVG
compare.py   whether two runs agree
"""
