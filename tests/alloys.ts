/** Made-up alloys: crystals of silicon and germanium whose pairs differ. */
import { formatStructure } from "../examples/extxyz/write.ts";
import { neighborList } from "../examples/potential/neighbors.ts";
import { Random } from "../examples/potential/random.ts";
import { siliconStructures } from "../examples/potential/silicon.ts";
import type { Structure } from "../examples/potential/structure.ts";

const CUTOFF = 5; // Å
const [SILICON, GERMANIUM] = [14, 32];

/** Structures of 7 to 54 atoms in which every third atom, about, is germanium. */
export function alloys(count: number, seed: number): Structure[] {
  const random = new Random(seed);
  return siliconStructures(count, seed).map((structure) => {
    const numbers = structure.numbers.map(() =>
      random.uniform(0, 3) < 1 ? GERMANIUM : SILICON
    );
    return { ...structure, ...morse({ ...structure, numbers }), numbers };
  });
}

/** As a file of extended XYZ. */
export function alloyFile(count: number, seed: number): string {
  return alloys(count, seed).map((s) => formatStructure(s, s as never)).join(
    "",
  );
}

/** Energy and forces of Morse pairs that end smoothly at the cutoff. */
function morse(structure: Structure): Pick<Structure, "energy" | "forces"> {
  const { numbers } = structure;
  const { start, index, vector, distance } = neighborList(structure, CUTOFF);
  let energy = 0;
  const forces = new Float64Array(3 * numbers.length);
  numbers.forEach((z, i) => {
    energy += z === SILICON ? -1 : -2.5; // of the free atom
    for (let k = start[i]!; k < start[i + 1]!; k++) {
      const germaniums = Number(z === GERMANIUM) +
        Number(numbers[index[k]!] === GERMANIUM);
      const depth = 0.5 + 0.2 * germaniums; // eV
      const r = distance[k]!;
      const x = Math.exp(-1.2 * (r - 2.35 - 0.05 * germaniums));
      const cut = Math.cos(Math.PI * r / 2 / CUTOFF) ** 2;
      const slope = -Math.PI / 2 / CUTOFF * Math.sin(Math.PI * r / CUTOFF);
      const [value, change] = [x * x - 2 * x, -1.2 * (2 * x * x - 2 * x)];
      energy += depth * value * cut / 2;
      for (let a = 0; a < 3; a++) {
        forces[3 * i + a]! += depth * (change * cut + value * slope) *
          vector[3 * k + a]! / r;
      }
    }
  });
  return { energy, forces };
}
