"""The reference's loss steps in PyTorch, timed on request.

Reads requests from standard input, one JSON object a line:
  {"loss": "mae", "atoms": 1300, "seconds": 0.3, "device": "cpu", "mode": "eager"}
  {"structures": 16, "atoms": 1300, "sets": 1, …}
  {"parameters": 50, "size": 4096, …}
and answers each with {"microseconds": 116.2}: the median time of one forward and
backward of a DDP-style mean over float32 numbers, in the steps that fairchem's
losses take: look for NaN and Inf, unreduced loss, sum, scale by replicas over
samples, gradient with respect to the predictions. The first is one loss of forces
[atoms, 3]; the second energies (per_atom_mae), forces (l2norm) and stresses (mae)
of a batch, so many sets of them, their sum differentiated once; the third a step of
Adam behind clip_grad_norm_, of so many parameters of a size.
"""

import json
import statistics
import sys
import time

import torch


def unreduced(loss, pred, target, natoms):
    if loss == "mae":
        return torch.nn.functional.l1_loss(pred, target, reduction="none")
    if loss == "mse":
        return torch.nn.functional.mse_loss(pred, target, reduction="none")
    if loss == "per_atom_mae":
        each = natoms.reshape(target.shape)
        return torch.nn.functional.l1_loss(pred / each, target / each, reduction="none")
    return torch.linalg.vector_norm(pred - target, ord=2, dim=-1)


def forward(loss, pred, target, natoms, check):
    if check and not torch.all(pred.isfinite()):
        pred = torch.nan_to_num(pred, nan=0.0)
    each = unreduced(loss, pred, target, natoms)
    return torch.sum(each) * 1 / each.numel()


def tasks_of(request):
    """(loss, predictions, references) of each task, and atoms per structure."""
    atoms, device = request["atoms"], request["device"]
    if "loss" in request:
        shapes = [(request["loss"], (atoms, 3))]
        structures = 1
    else:
        structures = request["structures"]
        shapes = [
            ("per_atom_mae", (structures, 1)),
            ("l2norm", (atoms, 3)),
            ("mae", (structures, 9)),
        ] * request["sets"]
    natoms = torch.full((structures,), atoms // structures, device=device)
    tasks = [
        (loss, torch.randn(shape, device=device, requires_grad=True), torch.randn(shape, device=device))
        for loss, shape in shapes
    ]
    return tasks, natoms


def compiled(function):
    """By torch.compile, for this request's shapes alone."""
    torch.compiler.reset()
    return torch.compile(function, dynamic=False)


def optimizer_stepper(request):
    """Gradients clipped and a step of Adam."""
    params = [torch.randn(request["size"], device=request["device"]) for _ in range(request["parameters"])]
    for param in params:
        param.requires_grad_()
        param.grad = torch.randn_like(param)
    adam = torch.optim.Adam(params)

    def step():
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        adam.step()

    return compiled(step) if request["mode"] == "compile" else step


def stepper(request):
    """What is timed; of losses: forward, backward, gradients."""
    if "parameters" in request:
        return optimizer_stepper(request)
    tasks, natoms = tasks_of(request)
    mode = request["mode"]

    # Looking for NaN reads the device, which neither a compiled nor a captured
    # step can do: the reference without it.
    def value():
        return sum(forward(*task, natoms, check=mode == "eager") for task in tasks)

    if mode == "compile":
        value = compiled(value)

    def step():
        for _, pred, _ in tasks:
            pred.grad = None
        value().backward()

    if mode != "graph":
        return step
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    for _, pred, _ in tasks:
        pred.grad = None
    with torch.cuda.graph(graph):
        value().backward()
    return graph.replay


def measure(request):
    step = stepper(request)
    synchronize = torch.cuda.synchronize if request["device"] != "cpu" else lambda: None
    # torch.compile compiles more than once: Adam's first step makes its state.
    for _ in range(6):
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
