/** The losses: one class each, and the names they are asked for by. */
import { ShapeError } from "../errors.ts";
import { formatShape, type Shape } from "../tensor/shape.ts";
import { NativeLoss } from "./native_loss.ts";
import { registerLoss } from "./registry.ts";

/**
 * Absolute error, |p − t|, of every element. Unit: that of the predictions.
 * Gradient: sign(p − t), 0 where p = t. Reference: torch.nn.L1Loss as used by
 * fairchem's `MAELoss`.
 *
 * @example
 * ```ts
 * import { Device, MAELoss } from "@atomloss/atomloss";
 *
 * using device = await Device.open("cpu");
 * using pred = device.tensor(new Float32Array([1, 2]));
 * using target = device.tensor(new Float32Array([0, 4]));
 * const mae = new MAELoss();
 * using error = mae.forward(pred, target);
 * using grad = mae.backward(pred, target);
 * console.log(await error.toList(), await grad.toList()); // [ 1, 2 ] [ 1, -1 ]
 * ```
 */
export class MAELoss extends NativeLoss {
  /** The loss; it has no options. */
  constructor() {
    super("mae", "element");
  }
}

/**
 * Squared error, (p − t)², of every element. Unit: the square of that of the
 * predictions. Gradient: 2(p − t). Reference: torch.nn.MSELoss as used by
 * fairchem's `MSELoss`.
 *
 * @example
 * ```ts
 * import { Device, MSELoss } from "@atomloss/atomloss";
 *
 * using device = await Device.open("cpu");
 * using pred = device.tensor(new Float32Array([1, 2]));
 * using target = device.tensor(new Float32Array([0, 4]));
 * using error = new MSELoss().forward(pred, target);
 * console.log(await error.toList()); // [ 1, 4 ]
 * ```
 */
export class MSELoss extends NativeLoss {
  /** The loss; it has no options. */
  constructor() {
    super("mse", "element");
  }
}

/**
 * Absolute error per atom, |p/n − t/n| with n the number of atoms of the
 * structure: total energies of structures of different size weigh the same.
 * Unit: that of the predictions per atom (eV/atom). Gradient: sign(p/n − t/n)/n.
 * Predictions are `[B]` or `[B, 1]`, natoms has B numbers. Reference:
 * fairchem's `PerAtomMAELoss`.
 *
 * @example
 * ```ts
 * import { Device, PerAtomMAELoss } from "@atomloss/atomloss";
 *
 * using device = await Device.open("cpu");
 * using energy = device.tensor(new Float64Array([-8.2, -17]), [2, 1]);
 * using target = device.tensor(new Float64Array([-8, -16]), [2, 1]);
 * using natoms = device.tensor(new Int32Array([2, 4]));
 * using error = new PerAtomMAELoss().forward(energy, target, natoms);
 * console.log(await error.toList()); // [ 0.1, 0.25 ] to rounding
 * ```
 */
export class PerAtomMAELoss extends NativeLoss {
  /** The loss; it has no options. */
  constructor() {
    super("per_atom_mae", "element", true);
  }

  /** The shape itself, `[B]` or `[B, 1]`. Throws {@linkcode ShapeError} for any other. */
  override outputShape(shape: Shape): Shape {
    if (shape.length === 1 || (shape.length === 2 && shape[1] === 1)) {
      return shape;
    }
    throw new ShapeError(
      `per_atom_mae takes one number per structure, [B] or [B, 1], not shape ${
        formatShape(shape)
      }`,
    );
  }
}

/**
 * Euclidean norm of the error of every row, ‖pᵢ − tᵢ‖₂: the length of an atom's
 * force error. Unit: that of the predictions (eV/Å). Gradient: (p − t)/‖p − t‖,
 * 0 where the norm is 0. Predictions are `[N, D]`, D > 1; the result is `[N]`.
 * Reference: fairchem's `L2NormLoss`.
 *
 * @example
 * ```ts
 * import { Device, L2NormLoss } from "@atomloss/atomloss";
 *
 * using device = await Device.open("cpu");
 * using forces = device.tensor(new Float32Array([3, 4, 0]), [1, 3]);
 * using target = device.zeros([1, 3]);
 * using error = new L2NormLoss().forward(forces, target);
 * console.log(await error.toList()); // [ 5 ]
 * ```
 */
export class L2NormLoss extends NativeLoss {
  /** The loss; it has no options. */
  constructor() {
    super("l2norm", "row");
  }
}

/**
 * Cross-entropy of every row, −Σ tⱼ log softmax(p)ⱼ: the predictions are logits,
 * the references probabilities (or other numbers: the loss is linear in them).
 * In nats. Gradient: softmax(p) Σt − t. Predictions are `[N, C]`, C > 1; the
 * result is `[N]`. Large logits do not overflow. Reference:
 * torch.nn.CrossEntropyLoss with class probabilities.
 *
 * @example
 * ```ts
 * import { CrossEntropyLoss, Device } from "@atomloss/atomloss";
 *
 * using device = await Device.open("cpu");
 * using logits = device.tensor(new Float64Array([0, 0, 1000, 0]), [2, 2]);
 * using classes = device.tensor(new Float64Array([1, 0, 1, 0]), [2, 2]);
 * using error = new CrossEntropyLoss().forward(logits, classes);
 * console.log(await error.toList()); // [ 0.6931471805599453, 0 ]
 * ```
 */
export class CrossEntropyLoss extends NativeLoss {
  /** The loss; it has no options. */
  constructor() {
    super("cross_entropy", "row");
  }
}

registerLoss("mae", () => new MAELoss());
registerLoss("mse", () => new MSELoss());
registerLoss("per_atom_mae", () => new PerAtomMAELoss());
registerLoss("l2norm", () => new L2NormLoss());
registerLoss("l2mae", () => new L2NormLoss());
registerLoss("cross_entropy", () => new CrossEntropyLoss());
