/** Errors over a whole data set, accumulated on the device, reduced once. */
import {
  ArgumentError,
  DeviceError,
  DisposedError,
  DTypeError,
  ShapeError,
} from "../errors.ts";
import type { ProcessGroup } from "../distributed/process_group.ts";
import { type Device, nativeOf } from "../tensor/device.ts";
import { dtypeCode } from "../tensor/dtype.ts";
import { equalShapes, formatShape, shapeSize } from "../tensor/shape.ts";
import {
  addressOf,
  checkDevice,
  checkTensor,
  checkTraced,
  pointerOf,
  Tensor,
} from "../tensor/tensor.ts";
import { checkNatoms, checkPair } from "./native_loss.ts";

/** al_metrics_sums of kernels/atomloss.h: doubles in this order. */
const SUMS = [
  "atoms",
  "forcesAbs",
  "forcesSquare",
  "forcesNorm",
  "forcesCosine",
  "forcesMagnitude",
  "forcesNonFinite",
  "structures",
  "energies",
  "energyAbs",
  "energySquare",
  "energyWithin",
  "energyNonFinite",
  "energyPerAtomAbs",
  "energiesPerAtom",
  "forcesJudged",
  "forcesWithin",
  "bothJudged",
  "bothWithin",
  "stresses",
  "stressAbs",
  "stressSquare",
  "stressNonFinite",
  "badNatoms",
] as const;

type Sums = Record<typeof SUMS[number], number>;

/** Thresholds of Open Catalyst 2020: eV, and eV/Å. */
const ENERGY_THRESHOLD = 0.02;
const FORCE_THRESHOLD = 0.03;

/** Options of {@linkcode Metrics}. */
export interface MetricsOptions {
  /** The replicas that share the data set. Default: this process alone. */
  group?: ProcessGroup;
  /**
   * An energy is within the threshold if its absolute error is below this, in
   * the unit of the energies. Default: 0.02, for eV.
   */
  energyThreshold?: number;
  /**
   * Forces of a structure are within the threshold if the absolute error of
   * every component is below this, in the unit of the forces. Default: 0.03,
   * for eV/Å.
   */
  forceThreshold?: number;
  /**
   * A reference that is NaN is a label that is missing: it is not compared, and
   * does not count. An atom needs all three of its forces, a component of a
   * stress stands alone. Default: false, a NaN stays a NaN.
   */
  ignoreNaN?: boolean;
}

/** Predictions and what they should be. */
export interface Compared {
  /** Predictions; float32, float64, float16 or bfloat16. */
  readonly input: Tensor;
  /** References; shape, dtype and device of `input`. */
  readonly target: Tensor;
  /**
   * bool, one per row of `input`: 0 for structures or atoms that are left out,
   * as fixed atoms are in Open Catalyst. Default: all are compared.
   */
  readonly mask?: Tensor;
}

/** Forces and what they should be: `[N, 3]`, structure after structure. */
export type ComparedForces = Compared;

/** A batch of structures. What is not to be compared is absent; not all of it. */
export interface MetricsBatch {
  /**
   * Atoms of each structure, `[B]` or `[B, 1]`, int32 or int64. Where there are
   * forces they add up to N.
   */
  readonly natoms: Tensor;
  /** Total energies, `[B]` or `[B, 1]`. */
  readonly energy?: Compared;
  /** Forces, `[N, 3]`. Their dtype may differ from that of the energies. */
  readonly forces?: ComparedForces;
  /** Stresses: `[B, 6]` in Voigt's order or any other, `[B, 9]` or `[B, 3, 3]`. */
  readonly stress?: Compared;
}

/**
 * The errors of all structures on all replicas. d is prediction minus
 * reference. A mean over nothing is NaN.
 */
