import {
  assert,
  assertAlmostEquals,
  assertEquals,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import {
  ArgumentError,
  checkGradient,
  DDPLoss,
  DDPMTLoss,
  defineLoss,
  Device,
  GradientError,
  huber,
  LossDefinitionError,
  MultiTaskLoss,
  smoothL1,
} from "../mod.ts";
import { shippedHeader } from "../loss/define_loss.ts";
import { testOnDevices } from "./devices.ts";
import { ROOT, startProgram } from "./launch_replicas.ts";
import { withFolder } from "./system.ts";

const LOSSES = [
  "mae",
  "mse",
  "per_atom_mae",
  "l2norm",
  "huber",
  "smooth_l1",
  "log_cosh",
];

testOnDevices(
  "the gradient of every loss is that of its value",
  async (device, t) => {
    for (const loss of LOSSES) {
      await t.step(loss, () => checkGradient(loss, device));
    }
  },
);

testOnDevices(
  "huber, smooth_l1 and log_cosh give torch's values",
  async (device) => {
    const d = [-3, -1, -0.5, 0, 0.25, 2];
    using pred = device.tensor(Float64Array.from(d));
    using target = device.zeros([d.length], "float64");
    // torch.nn.functional.huber_loss and smooth_l1_loss, reduction="none".
    const expected = {
      huber: [2.5, 0.5, 0.125, 0, 0.03125, 1.5],
      smooth_l1: [2.5, 0.5, 0.125, 0, 0.03125, 1.5],
      log_cosh: d.map((x) => Math.log(Math.cosh(x))),
    };
    for (const [name, values] of Object.entries(expected)) {
      using unreduced = new DDPLoss(name).lossFn.forward(pred, target);
      for (const [i, value] of (await unreduced.toList()).entries()) {
        assertAlmostEquals(value, values[i]!, 1e-14);
      }
    }
    // Gradients, of which that of a NaN is NaN.
    using odd = device.tensor(Float64Array.of(-3, 0.25, 2, NaN));
    const slopes = {
      huber: [3, -0.25, -2, NaN].map((x) => Math.max(-1, Math.min(x, 1))),
      smooth_l1: [1, -0.25, -1, NaN],
      log_cosh: [3, -0.25, -2, NaN].map(Math.tanh),
    };
    using origin = device.zeros([4], "float64");
    for (const [name, values] of Object.entries(slopes)) {
      const loss = new DDPLoss(name, "sum");
      const { value, grad } = loss.valueAndGrad(origin, odd);
      assertEquals(await value.toList(), [NaN]);
      for (const [i, slope] of (await grad.toList()).entries()) {
        if (Number.isNaN(values[i])) assertEquals(slope, NaN);
        else assertAlmostEquals(slope, values[i]!, 1e-14);
      }
    }
    // Without a part that is square it is torch's L1Loss, also at 0.
    const absolute = new DDPLoss("smooth_l1", "sum", {
      parameters: { beta: 0 },
    }).valueAndGrad(pred, target);
    assertEquals(await absolute.value.item(), 6.75);
    assertEquals(await absolute.grad.toList(), d.map(Math.sign));
    // Small and large errors in float32: neither cancels nor overflows.
    using small = device.tensor(new Float32Array([1e-4, -1e4]));
    using zero = device.zeros([2]);
    using unreduced = new DDPLoss("log_cosh").lossFn.forward(small, zero);
    const [tiny, huge] = await unreduced.toList();
    assertAlmostEquals(tiny! / 5e-9, 1, 1e-5);
    assertAlmostEquals(huge!, 1e4 - Math.log(2), 1e-3);
  },
);

testOnDevices(
  "defineLoss() compiles losses for open devices, and for those opened later",
  async (device) => {
    const suffix = device.type;
    const perElement = await defineLoss(`huber_${suffix}`, {
      ...huber,
      parameters: { delta: 0.5 },
    });
    await defineLoss(`row_huber_${suffix}`, {
      kind: "row",
      value: "r < delta ? s / (2 * delta) : r - delta / 2",
      grad: "r < delta ? 1 / delta : 1 / r",
      parameters: { delta: 0.01 },
    });
    await defineLoss(`per_atom_huber_${suffix}`, {
      value: "abs(d / n) < 1 ? d * d / (2 * n * n) : abs(d / n) - T(0.5)",
      grad: "max(-1, min(1, d / n)) / n",
      natoms: true,
    });
    assertEquals(perElement.name, `huber_${suffix}`);
    for (const name of ["huber", "row_huber", "per_atom_huber"]) {
      await checkGradient(`${name}_${suffix}`, device);
    }
    using forces = device.tensor(new Float32Array([3, 4, 0, 0, 0, 0]), [2, 3]);
    using target = device.zeros([2, 3]);
    using mask = device.tensor(new Uint8Array([1, 0]), [2], "bool");
    using natoms = device.tensor(new Int32Array([2]));
    using energy = device.tensor(new Float32Array([4]));
    using energyTarget = device.zeros([1]);
    using row = new DDPMTLoss(`row_huber_${suffix}`, "mean", 2)
      .valueAndGrad(forces, target, mask);
    assertAlmostEquals(await row.value.item(), 2 * (5 - 0.005), 1e-5);
    const expected = [1.2, 1.6, 0, 0, 0, 0];
    for (const [i, g] of (await row.grad.toList()).entries()) {
      assertAlmostEquals(g, expected[i]!, 1e-6);
    }
    // In one launch with others, on this device and on another.
    using other = await Device.open(device.name);
    const loss = new MultiTaskLoss({
      energy: { loss: `per_atom_huber_${suffix}` },
      forces: { loss: perElement },
    });
    using result = loss.valueAndGrad({
      energy: { input: energy, target: energyTarget, natoms },
      forces: { input: forces, target },
    });
    assertEquals(await result.values.energy.item(), 1.5);
    assertAlmostEquals(
      await result.values.forces.item(),
      (1.5 - 0.125 + 2 - 0.125) / 6,
      1e-6,
    );
    using elsewhere = other.tensor(new Float32Array([2]));
    using zero = other.zeros([1]);
    using value = new DDPLoss(`huber_${suffix}`).forward(elsewhere, zero);
    assertEquals(await value.item(), 0.5 * (2 - 0.25));
  },
);

Deno.test("defineLoss() gives the compiler's message with the user's line", async () => {
  const error = await assertRejects(
    () =>
      defineLoss("misspelt", {
        value: "abs(d) < delta\n ? d * d : detla * abs(d)",
        grad: "2 * d",
        parameters: { delta: 1 },
      }),
    LossDefinitionError,
  );
  assertStringIncludes(error.message, "misspelt.value:2:12:");
  assertStringIncludes(error.message, "detla");
  assertStringIncludes(
    error.message,
    "     ? d * d : detla * abs(d)\n               ^",
  );
  // Nothing is left of it: the name is free, and others compile.
  await assertRejects(
    () => defineLoss("misspelt", { value: "abs(d", grad: "sign(d)" }),
    LossDefinitionError,
    "expected",
  );
});

Deno.test("defineLoss() rejects names, numbers and texts that are not allowed", async () => {
  const good = { value: "d * d", grad: "2 * d" };
  const cases = [
    ["mae", good, "is there already"],
    ["huber", good, "is there already"],
    ["Huber", good, "lower-case"],
    ["a b", good, "lower-case"],
    ["x", { ...good, value: " " }, "value must be an expression"],
    ["x", { ...good, grad: "#include <x>" }, "without comments or directives"],
    ["x", { ...good, parameters: { d: 1 } }, "'d' cannot name a parameter"],
    ["x", { ...good, parameters: { "a-b": 1 } }, "'a-b' cannot name"],
    ["x", { ...good, parameters: { delta: NaN } }, "delta is NaN"],
    ["x", { ...good, kind: "row", natoms: true }, "natoms"],
    ["x", { ...good, kind: "rows" }, "kind is 'rows'"],
  ] as const;
  for (const [name, definition, message] of cases) {
    await assertRejects(
      // deno-lint-ignore no-explicit-any
      () => defineLoss(name, definition as any),
      ArgumentError,
      message,
    );
  }
});

Deno.test("checkGradient() finds a wrong gradient", async () => {
  using device = await Device.open("cpu");
  await defineLoss("wrong", { value: "d * d", grad: "d" });
  const error = await assertRejects(
    () => checkGradient("wrong", device),
    GradientError,
  );
  assertStringIncludes(error.message, "the gradient of wrong");
});

Deno.test("kernels/defined/defined_losses.h is what the shipped definitions make", async () => {
  const file = new URL("../kernels/defined/defined_losses.h", import.meta.url);
  assertEquals(await Deno.readTextFile(file), shippedHeader());
  assert(smoothL1.value.includes("beta"));
});

Deno.test("defineLoss() does not depend on another device's library, which cannot be built", async () => {
  await withFolder(async (toolkit) => {
    await Deno.mkdir(`${toolkit}/bin`);
    // It takes so long that the losses are defined meanwhile.
    await Deno.writeTextFile(
      `${toolkit}/bin/nvcc`,
      "#!/bin/sh\nsleep 4\nexit 1\n",
      {
        mode: 0o755,
      },
    );
    const { code, stdout, stderr } = await startProgram(Deno.execPath(), [
      "run",
      "-A",
      `${ROOT}tests/fixtures/define_loss_beside.ts`,
    ], { CUDA_HOME: toolkit, ATOMLOSS_LIBRARY_CUDA: "" }).finished();
    assertEquals(code, 0, stderr);
    assertEquals(stdout, "quartic 16\nhalf_quartic 8\nBuildError\n");
  });
});
