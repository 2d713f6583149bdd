/** How one of the native libraries is compiled on this machine. */
export interface Recipe {
  /** Sources and headers, relative to kernels/. */
  readonly files: readonly string[];
  /** What the result depends on besides the files: compiler, flags, target. */
  readonly identity: string;
  /** Program and arguments, to be run in the folder that holds the files. */
  command(output: string): readonly string[];
  /** Makes the advice for a failed compilation out of the compiler's output. */
  advice(stderr: string): string;
}