export interface MetricsReport {
  /** Mean |d| of the energies. Unit: that of the energies. */
  readonly energyMAE: number;
  /** Mean d² of the energies. Unit: its square. */
  readonly energyMSE: number;
  /** Root of `energyMSE`. */
  readonly energyRMSE: number;
  /** Mean |d| / n of the energies of structures with n > 0 atoms. */
  readonly energyPerAtomMAE: number;
  /** Fraction of energies with |d| below the threshold. */
  readonly energyWithinThreshold: number;
  /** Mean |d| of the components of the forces. Unit: that of the forces. */
  readonly forcesMAE: number;
  /** Mean d² of the components of the forces. Unit: its square. */
  readonly forcesMSE: number;
  /** Root of `forcesMSE`. */
  readonly forcesRMSE: number;
  /**
   * Mean over the atoms of the Euclidean norm of the error of an atom's force,
   * ‖d‖₂: the mean of `L2NormLoss`, fairchem's "l2mae" (and what its evaluator
   * calls rmse).
   */
  readonly forcesNormMAE: number;
  /**
   * Mean over the atoms of the cosine of the angle between the two forces,
   * p·t / (max(‖p‖, ε) max(‖t‖, ε)) with ε = 1e-8, as torch.cosine_similarity:
   * 0 where one of them is 0.
   */
  readonly forcesCosineSimilarity: number;
  /** Mean over the atoms of |‖p‖₂ − ‖t‖₂|. Unit: that of the forces. */
  readonly forcesMagnitudeError: number;
  /**
   * Fraction of structures in which |d| of every force component is below the
   * threshold. Structures without an atom to compare are left out.
   */
  readonly forcesWithinThreshold: number;
  /**
   * EFwT of Open Catalyst: fraction of structures whose energy is within its
   * threshold and whose forces are within theirs, of those that have both.
   */
  readonly energyForcesWithinThreshold: number;
  /** Mean |d| of the components of the stresses. Unit: that of the stresses. */
  readonly stressMAE: number;
  /** Mean d² of the components of the stresses. Unit: its square. */
  readonly stressMSE: number;
  /** Root of `stressMSE`. */
  readonly stressRMSE: number;
  /** Structures that were added. */
  readonly structures: number;
  /** Energies that were compared. */
  readonly energies: number;
  /** Atoms whose forces were compared. */
  readonly atoms: number;
  /** Components of stresses that were compared. */
  readonly stresses: number;
  /**
   * Energies and components of forces and stresses with a NaN or an infinity in the prediction
   * or the reference. If there are any, the means they enter are NaN or
   * infinite, and they are not within a threshold.
   */
  readonly nonFinite: number;
}

/**
 * Errors of energies, forces and stresses over a whole data set, for validation and
 * tests: the metrics of Open Catalyst's evaluator.
 *
 * Each batch is one call of `add`, which enqueues a pass over it on the device
 * and does not wait. `result` takes the sums of all replicas in one all-reduce
 * and reads them: the only wait. As only sums and counts are reduced, the result
 * is that of the whole data set, however its structures are dealt out to the
 * replicas; a replica may have none. It differs with the dealing in rounding
 * alone.
 *
 * Everything is computed and summed in float64. A NaN or an infinity does not
 * vanish, as it does in a loss of `DDPLoss`: the means it enters show it,
 * `nonFinite` counts it.
 *
 * Reference: fairchem.core.modules.evaluator.Evaluator; Chanussot et al., Open
 * Catalyst 2020 (OC20) Dataset and Community Challenges, ACS Catalysis 11, 6059
 * (2021), doi:10.1021/acscatal.0c04525.
 *
 * @example
 * ```ts
 * import { Device, Metrics } from "@atomloss/atomloss";
 *
 * using device = await Device.open("cpu");
 * using natoms = device.tensor(new Int32Array([1, 2]));
 * using energy = device.tensor(new Float64Array([-1.01, -2]), [2, 1]);
 * using energyTarget = device.tensor(new Float64Array([-1, -2.25]), [2, 1]);
 * using forces = device.tensor(new Float32Array([3, 4, 0, 0, 0, 1, 0, 0, 0]), [3, 3]);
 * using forcesTarget = device.zeros([3, 3]);
 *
 * using metrics = new Metrics(device);
 * metrics.add({
 *   natoms,
 *   energy: { input: energy, target: energyTarget },
 *   forces: { input: forces, target: forcesTarget },
 * });
 * const report = await metrics.result();
 * console.log(report.structures, report.atoms); // 2 3
 * console.log(report.energyWithinThreshold); // 0.5
 * console.log(report.forcesNormMAE); // 2
 * ```
 */
export class Metrics {
  /** Where the batches are. */
  readonly device: Device;
  /** Energies with an absolute error below this are within the threshold. */
  readonly energyThreshold: number;
  /** So are force components with one below this. */
  readonly forceThreshold: number;
  /** Whether a reference that is NaN is a label that is missing. */
  readonly ignoreNaN: boolean;
  readonly #group: ProcessGroup | undefined;
  /** al_metrics_sums of this replica. */
  readonly #sums: Tensor;

