"""Pictures and codecs in, rate-distortion tables out: `python -m evaluation DIR -o results/X.csv`.

codecs      the codecs under test, each as a file written and a file read back
measure     one row a picture, codec and setting: real bytes, metrics, seconds
curves      means over pictures, values at equal rate, Bjontegaard deltas
"""
