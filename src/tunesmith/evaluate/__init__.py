"""How good the answers are: metrics, results with intervals, pictures and a page to read."""
