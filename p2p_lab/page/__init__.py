"""The lab as a static web page: no server, no install.

A model folder is exported once to ONNX graphs, which the reader's browser runs; the JavaScript
below `site/` does what `tokens`, `edits` and `sampling` do, and a test holds it to them. `build`
writes the folder, `serve` shows it on this machine. The room may know every other one; none knows
it.
"""