  /**
   * Sums of nothing yet.
   *
   * @param device Where the batches will be.
   * @param options The replicas, and the thresholds: the same on all of them.
   * @throws {ArgumentError} if a threshold is not above 0.
   * @throws {DeviceError} if the group is on another device.
   * @throws {DisposedError} if the device was disposed.
   */
  constructor(device: Device, options: MetricsOptions = {}) {
    this.device = device;
    this.energyThreshold = checkThreshold(
      options.energyThreshold ?? ENERGY_THRESHOLD,
      "energyThreshold",
    );
    this.forceThreshold = checkThreshold(
      options.forceThreshold ?? FORCE_THRESHOLD,
      "forceThreshold",
    );
    this.ignoreNaN = options.ignoreNaN ?? false;
    this.#group = options.group;
    if (this.#group !== undefined && this.#group.device !== device) {
      throw new DeviceError(
        `the process group is on ${this.#group.device.name}, expected the same Device object that Metrics is given, ${device.name}`,
      );
    }
    this.#sums = Tensor.zeros(device, [SUMS.length], "float64");
  }

  /**
   * Adds a batch. Enqueued on the device; does not wait for it. Replicas need
   * not add the same number of batches.
   *
   * @param batch Energies, forces and stresses, or some of them, with the atoms of each structure.
   * @throws {ShapeError} if shapes are not `[B]` or `[B, 1]`, `[N, 3]`, `[B, 6]`, `[B, 9]` or `[B, 3, 3]`, and of
   * masks one per row, or differ. (That natoms adds up to N is checked on the device: see
   * {@linkcode Metrics.result}.)
   * @throws {DTypeError} if dtypes differ or are not allowed.
   * @throws {DeviceError} if a tensor is on another device.
   * @throws {ArgumentError} if there is nothing to compare, or something is not a tensor.
   * @throws {DisposedError} if a tensor or this object was disposed.
   */
  add({ natoms, energy, forces, stress }: MetricsBatch): void {
    const sums = this.#open();
    checkColumnOfNatoms(sums, natoms);
    if (
      energy === undefined && forces === undefined && stress === undefined
    ) {
      throw new ArgumentError(
        "a batch has neither energy, forces nor stress: expected at least one of them",
      );
    }
    const structures = natoms.size;
    const { library, handle } = nativeOf(this.device);
    checkTraced(
      this.device,
      library.symbols.al_metrics_add(
        handle,
        BigInt(structures),
        pointerOf(natoms),
        dtypeCode(natoms.dtype),
        this.#compared(
          energy,
          "energy",
          [[structures], [structures, 1]],
          `[${structures}] or [${structures}, 1], one per structure of natoms`,
        ),
        this.#compared(
          forces,
          "forces",
          [[forces?.input?.shape?.[0] ?? 0, 3]],
          "[N, 3]",
        ),
        this.#compared(
          stress,
          "stress",
          [[structures, 6], [structures, 9], [structures, 3, 3]],
          `[${structures}, 6], [${structures}, 9] or [${structures}, 3, 3], one per structure of natoms`,
        ),
        this.energyThreshold,
        this.forceThreshold,
        pointerOf(sums),
      ),
      () => ({
        reads: [
          sums,
          natoms,
          ...[energy, forces, stress].flatMap((compared) => [
            compared?.input,
            compared?.target,
            compared?.mask,
          ]),
        ],
        writes: [sums],
      }),
    );
  }

  /** An al_compared, or null for nothing; of one of these shapes, which messages call `expected`. */
  #compared(
    compared: Compared | undefined,
    what: string,
    shapes: readonly (readonly number[])[],
    expected: string,
  ): BigUint64Array<ArrayBuffer> | null {
    if (compared === undefined) return null;
    const { input, target, mask } = compared;
    checkPair(input, target, `${what}.input`, `${what}.target`);
    checkDevice(this.#sums, input, `${what}.input`);
    if (!shapes.some((shape) => equalShapes(input.shape, shape))) {
      throw new ShapeError(
        `${what}.input has shape ${
          formatShape(input.shape)
        }, expected ${expected}`,
      );
    }
    const [rows, ...cols] = input.shape;
    if (mask !== undefined) checkMask(input, mask, what);
    return new BigUint64Array([
      addressOf(input),
      addressOf(target),
      mask === undefined ? 0n : addressOf(mask),
      BigInt(rows!),
      BigInt(shapeSize(cols)) | BigInt(dtypeCode(input.dtype)) << 32n,
      this.ignoreNaN ? 1n : 0n,
    ]);
  }

  /**
   * The errors of everything added so far, on all replicas: the same numbers
   * on each. A collective, which every replica must call. Adding may go on
   * afterwards.
   *
   * @throws {ArgumentError} on every replica, if in a batch of any of them natoms held a negative number or did not
   * add up to the number of atoms; until `reset`.
   * @throws {CollectiveError} if a replica died, or did not make this call in time.
   * @throws {DisposedError} if this object or the group was disposed.
   */
  async result(): Promise<MetricsReport> {
    const own = this.#open();
    using total = Tensor.empty(this.device, own.shape, own.dtype);
    total.copy_(own);
    this.#group?.allReduce(total, "sum");
    return report(await total.toList());
  }

  /** Forgets what was added on this replica. Enqueued; does not wait. */
  reset(): void {
    const sums = this.#open();
    const { library, handle } = nativeOf(this.device);
    const bytes = BigInt(sums.byteLength);
    checkTraced(
      this.device,
      library.symbols.al_zero(handle, pointerOf(sums), bytes),
      () => ({ reads: [], writes: [sums] }),
    );
  }

  #open(): Tensor {
    if (this.#sums.disposed) throw new DisposedError("Metrics was disposed");
    return this.#sums;
  }

  /** Gives the memory back. Safe to call again. */
  [Symbol.dispose](): void {
    this.#sums.dispose();
  }

  /** The same as disposing. */
  dispose(): void {
    this[Symbol.dispose]();
  }
}

