/**
 * The functions of kernels/atomloss.h as Deno.dlopen wants them, in the order
 * of the header and with its parameter names.
 *
 * 64-bit integers are passed as BigInt and addresses as pointer objects: with
 * these Deno takes its fast call path (about 20 ns), with plain numbers in
 * 64-bit places it does not (about 500 ns). To make a pointer object takes 60 ns.
 */

const status = "i32";
const device = "pointer";
const group = "pointer";
const recording = "pointer";
const memory = "pointer";
/** The same without an object, for what is made and freed in every step. */
const address = "u64";
const dtype = "i32";
/** Host memory: a typed array. */
const host = "buffer";

/** Arguments with which every loss function begins. */
const lossInput = [
  device,
  /* loss */ "i32",
  dtype,
  /* pred */ memory,
  /* target */ memory,
  /* natoms */ memory,
  /* natoms_dtype */ dtype,
  /* rows */ "i64",
  /* cols */ "i64",
] as const;

/** Arguments of al_replay. */
const replay = [
  recording,
  /* times */ "i64",
  /* numbers */ host,
  /* origin */ host,
  /* done */ host,
] as const;

/** The symbol table: one for both native libraries. */
export const symbols = {
  // library
  al_abi_version: { parameters: [], result: "i32" },
  al_versions: {
    parameters: [/* text */ host, /* capacity */ "i64"],
    result: status,
  },
  al_sources: {
    parameters: [/* text */ host, /* capacity */ "i64"],
    result: status,
  },
  al_take_error: {
    parameters: [status, /* text */ host, /* capacity */ "i64"],
    result: "void",
  },

  // device
  al_device_count: { parameters: [/* count */ host], result: status },
  al_device_open: {
    parameters: [/* ordinal */ "i32", /* device */ host],
    result: status,
  },
  al_device_close: { parameters: [device], result: status },
  al_synchronize: {
    parameters: [device, /* since */ "f64"],
    result: status,
    nonblocking: true,
  },
  al_device_stream: {
    parameters: [device, /* stream */ host],
    result: status,
  },
  al_memory_state: { parameters: [device, /* state */ host], result: status },
  al_release_memory: {
    parameters: [device],
    result: status,
    nonblocking: true,
  },

  // memory
  al_alloc: {
    parameters: [device, /* bytes */ "i64", /* memory */ host],
    result: status,
  },
  al_free: { parameters: [device, address], result: status },
  al_upload: {
    parameters: [device, memory, host, /* bytes */ "i64"],
    result: status,
  },
  al_download: {
    parameters: [
      device,
      memory,
      host,
      /* bytes */ "i64",
      /* origin */ "f64",
      /* ticket */ host,
    ],
    result: status,
  },
  al_download_wait: {
    parameters: [
      device,
      /* ticket */ "i64",
      host,
      /* bytes */ "i64",
      /* origin */ "f64",
    ],
    result: status,
    nonblocking: true,
  },
  al_zero: { parameters: [device, memory, /* bytes */ "i64"], result: status },
  al_copy: {
    parameters: [
      device,
      /* destination */ memory,
      /* source */ memory,
      /* bytes */ "i64",
    ],
    result: status,
  },
  al_dlpack_export: {
    parameters: [
      device,
      memory,
      dtype,
      /* ndim */ "i32",
      /* shape */ host,
      /* versioned */ "i32",
      /* managed */ host,
    ],
    result: status,
  },

  // losses
  al_loss_find: {
    parameters: [/* name */ host, /* loss */ host, /* kind */ host],
    result: status,
  },
  al_loss_forward: {
    parameters: [...lossInput, /* parameters */ host, /* out */ memory],
    result: status,
  },
  al_loss_backward: {
    parameters: [
      ...lossInput,
      /* parameters */ host,
      /* grad_output */ memory,
      /* grad */ memory,
    ],
    result: status,
  },
  al_count_samples: {
    parameters: [
      device,
      /* count */ "i32",
      /* tasks */ host,
      /* counts */ memory,
    ],
    result: status,
  },
  al_loss_reduce: {
    parameters: [
      device,
      /* count */ "i32",
      /* tasks */ host,
      /* total */ memory,
    ],
    result: status,
  },
  al_sum: {
    parameters: [
      device,
      dtype,
      /* x */ memory,
      /* n */ "i64",
      /* coefficient */ "f64",
      /* factor */ memory,
      /* result */ memory,
    ],
    result: status,
  },
  al_fill: {
    parameters: [
      device,
      dtype,
      /* out */ memory,
      /* n */ "i64",
      /* coefficient */ "f64",
      /* factor */ memory,
    ],
    result: status,
  },
  al_nan_to_num: {
    parameters: [
      device,
      dtype,
      /* x */ memory,
      /* n */ "i64",
      /* out */ memory,
      /* nonfinite */ memory,
    ],
    result: status,
  },
  al_zero_nonfinite: {
    parameters: [
      device,
      dtype,
      /* x */ memory,
      /* n */ "i64",
      /* grad */ memory,
    ],
    result: status,
  },

  // evaluation
  al_metrics_add: {
    parameters: [
      device,
      /* structures */ "i64",
      /* natoms */ memory,
      /* natoms_dtype */ dtype,
      /* energy */ host,
      /* forces */ host,
      /* stress */ host,
      /* energy_threshold */ "f64",
      /* force_threshold */ "f64",
      /* sums */ memory,
    ],
    result: status,
  },

  // matrix product and optimisers
  al_matmul: {
    parameters: [
      device,
      dtype,
      /* transpose_a */ "i32",
      /* transpose_b */ "i32",
      /* m */ "i64",
      /* n */ "i64",
      /* k */ "i64",
      /* a */ memory,
      /* b */ memory,
      /* c */ memory,
      /* accumulate */ "i32",
    ],
    result: status,
  },
  al_grad_norm: {
    parameters: [
      device,
      /* count */ "i32",
      /* parameters */ host,
      /* p */ "f64",
      /* norm */ memory,
    ],
    result: status,
  },
  al_clip_grads: {
    parameters: [
      device,
      /* count */ "i32",
      /* parameters */ host,
      /* clip */ host,
    ],
    result: status,
  },
  al_adam_step: {
    parameters: [
      device,
      /* count */ "i32",
      /* parameters */ host,
      /* step */ "i64",
      /* lr */ "f64",
      /* beta1 */ "f64",
      /* beta2 */ "f64",
      /* eps */ "f64",
      /* weight_decay */ "f64",
      /* decoupled */ "i32",
      /* amsgrad */ "i32",
      /* clip */ host,
    ],
    result: status,
  },
  al_sgd_step: {
    parameters: [
      device,
      /* count */ "i32",
      /* parameters */ host,
      /* step */ "i64",
      /* lr */ "f64",
      /* momentum */ "f64",
      /* weight_decay */ "f64",
      /* nesterov */ "i32",
      /* clip */ host,
    ],
    result: status,
  },
  al_average_update: {
    parameters: [
      device,
      /* count */ "i32",
      /* parameters */ host,
      /* weight */ "f64",
    ],
    result: status,
  },
  al_average_swap: {
    parameters: [
      device,
      /* count */ "i32",
      /* parameters */ host,
      /* in */ "i32",
    ],
    result: status,
  },

  // collectives
  al_origin_check: { parameters: [device, /* origin */ "f64"], result: status },
  al_group_open: {
    parameters: [
      device,
      /* rank */ "i32",
      /* world_size */ "i32",
      /* address */ host,
      /* timeout_ms */ "i64",
      /* blob */ host,
      /* capacity */ "i64",
      /* blob_bytes */ host,
      /* debug */ "i32",
      /* group */ host,
    ],
    result: status,
  },
  al_group_connect: {
    parameters: [group, /* blobs */ host, /* bytes */ "i64"],
    result: status,
    nonblocking: true,
  },
  al_group_close: { parameters: [group], result: status },
  al_all_reduce: {
    parameters: [
      group,
      dtype,
      /* op */ "i32",
      /* count */ "i32",
      /* buffers */ host,
      /* sizes */ host,
      /* origin */ host,
    ],
    result: status,
  },
  al_broadcast: {
    parameters: [
      group,
      /* buffer */ memory,
      /* bytes */ "i64",
      /* root */ "i32",
      /* origin */ host,
    ],
    result: status,
  },
  al_count_all_reduce: {
    parameters: [
      group,
      /* n */ "i32",
      /* counts */ host,
      /* device_counts */ memory,
      /* origin */ host,
      /* ticket */ host,
    ],
    result: status,
  },
  al_count_totals: {
    parameters: [
      device,
      group,
      /* ticket */ "i64",
      /* n */ "i32",
      /* device_counts */ memory,
      /* minimum */ "f64",
      /* divisors */ host,
      /* totals */ memory,
      /* factors */ memory,
    ],
    result: status,
  },
  al_count_drop: { parameters: [group, /* ticket */ "i64"], result: status },
  al_barrier: { parameters: [group], result: status, nonblocking: true },

  // recordings
  al_record_begin: {
    parameters: [device, /* recording */ host],
    result: status,
  },
  al_record_end: { parameters: [recording], result: status },
  al_replay: { parameters: replay, result: status },
  al_replay_on_thread: {
    name: "al_replay",
    parameters: replay,
    result: status,
    nonblocking: true,
  },
  al_recording_close: { parameters: [recording], result: status },
} as const satisfies Deno.ForeignLibraryInterface;

/** The opened functions of a native library. */
export type Symbols = Deno.DynamicLibrary<typeof symbols>["symbols"];
