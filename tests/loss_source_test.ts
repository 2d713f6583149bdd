import { assertEquals } from "@std/assert";
import { errorsIn } from "../ffi/loss_source.ts";

const LOSS = {
  name: "beta",
  kind: "element",
  natoms: false,
  columns: 0,
  texts: { value: "d +\n  std::beta(p, t)", grad: "d" },
  parameters: [],
} as const;

Deno.test("errorsIn() gives the lines of a loss that nvcc refuses", () => {
  // What nvcc 13.0 says, shortened: once a dtype, and warnings beside.
  const refused =
    'beta.value(2): error: calling a __host__ function("std::beta") from a __host__ __device__ function("value") is not allowed';
  const output = [
    "loss_ops.h(12): warning #177-D: a variable was declared but never referenced",
    "",
    refused,
    "",
    "other.value(1): error: of another loss",
    "beta.value(1): warning #20013-D: calling a constexpr __host__ function",
    refused,
    '2 errors detected in the compilation of "cuda/user_losses.cu".',
  ].join("\n");
  assertEquals(errorsIn(LOSS, output), `${refused}\n      std::beta(p, t)`);
});

Deno.test("errorsIn() marks the column that g++ names, and knows what is not in the text", () => {
  const error = "beta.value:2:8: error: 'beta' is not a member of 'std'";
  assertEquals(
    errorsIn(LOSS, `In file included\n${error}\n`),
    `${error}\n      std::beta(p, t)\n           ^`,
  );
  assertEquals(
    errorsIn(LOSS, "defined/user_losses.h:40:1: error: expected ')'"),
    undefined,
  );
});
