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
import { equalShapes, formatShape } from "../tensor/shape.ts";
import {
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
}

/** Predictions and what they should be. */
export interface Compared {
  /** Predictions; float32, float64, float16 or bfloat16. */
  readonly input: Tensor;
  /** References; shape, dtype and device of `input`. */
  readonly target: Tensor;
}

/** Forces and what they should be: `[N, 3]`, structure after structure. */
export interface ComparedForces extends Compared {
  /**
   * bool `[N]`: 0 for atoms that are left out, as fixed atoms are in Open
   * Catalyst. Default: all are compared.
   */
  readonly mask?: Tensor;
}

/** A batch of structures. Energies or forces may be absent, not both. */
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
  /** Structures that were added. */
  readonly structures: number;
  /** Atoms whose forces were compared. */
  readonly atoms: number;
  /**
   * Energies and force components with a NaN or an infinity in the prediction
   * or the reference. If there are any, the means they enter are NaN or
   * infinite, and they are not within a threshold.
   */
  readonly nonFinite: number;
}

/**
 * Errors of energies and forces over a whole data set, for validation and
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
   * @param batch Energies, forces, or both, with the atoms of each structure.
   * @throws {ShapeError} if shapes are not `[B]` or `[B, 1]`, `[N, 3]` and `[N]`, or differ. (That natoms adds up
   * to N is checked on the device: see {@linkcode Metrics.result}.)
   * @throws {DTypeError} if dtypes differ or are not allowed.
   * @throws {DeviceError} if a tensor is on another device.
   * @throws {ArgumentError} if there are neither energies nor forces, or something is not a tensor.
   * @throws {DisposedError} if a tensor or this object was disposed.
   */
  add({ natoms, energy, forces }: MetricsBatch): void {
    const sums = this.#open();
    checkColumnOfNatoms(sums, natoms);
    if (energy === undefined && forces === undefined) {
      throw new ArgumentError(
        "a batch has neither energy nor forces: expected one of them, or both",
      );
    }
    if (energy !== undefined) checkEnergy(sums, energy, natoms.size);
    if (forces !== undefined) checkForces(sums, forces);
    const { library, handle } = nativeOf(this.device);
    checkTraced(
      this.device,
      library.symbols.al_metrics_add(
        handle,
        BigInt(natoms.size),
        pointerOf(natoms),
        dtypeCode(natoms.dtype),
        dtypeCode(energy?.input.dtype ?? "float64"),
        energy ? pointerOf(energy.input) : null,
        energy ? pointerOf(energy.target) : null,
        BigInt(forces?.input.shape[0] ?? 0),
        dtypeCode(forces?.input.dtype ?? "float64"),
        forces ? pointerOf(forces.input) : null,
        forces ? pointerOf(forces.target) : null,
        forces?.mask ? pointerOf(forces.mask) : null,
        this.energyThreshold,
        this.forceThreshold,
        pointerOf(sums),
      ),
      () => ({
        reads: [
          sums,
          natoms,
          energy?.input,
          energy?.target,
          forces?.input,
          forces?.target,
          forces?.mask,
        ],
        writes: [sums],
      }),
    );
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
    structures: s.structures,
    atoms: s.atoms,
    nonFinite: s.energyNonFinite + s.forcesNonFinite,
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

function checkEnergy(like: Tensor, energy: Compared, structures: number): void {
  const { input, target } = energy;
  checkPair(input, target, "energy.input", "energy.target");
  checkDevice(like, input, "energy.input");
  if (!isColumn(input, structures)) {
    throw new ShapeError(
      `energy.input has shape ${
        formatShape(input.shape)
      }, expected [${structures}] or [${structures}, 1], one per structure of natoms`,
    );
  }
}

function checkForces(like: Tensor, forces: ComparedForces): void {
  const { input, target, mask } = forces;
  checkPair(input, target, "forces.input", "forces.target");
  checkDevice(like, input, "forces.input");
  const atoms = input.shape[0] ?? 0;
  if (!equalShapes(input.shape, [atoms, 3])) {
    throw new ShapeError(
      `forces.input has shape ${formatShape(input.shape)}, expected [N, 3]`,
    );
  }
  if (mask === undefined) return;
  checkTensor(mask, "forces.mask");
  checkDevice(like, mask, "forces.mask");
  if (mask.dtype !== "bool") {
    throw new DTypeError(`forces.mask has dtype ${mask.dtype}, expected bool`);
  }
  if (!equalShapes(mask.shape, [atoms])) {
    throw new ShapeError(
      `forces.mask has shape ${
        formatShape(mask.shape)
      }, expected [${atoms}], one per row of forces.input`,
    );
  }
}

/** Whether a tensor is `[n]` or `[n, 1]`. */
function isColumn(tensor: Tensor, n: number): boolean {
  return equalShapes(tensor.shape, [n]) || equalShapes(tensor.shape, [n, 1]);
}
