"""
What PyTorch's optimisers, gradient clipping and averages make of some numbers:
writes tests/torch_optimizers.json, which tests/torch_optimizers_test.ts reads.

    pip install torch numpy && python3 tests/torch_optimizers.py

Last run with PyTorch 2.13.0 on a CPU.
"""

import json
import pathlib

import torch

SHAPES = [(3, 2), (5,), (1,)]
STEPS = 6
DTYPES = ["float64", "float32", "float16", "bfloat16"]

# name: optimiser, its options as torch has them, those of clip_grad_norm_, masters
CASES = {
    "adam": ("Adam", dict(lr=0.05), None, False),
    "adam amsgrad": ("Adam", dict(lr=0.05, betas=(0.8, 0.7), amsgrad=True), None, False),
    "adamw amsgrad clip": (
        "AdamW",
        dict(lr=0.05, betas=(0.8, 0.7), weight_decay=0.1, amsgrad=True),
        dict(max_norm=0.5),
        False,
    ),
    "adam clip l1": ("Adam", dict(lr=0.05, weight_decay=0.1), dict(max_norm=1.5, norm_type=1.0), False),
    "sgd clip": ("SGD", dict(lr=0.5, momentum=0.9, nesterov=True), dict(max_norm=0.5), False),
    "sgd clip max": ("SGD", dict(lr=0.5), dict(max_norm=0.25, norm_type=float("inf")), False),
    "sgd clip l3": ("SGD", dict(lr=0.5), dict(max_norm=0.25, norm_type=3.0), False),
    "sgd no clip": ("SGD", dict(lr=0.5), dict(max_norm=100.0), False),
    "adam masters": ("Adam", dict(lr=1e-3), None, True),
    "sgd masters clip": ("SGD", dict(lr=1e-3, momentum=0.9), dict(max_norm=0.5), True),
}


def numbers(tensors):
    return [t.detach().double().flatten().tolist() for t in tensors]


def run(start, grads, optimizer, options, clip, masters, rounded):
    """
    Steps as a training loop makes them. States are float32 for half precision (in
    PyTorch's own float16 states Adam's eps is 0): float32 copies are stepped, and
    without masters rounded after every step. rounded: clipped gradients are, too.
    """
    kind = start[0].dtype
    wide = kind in (torch.float16, torch.bfloat16)
    params = [torch.nn.Parameter(p.float() if wide else p.clone()) for p in start]
    opt = getattr(torch.optim, optimizer)(params, **options)
    norms = []
    for step in grads:
        for p, g in zip(params, step):
            p.grad = g.float() if wide else g.clone()
        if clip is not None:
            norms.append(torch.nn.utils.clip_grad_norm_(params, **clip).double().item())
            for p in params if rounded else []:
                p.grad = p.grad.to(kind).to(p.dtype)
        opt.step()
        if wide and not masters:
            with torch.no_grad():
                for p in params:
                    p.copy_(p.to(kind))
    return {"params": numbers(p.to(kind) for p in params), "norms": norms}


def averages(start, grads):
    """AveragedModel and, after its source, torch_ema's ExponentialMovingAverage."""

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weights = torch.nn.ParameterList([p.float() if p.dtype.itemsize == 2 else p.clone() for p in start])

    model = Model()
    averaged = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
    )
    shadow = [p.detach().clone() for p in model.weights]
    exact = [torch.nn.Parameter(p.detach().clone()) for p in model.weights]
    opt = torch.optim.SGD(exact, lr=0.5)
    for n, step in enumerate(grads, 1):
        for p, g in zip(exact, step):
            p.grad = g.to(p.dtype)
        opt.step()
        # What is averaged is the half-precision parameter, not its master.
        with torch.no_grad():
            for p, x, s in zip(model.weights, exact, start):
                p.copy_(x.to(s.dtype))
        averaged.update_parameters(model)
        decay = min(0.9, (1 + n) / (10 + n))
        for s, p in zip(shadow, model.weights):
            s.sub_((1 - decay) * (s - p.detach()))
    return {"averagedModel": numbers(averaged.module.weights), "torchEma": numbers(shadow)}


def main():
    torch.manual_seed(7)
    result = {"torch": torch.__version__, "shapes": SHAPES, "dtypes": {}}
    base = [torch.randn(s, dtype=torch.float64) for s in SHAPES]
    slopes = [[torch.randn(s, dtype=torch.float64) for s in SHAPES] for _ in range(STEPS)]
    for dtype in DTYPES:
        kind = getattr(torch, dtype)
        start = [p.to(kind) for p in base]
        grads = [[g.to(kind) for g in step] for step in slopes]
        result["dtypes"][dtype] = {
            "start": numbers(start),
            "grads": [numbers(step) for step in grads],
            "cases": {name: run(start, grads, *case, False) for name, case in CASES.items()},
            "clippedInPlace": {
                name: run(start, grads, *case, True) for name, case in CASES.items() if case[2] is not None
            },
            "averages": averages(start, grads),
        }
    path = pathlib.Path(__file__).with_suffix(".json")
    path.write_text(json.dumps(result) + "\n")


main()
