/** What holds for any tasks, shapes, dtypes, masks, replicas and micro-batches. */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { DDPMTLoss } from "../mod.ts";
import { hasCuda, testOnDevices } from "./devices.ts";
import { launchReplicas } from "./launch_replicas.ts";
import {
  dataOf,
  optionsOf,
  plainLoss,
  randomStep,
  toInput,
} from "./random_tasks.ts";
import { assertClose, samplesOf, stepLoss, stepOf } from "./step_of.ts";

const RUNS = { numRuns: 150, seed: 20261123 };

testOnDevices(
  "MultiTaskLoss equals the sum of single-task losses, and those written out",
  async (device) => {
    await fc.assert(
      fc.asyncProperty(randomStep, async (step) => {
        using stack = new DisposableStack();
        const all = await stepOf(device, stack, stepLoss(step), step);
        let total = 0;
        for (const [i, task] of step.tasks.entries()) {
          const { loss, reduction, coefficient } = optionsOf(task);
          const data = dataOf(step, task, 0, step.natoms.length);
          const { input, target, mask, natoms } = toInput(
            device,
            stack,
            task,
            data,
          );
          const single = stack.use(
            new DDPMTLoss(loss, reduction, coefficient)
              .valueAndGrad(input, target, mask, natoms),
          );
          const value = await single.value.item();
          const grad = await single.grad.toList();
          assertClose([all.values[i]!], [value], "float32");
          assertEquals(all.grads[i], grad);

          const plain = plainLoss(task, data);
          const factor = coefficient /
            (reduction === "sum" ? 1 : Math.max(plain.samples, 1));
          assertClose([value], [factor * plain.sum], "float32");
          assertClose(
            grad,
            Array.from(plain.grad, (g) => factor * g),
            task.dtype,
          );
          total += all.values[i]!;
        }
        assertClose([all.total], [total], "float64");
      }),
      RUNS,
    );
  },
);

testOnDevices(
  "any division into micro-batches equals the whole batch",
  async (device) => {
    const cuts = fc.array(fc.nat({ max: 9 }), { maxLength: 3 });
    await fc.assert(
      fc.asyncProperty(randomStep, cuts, async (step, cuts) => {
        using stack = new DisposableStack();
        const loss = stepLoss(step);
        const whole = await stepOf(device, stack, loss, step);
        const n = step.natoms.length;
        const borders = [0, ...cuts.map((c) => Math.min(c, n)), n]
          .sort((a, b) => a - b);
        const normalizer = stack.use(
          loss.normalizer(samplesOf(step, 0, n)),
        );
        let total = 0;
        const grads: number[][] = step.tasks.map(() => []);
        for (let i = 1; i < borders.length; i++) {
          const part = await stepOf(device, stack, loss, step, {
            begin: borders[i - 1]!,
            end: borders[i]!,
            normalizer,
          });
          total += part.total;
          part.grads.forEach((grad, task) => grads[task]!.push(...grad));
        }
        assertClose([total], [whole.total], "float32");
        step.tasks.forEach(({ dtype }, task) =>
          assertClose(grads[task]!, whole.grads[task]!, dtype)
        );
      }),
      RUNS,
    );
  },
);

for (const device of ["cpu", "cuda"]) {
  for (const worldSize of [2, 3]) {
    Deno.test({
      name:
        `any division over ${worldSize} replicas equals one replica [${device}]`,
      ignore: device === "cuda" && !hasCuda,
      async fn(): Promise<void> {
        const { code, stdout, stderr } = await launchReplicas(
          worldSize,
          "tests/fixtures/multi_task_replica.ts",
          [device],
        );
        assertEquals(code, 0, stderr);
        const done = stdout.match(/\d+ steps hold/g);
        assertEquals(done?.length, worldSize, stdout);
        assert(parseInt(done![0]) >= 100);
      },
    });
  }
}
