/** Metrics in plain TypeScript, structure after structure: what the native ones are compared with. */
import { assert, assertEquals } from "@std/assert";
import type { Device, DType, Metrics, MetricsReport, Tensor } from "../mod.ts";
import { seeded } from "./random.ts";

/** A dtype that energies and forces can have. */
export type Floating = "float32" | "float64" | "float16" | "bfloat16";

/** One structure of a data set. */
export interface Labelled {
  readonly energy: readonly [input: number, target: number];
  /** Components, three per atom. */
  readonly input: readonly number[];
  readonly target: readonly number[];
  /** Whether each atom counts. */
  readonly mask: readonly boolean[];
  /** Six components. Default: zeros. */
  readonly stress?: readonly [
    input: readonly number[],
    target: readonly number[],
  ];
  /** Whether its energy and stress count. Default: true. */
  readonly counted?: boolean;
}

/** What a batch is made of, and in which dtypes. */
export interface BatchOptions {
  readonly energy?: boolean;
  readonly forces?: boolean;
  readonly stress?: boolean;
  /** Of atoms. */
  readonly mask?: boolean;
  /** Of energies and stresses. */
  readonly structureMask?: boolean;
  readonly energyDType?: Floating;
  readonly forcesDType?: Floating;
  readonly stressDType?: Floating;
  readonly natomsDType?: "int32" | "int64";
  readonly column?: boolean;
  /** As the option of Metrics. */
  readonly ignoreNaN?: boolean;
}

/** Structures of 1 to `most` atoms; errors on both sides of the thresholds. */
export function randomStructures(
  count: number,
  most: number,
  seed: number,
): Labelled[] {
  const next = seeded(seed);
  const uniform = (size: number): number => size * (2 * next() - 1);
  return Array.from({ length: count }, () => {
    const atoms = 1 + Math.floor(next() * most);
    const target = Array.from({ length: 3 * atoms }, () => uniform(2));
    const energy = uniform(8);
    const stress = Array.from({ length: 6 }, () => uniform(0.1));
    // A third with errors in forces that are too large somewhere.
    const size = next() < 0.33 ? 0.05 : 0.02;
    return {
      energy: [energy + uniform(0.04), energy],
      input: target.map((f) => f + uniform(size)),
      target,
      mask: Array.from({ length: atoms }, () => next() < 0.6),
      stress: [stress.map((s) => s + uniform(0.01)), stress],
      counted: next() < 0.7,
    };
  });
}

/** A tensor of numbers in a floating dtype. */
export function floats(
  device: Device,
  values: readonly number[],
  shape: readonly number[],
  dtype: DType,
): Tensor {
  switch (dtype) {
    case "float32":
      return device.tensor(new Float32Array(values), shape);
    case "float64":
      return device.tensor(new Float64Array(values), shape);
    case "float16":
      return device.tensor(new Float16Array(values), shape);
    default: {
      const bits = new Uint32Array(new Float32Array(values).buffer);
      const upper = Uint16Array.from(bits, (b) => b >>> 16);
      return device.tensor(upper, shape, "bfloat16");
    }
  }
}

/** A number as a dtype holds it, by way of {@linkcode floats}. */
export function rounded(value: number, dtype: Floating): number {
  switch (dtype) {
    case "float32":
      return Math.fround(value);
    case "float64":
      return value;
    case "float16":
      return new Float16Array([value])[0]!;
    default: {
      const bits = new Uint32Array(new Float32Array([value]).buffer);
      bits[0] = bits[0]! >>> 16 << 16;
      return new Float32Array(bits.buffer)[0]!;
    }
  }
}

/** Adds structures to metrics as one batch. */
export function addBatch(
  metrics: Metrics,
  structures: readonly Labelled[],
  {
    energy = true,
    forces = true,
    stress = false,
    mask = false,
    structureMask = false,
    energyDType = "float64",
    forcesDType = "float64",
    stressDType = "float64",
    natomsDType = "int32",
    column = false,
  }: BatchOptions = {},
): void {
  const { device } = metrics;
  const counts = structures.map((s) => s.mask.length);
  const atoms = counts.reduce((a, b) => a + b, 0);
  const perStructure = column ? [counts.length, 1] : [counts.length];
  using natoms = natomsDType === "int32"
    ? device.tensor(new Int32Array(counts), perStructure)
    : device.tensor(BigInt64Array.from(counts, BigInt), perStructure);
  const energies = ([0, 1] as const).map((i) =>
    floats(
      device,
      structures.map((s) => s.energy[i]),
      perStructure,
      energyDType,
    )
  );
  const allForces = (["input", "target"] as const).map((key) =>
    floats(device, structures.flatMap((s) => s[key]), [atoms, 3], forcesDType)
  );
  using bools = device.tensor(
    Uint8Array.from(structures.flatMap((s) => s.mask), Number),
    [atoms],
    "bool",
  );
  const stresses = ([0, 1] as const).map((i) =>
    floats(
      device,
      structures.flatMap((s) => s.stress?.[i] ?? Array<number>(6).fill(0)),
      [counts.length, 6],
      stressDType,
    )
  );
  using counted = device.tensor(
    Uint8Array.from(structures, (s) => Number(s.counted ?? true)),
    counts.length === 0 ? [0] : [counts.length],
    "bool",
  );
  const ofStructures = structureMask && { mask: counted };
  metrics.add({
    natoms,
    ...(energy && {
      energy: { input: energies[0]!, target: energies[1]!, ...ofStructures },
    }),
    ...(stress && {
      stress: { input: stresses[0]!, target: stresses[1]!, ...ofStructures },
    }),
    ...(forces && {
      forces: {
        input: allForces[0]!,
        target: allForces[1]!,
        ...(mask && { mask: bools }),
      },
    }),
  });
  // What is enqueued may still use the memory of disposed tensors.
  for (const tensor of [...energies, ...allForces, ...stresses]) {
    tensor.dispose();
  }
}

