/**
 * Which keys of a file are its labels: one for the whole file, since numbers of
 * two methods must not mix.
 *
 * @module
 */

/** What there may be a label of. */
export type LabelName = "energy" | "forces" | "stress" | "virial";

/** The key of each label; null where a file has none. */
export type LabelKeys = Readonly<Record<LabelName, string | null>>;

/** Keys to take instead of the lists'. */
export interface KeyOptions {
  readonly energyKey?: string | undefined;
  readonly forcesKey?: string | undefined;
  readonly stressKey?: string | undefined;
}

/** The first of these that a file has is chosen. */
export const LABEL_KEYS: Readonly<Record<LabelName, readonly string[]>> = {
  energy: [
    ..."REF_energy dft_energy DFT_energy QM_energy".split(" "),
    ..."energy Energy free_energy".split(" "),
  ],
  forces: [
    ..."REF_forces dft_forces DFT_forces QM_forces".split(" "),
    ..."forces force dft_force DFT_force".split(" "),
  ],
  stress: "REF_stress dft_stress DFT_stress QM_stress stress".split(" "),
  virial: [
    ..."REF_virials REF_virial dft_virial DFT_virial QM_virial".split(" "),
    ..."virial virials".split(" "),
  ],
};

/** The lists, with those that an option replaces. */
export function keyLists(
  { energyKey, forcesKey, stressKey }: KeyOptions,
): Readonly<Record<LabelName, readonly string[]>> {
  return {
    energy: energyKey === undefined ? LABEL_KEYS.energy : [energyKey],
    forces: forcesKey === undefined ? LABEL_KEYS.forces : [forcesKey],
    stress: stressKey === undefined ? LABEL_KEYS.stress : [stressKey],
    virial: LABEL_KEYS.virial,
  };
}

/** The chosen keys in a few words, for people. */
export function describeKeys(
  { energy, forces, stress, virial }: LabelKeys,
): string {
  const texts = [
    energy && `energy by ${energy}`,
    forces && `forces by ${forces}`,
    stress && `stress by ${stress}`,
    virial && `${stress ? "else" : "stress"} by −${virial}/volume`,
  ].filter(Boolean);
  return texts.join(", ") || "no labels";
}
