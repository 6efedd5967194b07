"""Wrong uses of the face for PyTorch; comments are the codes of errors that mypy | pyright must find in a line."""

import torch

import fastadam.torch

tensor = torch.ones(3, requires_grad=True)
optimizer = fastadam.torch.Adam([tensor])

fastadam.torch.Adam()  # call-arg | reportCallIssue
fastadam.torch.Adam("nonsense")  # arg-type | reportArgumentType
fastadam.torch.Adam(3)  # arg-type | reportArgumentType
fastadam.torch.Adam([tensor], lr="fast")  # arg-type | reportArgumentType
fastadam.torch.Adam([tensor], betas=(0.9, 0.99, 0.999))  # arg-type | reportArgumentType
fastadam.torch.Adam([tensor], amsgrad="no")  # arg-type | reportArgumentType
fastadam.torch.Adam([tensor], threads=2)  # call-arg | reportCallIssue
fastadam.torch.AdamW([tensor], lr="fast")  # arg-type | reportArgumentType
optimizer.step(3)  # call-overload | reportArgumentType, reportCallIssue
optimizer.step([tensor])  # call-overload | reportArgumentType, reportCallIssue
optimizer.backend = "torch"  # assignment | reportAttributeAccessIssue
optimizer.threads = "all"  # assignment | reportAttributeAccessIssue
optimizer.lr = "fast"  # assignment | reportAttributeAccessIssue
optimizer.betas = 0.9  # assignment | reportAttributeAccessIssue
optimizer.amsgrad = "no"  # assignment | reportAttributeAccessIssue
optimizer.last_step = "fastadam"  # misc | reportAttributeAccessIssue


def closure() -> torch.Tensor:
    return tensor.sum()


text: str = optimizer.step(closure)  # assignment | reportAssignmentType
loss: float = optimizer.step()  # assignment | reportAssignmentType
fastadam.torch.Adam([tensor], state_dtype="int4")  # arg-type | reportArgumentType
fastadam.torch.Adam([tensor], seed="one")  # arg-type | reportArgumentType