/** Mean over a list; NaN of none. */
function mean(values: readonly number[]): number {
  return values.reduce((a, b) => a + b, 0) / values.length;
}

/** The report for structures added with these options. */
export function evaluate(
  structures: readonly Labelled[],
  {
    energy = true,
    forces = true,
    stress = false,
    mask = false,
    structureMask = false,
    ignoreNaN = false,
    energyDType = "float64",
    forcesDType = "float64",
    stressDType = "float64",
  }: BatchOptions = {},
  [energyThreshold, forceThreshold]: readonly [number, number] = [0.02, 0.03],
): MetricsReport {
  const perAtom: number[] = [], energyErrors: number[] = [];
  const components: number[] = [], norms: number[] = [];
  const stressErrors: number[] = [];
  const cosines: number[] = [], magnitudes: number[] = [];
  const energyOk: number[] = [], forcesOk: number[] = [], bothOk: number[] = [];
  let nonFinite = 0;
  const countNonFinite = (...values: number[]): void => {
    if (!values.every(Number.isFinite)) nonFinite++;
  };
  for (const structure of structures) {
    const [p, t] = structure.energy.map((e) => rounded(e, energyDType));
    const error = Math.abs(p! - t!);
    const counted = !structureMask || (structure.counted ?? true);
    const isLabel = (t: number): boolean => !ignoreNaN || !Number.isNaN(t);
    const hasEnergy = energy && counted && isLabel(t!);
    if (stress && counted) {
      const [input, target] = structure.stress!;
      input.forEach((_, k) => {
        const p = rounded(input[k]!, stressDType);
        const t = rounded(target[k]!, stressDType);
        if (!isLabel(t)) return;
        stressErrors.push(Math.abs(p - t));
        countNonFinite(p, t);
      });
    }
    if (hasEnergy) {
      energyErrors.push(error);
      const atoms = structure.mask.length;
      if (atoms > 0) perAtom.push(error / atoms);
      energyOk.push(error < energyThreshold ? 1 : 0);
      countNonFinite(p!, t!);
    }
    if (!forces) continue;
    const worst: number[] = [];
    structure.mask.forEach((counts, i) => {
      if (mask && !counts) return;
      const of = (all: readonly number[]): number[] =>
        all.slice(3 * i, 3 * i + 3).map((f) => rounded(f, forcesDType));
      const p = of(structure.input), t = of(structure.target);
      if (!t.every(isLabel)) return;
      const d = p.map((x, k) => x - t[k]!);
      d.forEach((x, k) => {
        components.push(Math.abs(x));
        worst.push(Math.abs(x));
        countNonFinite(p[k]!, t[k]!);
      });
      const norm = (v: number[]): number =>
        Math.sqrt(v.reduce((s, x) => s + x * x, 0));
      norms.push(norm(d));
      const dot = p.reduce((s, x, k) => s + x * t[k]!, 0);
      cosines.push(
        dot / (Math.max(norm(p), 1e-8) * Math.max(norm(t), 1e-8)),
      );
      magnitudes.push(Math.abs(norm(p) - norm(t)));
    });
    if (worst.length === 0) continue;
    const within = worst.every((x) => x < forceThreshold);
    forcesOk.push(within ? 1 : 0);
    if (hasEnergy) bothOk.push(within && error < energyThreshold ? 1 : 0);
  }
  const squares = (values: readonly number[]): number[] =>
    values.map((x) => x * x);
  return {
    energyMAE: mean(energyErrors),
    energyMSE: mean(squares(energyErrors)),
    energyRMSE: Math.sqrt(mean(squares(energyErrors))),
    energyPerAtomMAE: mean(perAtom),
    energyWithinThreshold: mean(energyOk),
    forcesMAE: mean(components),
    forcesMSE: mean(squares(components)),
    forcesRMSE: Math.sqrt(mean(squares(components))),
    forcesNormMAE: mean(norms),
    forcesCosineSimilarity: mean(cosines),
    forcesMagnitudeError: mean(magnitudes),
    forcesWithinThreshold: mean(forcesOk),
    energyForcesWithinThreshold: mean(bothOk),
    stressMAE: mean(stressErrors),
    stressMSE: mean(squares(stressErrors)),
    stressRMSE: Math.sqrt(mean(squares(stressErrors))),
    structures: structures.length,
    energies: energyErrors.length,
    atoms: norms.length,
    stresses: stressErrors.length,
    nonFinite,
  };
}

/** Throws unless two reports agree: counts and fractions exactly, means to rounding. */
export function assertReport(
  actual: MetricsReport,
  expected: MetricsReport,
  what = "",
): void {
  assertEquals(Object.keys(actual), Object.keys(expected));
  for (const key of Object.keys(expected) as (keyof MetricsReport)[]) {
    const a = actual[key], e = expected[key];
    const exact = Object.is(a, e) ||
      (Number.isFinite(e) && !key.endsWith("Threshold") &&
        !["structures", "energies", "atoms", "stresses", "nonFinite"].includes(
          key,
        ) &&
        Math.abs(a - e) <= 1e-12 * Math.abs(e));
    assert(exact, `${what} ${key} is ${a}, expected ${e}`);
  }
}
