// A force loss and its gradient, for two atoms. Run it by
// `deno run -A examples/quickstart.ts`.

import { DDPLoss, Device } from "../mod.ts";

// A GPU if there is one, otherwise the CPU.
using device = await Device.open("auto");

// Predicted and reference forces, [atoms, 3].
using predicted = device.tensor(new Float32Array([3, 4, 0, 0, 0, 1]), [2, 3]);
using reference = device.tensor(new Float32Array(6), [2, 3]);

// The mean over all atoms of the length of the error.
const loss = new DDPLoss("l2norm");
using result = loss.valueAndGrad(predicted, reference);

// Reading is what waits for the device.
console.log("loss:", await result.value.item()); // 3
console.log("gradient:", await result.grad.data()); // 0.3, 0.4, 0, 0, 0, 0.5
