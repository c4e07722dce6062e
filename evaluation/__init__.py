"""Pictures and codecs in, a page that compares them out: `python -m evaluation DIR -o report/`.

codecs, commands, y4m   the codecs under test, each as a file written and a file read back
weights                 the weights of the metrics, from the package index: `python -m evaluation weights`
coding, judge           what the processes do that code, and those that judge
measure, rows, sets     one row a picture, codec and setting: real bytes, metrics, seconds; one row a set
curves, anchors         means over pictures, values at equal rate, Bjontegaard deltas; published curves
plots, scenes, report   the page
tables                  the same for the terminal
"""