/** The quotients of the sums over all replicas. */
function report(values: readonly number[]): MetricsReport {
  const s = Object.fromEntries(
    SUMS.map((name, i) => [name, values[i]!]),
  ) as Sums;
  if (s.badNatoms > 0) {
    throw new ArgumentError(
      `natoms of ${s.badNatoms} added ${
        s.badNatoms === 1 ? "batch" : "batches"
      } does not describe its forces: expected numbers >= 0 that add up to their rows`,
    );
  }
  const components = 3 * s.atoms;
  return {
    energyMAE: s.energyAbs / s.energies,
    energyMSE: s.energySquare / s.energies,
    energyRMSE: Math.sqrt(s.energySquare / s.energies),
    energyPerAtomMAE: s.energyPerAtomAbs / s.energiesPerAtom,
    energyWithinThreshold: s.energyWithin / s.energies,
    forcesMAE: s.forcesAbs / components,
    forcesMSE: s.forcesSquare / components,
    forcesRMSE: Math.sqrt(s.forcesSquare / components),
    forcesNormMAE: s.forcesNorm / s.atoms,
    forcesCosineSimilarity: s.forcesCosine / s.atoms,
    forcesMagnitudeError: s.forcesMagnitude / s.atoms,
    forcesWithinThreshold: s.forcesWithin / s.forcesJudged,
    energyForcesWithinThreshold: s.bothWithin / s.bothJudged,
    stressMAE: s.stressAbs / s.stresses,
    stressMSE: s.stressSquare / s.stresses,
    stressRMSE: Math.sqrt(s.stressSquare / s.stresses),
    structures: s.structures,
    energies: s.energies,
    atoms: s.atoms,
    stresses: s.stresses,
    nonFinite: s.energyNonFinite + s.forcesNonFinite + s.stressNonFinite,
  };
}

function checkThreshold(value: number, name: string): number {
  if (typeof value !== "number" || !(value > 0)) {
    throw new ArgumentError(`${name} is ${value}, expected a number above 0`);
  }
  return value;
}

/** `like` is a tensor on the device that all must be on. */
function checkColumnOfNatoms(like: Tensor, natoms: Tensor): void {
  checkNatoms(like, natoms);
  if (!isColumn(natoms, natoms.size)) {
    throw new ShapeError(
      `natoms has shape ${formatShape(natoms.shape)}, expected [B] or [B, 1]`,
    );
  }
}

/** Throws unless the mask has a bool for each row of `input`. */
function checkMask(input: Tensor, mask: Tensor, what: string): void {
  checkTensor(mask, `${what}.mask`);
  checkDevice(input, mask, `${what}.mask`);
  if (mask.dtype !== "bool") {
    throw new DTypeError(`${what}.mask has dtype ${mask.dtype}, expected bool`);
  }
  const rows = input.shape[0]!;
  const isColumn = input.size === rows && equalShapes(mask.shape, input.shape);
  if (!isColumn && !equalShapes(mask.shape, [rows])) {
    throw new ShapeError(
      `${what}.mask has shape ${
        formatShape(mask.shape)
      }, expected [${rows}], one per row of ${what}.input`,
    );
  }
}

/** Whether a tensor is `[n]` or `[n, 1]`. */
function isColumn(tensor: Tensor, n: number): boolean {
  return equalShapes(tensor.shape, [n]) || equalShapes(tensor.shape, [n, 1]);
}
