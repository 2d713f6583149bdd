import { BuildError } from "../errors.ts";
import type { Recipe } from "./recipe.ts";
export function cudaRecipe(): Promise<Recipe> {
  throw new BuildError("no nvcc");
}
