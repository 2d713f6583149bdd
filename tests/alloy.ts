/** An alloy that does not exist: of copper, silver and gold, by a potential of many bodies. */
import { neighborList } from "../examples/potential/neighbors.ts";
import { Random } from "../examples/potential/random.ts";
import { stressOf } from "../examples/potential/stress.ts";
import type { Geometry, Structure } from "../examples/potential/structure.ts";

/**
 * The potential of F. Cleri and V. Rosato (Phys. Rev. B 48, 22, 1993), with
 * numbers near to theirs and a cutoff: E = Σ_i (Σ_j A f_p(r) − √(Σ_j B f_q(r)))
 * + E0_i with f_p(r) = exp(−p (r/r0 − 1)) (1 − r/r_c)².
 */
const ELEMENTS = new Map([
  [29, { a: 0.5, b: 6, r0: 2.56, e0: -1 }],
  [47, { a: 0.6, b: 5.5, r0: 2.89, e0: -2 }],
  [79, { a: 1.1, b: 13, r0: 2.88, e0: -3.5 }],
]);
const P = 10.5;
const Q = 2.5;
const CUTOFF = 4.5;

/** Energy, forces and stress of an alloy. */
export function alloyPotential(
  geometry: Geometry,
): Pick<Structure, "energy" | "forces" | "stress"> {
  const { start, index, vector, distance } = neighborList(geometry, CUTOFF);
  const kinds = Array.from(geometry.numbers, (z) => ELEMENTS.get(z)!);
  const forces = new Float64Array(3 * kinds.length);
  const bonds = new Float64Array(9);
  let energy = 0;
  /** exp(−s (r/r0 − 1)) (1 − r/r_c)², and its derivative. */
  const decay = (r: number, s: number, r0: number): [number, number] => {
    const gap = 1 - r / CUTOFF;
    const value = Math.exp(-s * (r / r0 - 1));
    return [value * gap ** 2, -value * gap * (s / r0 * gap + 2 / CUTOFF)];
  };
  kinds.forEach((center, i) => {
    energy += center.e0;
    const terms = [];
    let density = 0;
    for (let k = start[i]!; k < start[i + 1]!; k++) {
      const other = kinds[index[k]!]!;
      const r0 = (center.r0 + other.r0) / 2;
      const [p, dp] = decay(distance[k]!, P, r0);
      const [q, dq] = decay(distance[k]!, Q, r0);
      const a = Math.sqrt(center.a * other.a);
      const b = Math.sqrt(center.b * other.b);
      energy += a * p;
      density += b * q;
      terms.push({ k, pair: a * dp, embedded: b * dq });
    }
    energy -= Math.sqrt(density);
    for (const { k, pair, embedded } of terms) {
      const slope = pair - embedded / (2 * Math.sqrt(density));
      for (let axis = 0; axis < 3; axis++) {
        const g = slope * vector[3 * k + axis]! / distance[k]!;
        forces[3 * index[k]! + axis]! -= g;
        forces[3 * i + axis]! += g;
        for (let b = 0; b < 3; b++) {
          bonds[3 * axis + b]! += g * vector[3 * k + b]!;
        }
      }
    }
  });
  return { energy, forces, stress: stressOf(bonds, geometry) };
}

/** Free atoms, one of each element. */
export function freeAtoms(): Structure[] {
  return [...ELEMENTS.keys()].map((z) =>
    labelled({
      source: "atom",
      numbers: Uint8Array.of(z),
      lattice: new Float64Array(9),
      periodic: [false, false, false],
      positions: new Float64Array(3),
    }, "IsolatedAtom")
  );
}

/** Crystals and slabs of 8 atoms, or molecules of 2 to 6. */
export function alloys(
  kind: "crystal" | "slab" | "molecule",
  count: number,
  seed: number,
): Structure[] {
  const random = new Random(seed);
  return Array.from({ length: count }, () => {
    const a = random.uniform(3.8, 4.2);
    const sites = [0, 1].flatMap((layer) =>
      [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
        .map(([x, y, z]) => [x! * a, y! * a, (z! + layer) * a])
    );
    const atoms = kind === "molecule" ? random.integer(2, 6) : sites.length;
    const height = kind === "slab" ? 2 * a + 10 : 2 * a;
    return labelled({
      source: kind,
      numbers: Uint8Array.from(
        { length: atoms },
        () => [...ELEMENTS.keys()][random.integer(0, 2)]!,
      ),
      lattice: kind === "molecule"
        ? new Float64Array(9)
        : Float64Array.of(a, 0, 0, 0, a, 0, 0, 0, height),
      periodic: [kind !== "molecule", kind !== "molecule", kind === "crystal"],
      positions: Float64Array.from(
        sites.slice(0, atoms).flat(),
        (x) => x + random.uniform(-0.2, 0.2),
      ),
    }, kind);
  });
}

function labelled(geometry: Geometry, configType: string): Structure {
  return {
    ...geometry,
    ...alloyPotential(geometry),
    configType,
    weights: { energy: 1, forces: 1, stress: 1 },
  };
}
