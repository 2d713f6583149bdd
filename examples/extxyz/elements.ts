/**
 * The chemical elements.
 *
 * @module
 */

import { lower } from "./comment.ts";

/** Symbols by atomic number; the first is of no element. */
export const SYMBOLS: readonly string[] = [
  "",
  ..."H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr".split(" "),
  ..."Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr Nb Mo Tc".split(" "),
  ..."Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm".split(" "),
  ..."Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl".split(" "),
  ..."Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm".split(" "),
  ..."Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og".split(" "),
];

const NUMBERS = new Map(
  SYMBOLS.slice(1).map((symbol, i) => [lower(symbol), i + 1]),
);

/** The atomic number of a symbol in any case; 0 where it is no element. */
export function atomicNumber(symbol: string): number {
  return NUMBERS.get(lower(symbol)) ?? 0;
}
