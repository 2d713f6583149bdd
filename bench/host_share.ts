/**
 * `deno run -A bench/host_share.ts`: what a call costs before there is any
 * arithmetic to do, beside an empty FFI call.
 *
 * On the CPU, with so few atoms that the native part is tenths of a microsecond;
 * the TypeScript part is the same for a GPU. What is compared takes turns, and
 * the fastest round counts: other programs only make a call slower.
 */
import { Adam, DDPLoss, Device, MultiTaskLoss, type Tensor } from "../mod.ts";
import { nativeOf } from "../tensor/device.ts";

const ROUNDS = 40;
const CALLS = 20_000;

using stack = new DisposableStack();
const device = stack.use(await Device.open("cpu"));
const tensor = (...shape: number[]): Tensor =>
  stack.use(device.tensor(
    Float32Array.from(
      { length: shape.reduce((a, b) => a * b, 1) },
      () => Math.random() - 0.5,
    ),
    shape,
  ));

const forces = tensor(8, 3);
const targets = tensor(8, 3);
const loss = new DDPLoss("mse");
const written = loss.valueAndGrad(forces, targets);
stack.use(written);

const tasks = new MultiTaskLoss({
  energy: { loss: "per_atom_mae" },
  forces: { loss: "l2norm", coefficient: 10 },
  stress: { loss: "mae" },
});
const natoms = stack.use(device.tensor(new Int32Array([4, 4])));
const inputs = {
  energy: { input: tensor(2, 1), target: tensor(2, 1), natoms },
  forces: { input: forces, target: targets },
  stress: { input: tensor(2, 9), target: tensor(2, 9) },
};
const out = stack.use(tasks.valueAndGrad(inputs));

const params = [tensor(64)];
const grads = [tensor(64)];
const adam = stack.use(new Adam(params));
const { symbols } = nativeOf(device).library;

/** A step: three tasks, their gradients, a clipped step of Adam. */
const trained = stack.use(new Adam([forces]));
const step = (options?: { out: typeof out }): void => {
  const { grads } = tasks.valueAndGrad(inputs, options);
  trained.step([grads.forces!], { maxNorm: 1 });
};
const captured = stack.use(device.capture(() => step()));
/** Replays in one call: what remains is native. */
const MANY = 1_000;

/** What is timed. */
const calls: Record<string, () => void> = {
  "an empty FFI call": () => {
    symbols.al_abi_version();
  },
  "one loss, value and gradient, with out": () => {
    loss.valueAndGrad(forces, targets, null, { out: written });
  },
  "the same with two fresh outputs": () => {
    loss.valueAndGrad(forces, targets)[Symbol.dispose]();
  },
  "three tasks, values and gradients, with out": () => {
    tasks.valueAndGrad(inputs, { out });
  },
  "a tensor made and disposed": () => {
    device.empty(forces.shape).dispose();
  },
  "a step of Adam, one parameter": () => adam.step(grads),
  "a step of Adam that clips, one parameter": () =>
    adam.step(grads, { maxNorm: 1 }),
  "a step: three tasks, Adam that clips": () => step({ out }),
  "the same step, replayed": () => captured.replay(),
};

const fastest = new Map<string, number>();
for (let round = 0; round < ROUNDS; round++) {
  for (const [name, call] of Object.entries(calls)) {
    const start = performance.now();
    for (let i = 0; i < CALLS; i++) call();
    const each = (performance.now() - start) / CALLS * 1e3;
    fastest.set(name, Math.min(each, fastest.get(name) ?? Infinity));
  }
  const start = performance.now();
  captured.replay(MANY);
  const each = (performance.now() - start) / MANY * 1e3;
  const name = "the same step, native part";
  fastest.set(name, Math.min(each, fastest.get(name) ?? Infinity));
  // Between two tasks of the event loop, as a training loop that reads its loss.
  await device.synchronize();
}

console.log("| call | µs |\n|---|---|");
for (const [name, microseconds] of fastest) {
  console.log(`| ${name} | ${microseconds.toFixed(2)} |`);
}
