"""Wrong uses with thinc; comments are the codes of errors that mypy | pyright must find in a line."""

import fastadam.thinc

fastadam.thinc.Adam(0.1, eps=None)  # arg-type | reportArgumentType
fastadam.thinc.Adam(0.1, use_averages="yes")  # arg-type | reportArgumentType
fastadam.thinc.Adam(0.1, betas=(0.9, 0.99))  # call-arg | reportCallIssue
fastadam.thinc.Optimizer()  # call-arg | reportCallIssue
