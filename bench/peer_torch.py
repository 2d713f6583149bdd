"""The reference's loss step in PyTorch, timed on request.

Reads requests from standard input, one JSON object a line:
  {"loss": "mae", "atoms": 1300, "seconds": 0.3, "device": "cpu", "mode": "eager"}
and answers each with {"microseconds": 116.2}: the median time of one forward and
backward of a DDP-style mean of that loss over float32 forces [atoms, 3], in the
steps that fairchem's losses take: look for NaN and Inf, unreduced loss, sum,
scale by replicas over samples, gradient with respect to the predictions.
"""

import json
import statistics
import sys
import time

import torch


def unreduced(loss, pred, target):
    if loss == "mae":
        return torch.nn.functional.l1_loss(pred, target, reduction="none")
    if loss == "mse":
        return torch.nn.functional.mse_loss(pred, target, reduction="none")
    return torch.linalg.vector_norm(pred - target, ord=2, dim=-1)


def forward(loss, pred, target, check):
    if check and not torch.all(pred.isfinite()):
        pred = torch.nan_to_num(pred, nan=0.0)
    each = unreduced(loss, pred, target)
    return torch.sum(each) * 1 / each.numel()


def stepper(request):
    """One training step's loss: forward, backward, gradient."""
    loss, device = request["loss"], request["device"]
    pred = torch.randn(request["atoms"], 3, device=device, requires_grad=True)
    target = torch.randn(request["atoms"], 3, device=device)
    compiled = request["mode"] == "compile"
    # torch.compile would break its graph at the check: the reference without it.
    value = lambda: forward(loss, pred, target, check=not compiled)
    if compiled:
        value = torch.compile(value)

    def step():
        pred.grad = None
        value().backward()

    return step


def measure(request):
    step = stepper(request)
    synchronize = torch.cuda.synchronize if request["device"] != "cpu" else lambda: None
    for _ in range(3):
        step()
    synchronize()
    times = []
    deadline = time.perf_counter() + request["seconds"]
    # On a GPU steps are enqueued back to back: time groups of them.
    group = 1 if request["device"] == "cpu" else 20
    while len(times) < 3 or time.perf_counter() < deadline:
        start = time.perf_counter()
        for _ in range(group):
            step()
        synchronize()
        times.append((time.perf_counter() - start) / group)
    return statistics.median(times) * 1e6


for line in sys.stdin:
    print(json.dumps({"microseconds": measure(json.loads(line))}), flush=True)
