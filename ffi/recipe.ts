/** How one of the native libraries is compiled on this machine. */
export interface Recipe {
  /** Sources, relative to kernels/. */
  readonly sources: readonly string[];
  /** The source of a library of losses that a user defines. */
  readonly lossSource: string;
  /** Whether that library needs all losses that were defined, not the new one alone. */
  readonly allLosses: boolean;
  readonly headers: readonly string[];
  /** Texts of files that the commands read besides. */
  readonly files?: Readonly<Record<string, string>>;
  /** What the result depends on besides the files: compiler, flags, target. */
  readonly identity: string;
  /** Program and arguments that compile a source, run in the folder of the files. */
  compile(source: string, object: string): readonly string[];
  /** The same for linking, with `library` besides the usual ones if it is given. */
  link(
    objects: readonly string[],
    output: string,
    library?: string,
  ): readonly string[];
  /** Makes the advice for a failure out of the output of compiler or linker. */
  advice(stderr: string): string;
}

/** What both libraries are made of, relative to kernels/. */
export const SHARED_SOURCES: readonly string[] = [
  "shared/dlpack.cpp",
  "shared/loss_table.cpp",
  "shared/recording.cpp",
  "shared/roll_call.cpp",
  "defined/sources.cpp",
  "shared/status.cpp",
];

/** Headers that both need. */
export const SHARED_HEADERS: readonly string[] = [
  "atomloss.h",
  "shared/block_cache.h",
  "shared/call.h",
  "shared/collective_log.h",
  "defined/defined_losses.h",
  "shared/dispatch.h",
  "shared/divisors.h",
  "shared/dlpack.h",
  "shared/entries.h",
  "shared/link_address.h",
  "loss_ops.h",
  "loss_rows.h",
  "shared/loss_table.h",
  "shared/matmul_sides.h",
  "metrics_ops.h",
  "shared/one_entry.h",
  "optimizer_ops.h",
  "shared/recording.h",
  "defined/register_losses.h",
  "shared/roll_call.h",
  "defined/sources.h",
  "shared/status.h",
  "shared/structures.h",
  "defined/user_losses.h",
];
