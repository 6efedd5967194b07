"""Right uses with thinc and scikit-learn, in which type checkers find nothing."""

from thinc.api import warmup_linear

import fastadam.sklearn
import fastadam.thinc

optimizer = fastadam.thinc.Adam(0.01, L2=0.01, grad_clip=1.0, use_averages=False)
optimizer = fastadam.thinc.Adam([0.1, 0.01], L2_is_weight_decay=False)
optimizer = fastadam.thinc.Optimizer(warmup_linear(0.1, 10, 100), beta1=0.8)
with fastadam.sklearn.fast_adam():
    pass
