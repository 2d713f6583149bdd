import { assert, assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import { Shelf, ShelfError } from "../examples/potential/shelf.ts";
import { withFolder } from "./system.ts";

const arrays = fc.array(fc.oneof(
  fc.float64Array({ maxLength: 40 }).map((x) => Float64Array.from(x)),
  fc.float32Array({ maxLength: 40 }).map((x) => Float32Array.from(x)),
));

Deno.test("Shelf gives back every array, whatever memory has room for", () => {
  fc.assert(
    fc.property(arrays, fc.nat({ max: 1000 }), fc.nat(), (all, room, seed) => {
      using shelf = new Shelf(room);
      const takes = all.map((array) => shelf.put(array.slice()));
      const reads = all.map((array) => shelf.write(array));
      const order = all.map((_, k) => (k + seed) % all.length);
      for (const k of order) assertEquals(takes[k]!(), all[k]);
      for (const k of [...order, ...order]) assertEquals(reads[k]!(), all[k]);
    }),
  );
});

Deno.test("Shelf has room again for what was taken", () => {
  using shelf = new Shelf(100);
  const take = shelf.put(new Float64Array(10));
  assertEquals(shelf.reserve(21), false);
  take();
  assertEquals(shelf.reserve(100), true);
  assertEquals(shelf.reserve(1), false);
  assertThrows(take, ShelfError, "an array was taken twice");
});

Deno.test("Shelf leaves no file behind, and says when it can have none", () =>
  withFolder((folder) => {
    const before = Deno.env.get("TMPDIR");
    try {
      Deno.env.set("TMPDIR", folder);
      const shelf = new Shelf(0);
      const read = shelf.write(Float64Array.of(1, 2));
      assertEquals([...Deno.readDirSync(folder)], []);
      assertEquals(read(), Float64Array.of(1, 2));
      shelf[Symbol.dispose]();
      assertThrows(read, ShelfError, "cannot be read");

      Deno.env.set("TMPDIR", `${folder}/none`);
      using other = new Shelf(0);
      assertThrows(
        () => other.put(Float64Array.of(1)),
        ShelfError,
        "a temporary file cannot be written (TMPDIR says where it is): ",
      );
    } finally {
      if (before === undefined) Deno.env.delete("TMPDIR");
      else Deno.env.set("TMPDIR", before);
    }
    return Promise.resolve();
  }));

Deno.test("Shelf keeps nothing of an array that is in its file in memory", () => {
  using shelf = new Shelf(0);
  const before = Deno.memoryUsage().external;
  const reads = Array.from(
    { length: 100 },
    (_, k) => shelf.write(new Float64Array(2 ** 19).fill(k)), // 4 MiB
  );
  const mebibytes = (Deno.memoryUsage().external - before) / 2 ** 20;
  assert(mebibytes < 200, `${mebibytes} MiB of 400`);
  reads.forEach((read, k) => assertEquals(read().at(-1), k));
});
