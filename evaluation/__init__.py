"""How good codecs are: `python -m evaluation DIR -o report/` measures them over images and writes a page.

metrics, codecs         the two tables: what is computed, and of which codecs
weights                 the weights of the metrics, from the package index: `python -m evaluation weights`
workers                 the processes that code and those that compute metrics
measure, records, datasets  a record an image, codec and setting: real bytes, metrics, seconds; one a data set
curves, published       means over images, values at equal rate, Bjontegaard deltas; published curves
summary, tables         the tables of a run; HTML, Markdown and terminal
plots, comparisons, report  the page
"""
