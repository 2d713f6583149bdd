/**
 * The C ABI of atomloss: one header, two libraries.
 *
 * libatomloss_cpu.so (g++, OpenBLAS, Gloo) and libatomloss_cuda.so
 * (nvcc, cuBLAS, NCCL) export exactly these functions, so that what is above
 * them needs one symbol table and never asks which one it has.
 *
 * Rules that hold for every function
 * - It returns an al_status. 0 is success. Otherwise the low 8 bits are one of
 *   al_status_code and the upper bits a ticket for the message, which
 *   al_take_error() hands out once. Tickets, not a thread-local string, because
 *   Deno runs nonblocking calls on other threads.
 * - Arrays are dense and row-major. Shapes have been checked by the caller.
 *   "device memory" comes from al_alloc(); on the CPU that is ordinary memory.
 * - Work on device memory is enqueued in call order. Only al_synchronize(),
 *   al_download_wait(), al_release_memory(), al_group_connect() and
 * al_barrier() wait; they are the ones to call from a thread that may block.
 * The CPU library is free to have finished when a call returns, and its
 * collectives do hold their caller.
 * - Sums are taken in float64 in an order that depends on the sizes alone, so
 *   the same input gives the same bits.
 * - A collective may fail long after it was enqueued, and what was computed
 *   from it is then worth nothing. The library numbers the collectives of a
 *   device; whoever has tensors keeps an origin of each, the number of the
 *   latest collective that it was computed from, and passes it where a tensor
 *   is read by the host or goes into a collective.
 */
#ifndef ATOMLOSS_H
#define ATOMLOSS_H

#include <math.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Raised whenever a signature or a meaning below changes. */
#define AL_ABI_VERSION 9

typedef int32_t al_status;

typedef enum {
  AL_OK = 0,
  AL_INVALID_ARGUMENT = 1,
  AL_OUT_OF_MEMORY = 2,
  AL_NO_DEVICE = 3,
  AL_DEVICE_FAILED = 4,     /* CUDA or cuBLAS reported an error */
  AL_COLLECTIVE_FAILED = 5, /* Gloo or NCCL reported an error, or a peer died */
  AL_TIMEOUT = 6,           /* a collective did not finish in time */
  AL_INTERNAL = 7
} al_status_code;

typedef enum {
  AL_FLOAT32 = 0,
  AL_FLOAT64 = 1,
  AL_FLOAT16 = 2,
  AL_BFLOAT16 = 3,
  AL_INT32 = 4,
  AL_INT64 = 5,
  AL_BOOL = 6
} al_dtype;

/** The origin of what no collective of the device went into. */
#define AL_ORIGIN_NONE 0.0

/**
 * Numbers of collectives that are enqueued after n failures are at least n
 * times as large. From then on the latest of two origins may be good where the
 * other is lost, so each is to be asked for by al_origin_check().
 */
#define AL_ORIGIN_GENERATION 4294967296.0

/** An origin of what may be computed from any collective until now. */
#define AL_ORIGIN_UNKNOWN HUGE_VAL

typedef enum { AL_SUM = 0, AL_AVG = 1, AL_MAX = 2, AL_MIN = 3 } al_reduce_op;

/** What one entry of an unreduced loss belongs to. */
typedef enum {
  AL_PER_ELEMENT = 0, /* as many entries as pred has elements */
  AL_PER_ROW = 1      /* one entry per row of pred */
} al_loss_kind;

typedef struct al_device al_device;
typedef struct al_group al_group;
typedef struct al_recording al_recording;

/**
 * Where a reduced loss goes, in device memory: `value` is a double or, in the
 * first 4 bytes, a float, which a sum of half-precision numbers cannot overflow
 * either. The rest is what there is to say of its input, where an entry counts.
 */
typedef struct {
  double value;
  int64_t inputs;  /* numbers of pred that were NaN or infinite */
  int64_t targets; /* numbers of target that were */
  int64_t factors; /* weights and scales that were */
  int64_t natoms;  /* numbers of natoms that describe no rows */
  int64_t groups;  /* rows of a group that there is not */
} al_loss_result;

/**
 * What evaluation accumulates, in device memory: all doubles, so that one
 * all-reduce adds those of all replicas; counts are exact up to 2^53. Every
 * metric is a quotient of two of them. See al_metrics_add.
 */
typedef struct {
  /* of atoms whose forces are compared; d = pred - target of an atom */
  double atoms;
  double forces_abs;       /* |d_x| + |d_y| + |d_z| */
  double forces_square;    /* d_x^2 + d_y^2 + d_z^2 */
  double forces_norm;      /* ||d|| */
  double forces_cosine;    /* cosine of the angle between the two forces */
  double forces_magnitude; /* | ||pred|| - ||target|| | */
  double forces_nonfinite; /* components with a NaN or infinity in either */
  /* of structures; d = pred - target of the energy */
  double structures;
  double energies; /* structures whose energies are compared */
  double energy_abs;
  double energy_square;
  double energy_within;    /* |d| < energy_threshold */
  double energy_nonfinite; /* NaN or infinite in either */
  double energy_per_atom_abs;
  double energies_per_atom; /* energies of structures with atoms */
  double forces_judged; /* structures with an atom whose forces are compared */
  double forces_within; /* of these, all |d_x|, ... < force_threshold */
  double both_judged;   /* of these, structures whose energies are compared */
  double both_within;   /* of these, energy and forces within */
  /* of components of stresses that are compared */
  double stresses;
  double stress_abs;
  double stress_square;
  double stress_nonfinite;
  /* of calls */
  double bad_natoms; /* calls whose natoms do not describe the forces */
} al_metrics_sums;

/* ---- library -------------------------------------------------------------*/

/** AL_ABI_VERSION of the library that was loaded. */
int32_t al_abi_version(void);

/** JSON object of the libraries in use and their versions, NUL-terminated. */
al_status al_versions(char* text, int64_t capacity);

/**
 * Hash of the sources that the library is made of, NUL-terminated: what is
 * compiled to be linked with it must be made of the same.
 */
al_status al_sources(char* text, int64_t capacity);

/** Copies the message of a failed status, NUL-terminated, and forgets it. */
void al_take_error(al_status status, char* text, int64_t capacity);

/* ---- device --------------------------------------------------------------*/

/** How many devices there are. The CPU is one; without a driver, CUDA has 0. */
al_status al_device_count(int32_t* count);

al_status al_device_open(int32_t ordinal, al_device** device);
al_status al_device_close(al_device* device);

/**
 * Waits until everything enqueued on the device so far is done. Fails if a
 * collective from this number on has failed.
 */
al_status al_synchronize(al_device* device, double since);

/**
 * *stream = the cudaStream_t on which the device's work is enqueued, for others
 * to order theirs with; NULL on the CPU, where work is done when a call
 * returns.
 */
al_status al_device_stream(al_device* device, void** stream);

/**
 * state[0] blocks handed out by al_alloc that are not yet freed, or still
 * exported by al_dlpack_export, [1] their bytes,
 * [2] bytes kept for reuse, [3] bytes the device has free.
 */
al_status al_memory_state(al_device* device, int64_t* state);

/**
 * Gives what is kept for reuse back to the system, on a GPU also what other
 * devices of this process keep of it. Waits for what was enqueued.
 */
al_status al_release_memory(al_device* device);

/* ---- memory --------------------------------------------------------------*/

/** At least `bytes` (0 is fine) of uninitialised memory, 256-byte aligned. */
al_status al_alloc(al_device* device, int64_t bytes, void** memory);

/** Keeps the block for reuse; work already enqueued may still use it. */
al_status al_free(al_device* device, void* memory);

/** The host buffer may be changed as soon as the call returns. */
al_status al_upload(al_device* device, void* memory, const void* host,
                    int64_t bytes);

/**
 * Takes the value that memory has at this point of the device's order.
 * *ticket == 0: the bytes are in host already. Otherwise they are there once
 * al_download_wait(device, ticket, host, bytes) has returned, which must be
 * called exactly once. Both fail if what has this origin is lost.
 */
al_status al_download(al_device* device, const void* memory, void* host,
                      int64_t bytes, double origin, int64_t* ticket);
al_status al_download_wait(al_device* device, int64_t ticket, void* host,
                           int64_t bytes, double origin);

al_status al_zero(al_device* device, void* memory, int64_t bytes);
al_status al_copy(al_device* device, void* destination, const void* source,
                  int64_t bytes);

/**
 * *managed = a DLManagedTensorVersioned of DLPack 1.0, or without `versioned` a
 * DLManagedTensor, on memory of al_alloc(). It keeps the block in use until its
 * deleter is called, once and from any thread, also when al_free() or
 * al_device_close() come first. A consumer orders its reads behind the device's
 * stream; it calls the deleter when its own work is done, or the stream has
 * been made to wait for that work: the next al_alloc() may hand out the block.
 */
al_status al_dlpack_export(al_device* device, void* memory, int32_t dtype,
                           int32_t ndim, const int64_t* shape,
                           int32_t versioned, void** managed);

/* ---- losses --------------------------------------------------------------*/

/** Parameters of a loss at most. */
#define AL_MAX_PARAMETERS 16

/** Number and kind of a loss of loss_ops.h by its name ("mae"). */
al_status al_loss_find(const char* name, int32_t* loss, int32_t* kind);

/**
 * Unreduced loss. pred and target are [rows, cols]; natoms is [rows] in
 * natoms_dtype (AL_INT32 or AL_INT64) or NULL for a loss that does not use it;
 * parameters is host memory, [AL_MAX_PARAMETERS], in the order of the loss's;
 * out is [rows, cols] or [rows] by the kind of the loss, in the dtype of pred.
 */
al_status al_loss_forward(al_device* device, int32_t loss, int32_t dtype,
                          const void* pred, const void* target,
                          const void* natoms, int32_t natoms_dtype,
                          int64_t rows, int64_t cols, const double* parameters,
                          void* out);

/**
 * grad = grad_output * d loss / d pred. grad_output has the shape of the
 * unreduced loss; NULL means ones.
 */
al_status al_loss_backward(al_device* device, int32_t loss, int32_t dtype,
                           const void* pred, const void* target,
                           const void* natoms, int32_t natoms_dtype,
                           int64_t rows, int64_t cols, const double* parameters,
                           const void* grad_output, void* grad);

/**
 * One number for each entry of [rows, cols], where that of row i and column j
 * is values[i * row_stride + j * col_stride].
 */
typedef struct {
  const void* values; /* NULL: there are none */
  void* by_row;       /* not NULL: values is [structures]; al_count_samples
                         writes the number of each row here, [rows] */
  int64_t row_stride;
  int64_t col_stride;
} al_spread;

/** What a target that is not finite is. */
typedef enum {
  AL_TARGETS_AS_THEY_ARE = 0,
  AL_TARGETS_FINITE = 1, /* counts as 0, as does a value that is NaN */
  AL_TARGETS_LABELS = 2  /* the same, but NaN: the entry has no label */
} al_targets;

/** What al_count_samples counts. */
typedef enum {
  AL_ENTRIES = 0,
  AL_WEIGHTS = 1,              /* adds the entries' weights instead */
  AL_STRUCTURES_WITH_LOSS = 2, /* with an entry whose loss is not 0 */
  AL_STRUCTURES = 3
} al_samples;

/**
 * A loss to be reduced, one of those that share a launch. The struct is host
 * memory, what it points at device memory.
 *
 * An entry is an element, or a row for a loss of rows. It counts unless its
 * mask is 0 or it has no label, which takes all targets of a row. It then adds
 * weight * L(scale * pred, scale * target), with a weight of 1, or the product
 * of those that there are.
 */
typedef struct {
  const void* pred;   /* [rows, cols], in dtype */
  const void* target; /* like pred */
  const void* natoms; /* in natoms_dtype: [rows] for a loss that uses it, where
                         a row with less than 1 adds nothing; [structures] for
                         what is of structures; or NULL */
  void* grad;         /* like pred; NULL: not wanted */
  al_loss_result* result;
  int64_t rows;
  int64_t cols;
  int64_t structures;
  int32_t loss;
  int32_t dtype;
  int32_t natoms_dtype; /* AL_INT32 or AL_INT64 */
  int32_t value_dtype;  /* of the result: AL_FLOAT32 or AL_FLOAT64 */
  double parameters[AL_MAX_PARAMETERS];

  /* What an entry weighs. Numbers are double for float64, otherwise float. */
  al_spread mask; /* uint8_t: 0 where an entry does not count */
  al_spread weights;
  al_spread scale;
  void* structure_weights; /* [rows]: 1 / (rows of the structure that count),
                              which al_count_samples writes if it counts
                              structures */
  int32_t targets;         /* al_targets */

  /* What group a row is of: of one if there is no more. */
  int32_t group_count;  /* at least 1 */
  const void* groups;   /* [rows] in groups_dtype, or NULL */
  int32_t groups_dtype; /* AL_INT32 or AL_INT64 */

  /* What the sum of a group is divided by. */
  int32_t samples;       /* al_samples */
  const double* factors; /* [group_count]; NULL: 1 */
  double coefficient;

  int64_t* wrong; /* [2]: how many of natoms of structures, and of groups, are
                     wrong, which al_count_samples writes; if any are, no entry
                     counts. NULL: there is nothing that could be */
} al_loss_task;

/**
 * counts (device memory), [group_count] of the first task, then of the others:
 * the samples of each group by the task's `samples`. Also writes
 * structure_weights, the rows' numbers of what is spread over structures, and
 * `wrong`.
 */
al_status al_count_samples(al_device* device, int32_t count,
                           const al_loss_task* tasks, double* counts);

/**
 * The fused pass, one launch for all tasks: reads pred and target once and
 * writes for each
 *   result->value = coefficient * sum over groups of
 *                   factor * sum of the entries' weighted losses
 *   grad          = its gradient with respect to pred
 * In pred NaN counts as 0 and an infinity as the largest finite number of its
 * sign; the gradient there is 0. A weight or scale that is not finite counts as
 * 0. result counts them.
 *
 * total, if not NULL, gets the sums over the tasks; its value is a double.
 */
al_status al_loss_reduce(al_device* device, int32_t count,
                         const al_loss_task* tasks, al_loss_result* total);

/**
 * result->value = coefficient * *factor (NULL: 1) * sum of x, a double if x is
 * float64 and a float otherwise; there is nothing else to say.
 */
al_status al_sum(al_device* device, int32_t dtype, const void* x, int64_t n,
                 double coefficient, const double* factor,
                 al_loss_result* result);

/** out[i] = coefficient * *factor (NULL: 1), for every i < n. */
al_status al_fill(al_device* device, int32_t dtype, void* out, int64_t n,
                  double coefficient, const double* factor);

/** out = x with NaN as 0 and infinities as the largest finite numbers. */
al_status al_nan_to_num(al_device* device, int32_t dtype, const void* x,
                        int64_t n, void* out, int64_t* nonfinite);

/** grad[i] = 0 wherever x[i] is NaN or infinite. */
al_status al_zero_nonfinite(al_device* device, int32_t dtype, const void* x,
                            int64_t n, void* grad);

/* ---- evaluation ----------------------------------------------------------*/

/** Predictions and what they should be, row by row: host memory, with addresses
 * of device memory. */
typedef struct {
  const void* pred;   /* [rows, cols], in dtype */
  const void* target; /* like pred */
  const void* mask; /* bool [rows], 0 for rows that are not compared; or NULL */
  int64_t rows;
  int32_t cols;
  int32_t dtype;
  int32_t ignore_nan; /* a NaN of target is no label, and is not compared */
  int32_t reserved;   /* 0 */
} al_compared;

/**
 * Adds a batch to *sums, in device memory. natoms is [structures] in
 * natoms_dtype (AL_INT32 or AL_INT64). Energies are [structures, 1], forces
 * [atoms, 3], structure after structure, stresses [structures, 6 or 9]; each
 * may be NULL. Forces are compared by atoms, which need all three labels. All
 * is computed in float64. A NaN that is compared stays a NaN and is not within
 * any threshold.
 *
 * What natoms holds is not trusted: if any is negative, or they do not add up
 * to the rows of the forces, nothing out of bounds is touched and bad_natoms
 * counts this call.
 */
al_status al_metrics_add(al_device* device, int64_t structures,
                         const void* natoms, int32_t natoms_dtype,
                         const al_compared* energy, const al_compared* forces,
                         const al_compared* stress, double energy_threshold,
                         double force_threshold, al_metrics_sums* sums);

/* ---- matrix product and optimisers ---------------------------------------*/

/**
 * c = op(a) op(b), plus c where accumulate is not 0. op(a) is [m, k], op(b)
 * [k, n], c [m, n]; transpose_a says that a is stored as [k, m], and so on.
 * Half-precision products accumulate in float32.
 */
al_status al_matmul(al_device* device, int32_t dtype, int32_t transpose_a,
                    int32_t transpose_b, int64_t m, int64_t n, int64_t k,
                    const void* a, const void* b, void* c, int32_t accumulate);

/** States that an optimiser keeps of a parameter at most. */
#define AL_MAX_STATES 3

/**
 * A parameter of an optimiser: host memory, with addresses of device memory.
 * States are float32 for half-precision parameters, of the parameters' dtype
 * otherwise, and start as zeros.
 */
typedef struct {
  void* param;                 /* [size], in dtype */
  void* grad;                  /* like param */
  void* states[AL_MAX_STATES]; /* [size] each, as many as are used */
  /* of a half-precision param, or NULL: [size] float32, which is stepped in its
     place and rounded to it. Starts as zeros: a param that is not its master
     rounded is taken as it is. */
  float* master;
  int64_t size;
  int32_t dtype;
  int32_t reserved; /* 0 */
} al_parameter;

/**
 * What gradients are multiplied by before they are used:
 * min(1, max_norm / (norm->value + 1e-6)). The struct is host memory.
 */
typedef struct {
  const al_loss_result* norm; /* device memory, of al_grad_norm */
  double max_norm;
  int32_t skip_nonfinite; /* where the norm is not finite, nothing is changed */
  int32_t reserved;       /* 0 */
} al_clip;

/**
 * norm->value, a double = the norm of all gradients together: the root of the
 * sum of |g|^p, in float64; of p = infinity the largest |g|. norm->inputs is
 * 1 if that is NaN or infinite. One launch.
 */
al_status al_grad_norm(al_device* device, int32_t count,
                       const al_parameter* parameters, double p,
                       al_loss_result* norm);

/** The gradients of all parameters, clipped in place. */
al_status al_clip_grads(al_device* device, int32_t count,
                        const al_parameter* parameters, const al_clip* clip);

/**
 * One step for `count` parameters at once, of any floating dtypes: one launch,
 * so of all of them, or, if it fails, of none. Same arithmetic as
 * torch.optim.Adam, with the states exp_avg, exp_avg_sq and, with amsgrad,
 * max_exp_avg_sq. weight_decay is L2, or decoupled (AdamW) if decoupled is not
 * 0. step counts from 1. Gradients are clipped by clip, or not if it is NULL.
 */
al_status al_adam_step(al_device* device, int32_t count,
                       const al_parameter* parameters, int64_t step, double lr,
                       double beta1, double beta2, double eps,
                       double weight_decay, int32_t decoupled, int32_t amsgrad,
                       const al_clip* clip);

/** As torch.optim.SGD; with momentum the state is the momentum buffer. */
al_status al_sgd_step(al_device* device, int32_t count,
                      const al_parameter* parameters, int64_t step, double lr,
                      double momentum, double weight_decay, int32_t nesterov,
                      const al_clip* clip);

/** states[0] += weight * (param - states[0]), for all parameters at once. */
al_status al_average_update(al_device* device, int32_t count,
                            const al_parameter* parameters, double weight);

/**
 * Puts states[0] into param, and what was there into states[1]; without `in`,
 * states[1] into param.
 */
al_status al_average_swap(al_device* device, int32_t count,
                          const al_parameter* parameters, int32_t in);

/* ---- collectives ---------------------------------------------------------*/

/**
 * A process group is made in two steps, so that the rendezvous can stay in
 * TypeScript: every replica opens the group and gets a blob to publish (socket
 * addresses for Gloo; for NCCL the unique id, from rank 0 alone), then connects
 * with the blobs of all ranks, concatenated in rank order.
 *
 * address is the address of this host that its peers can reach. timeout_ms
 * bounds al_group_connect and each collective. *blob_bytes is the size of the
 * blob: at most capacity, and the same on every rank. With debug every
 * collective first compares the replicas' calls, and waits for that.
 */
al_status al_group_open(al_device* device, int32_t rank, int32_t world_size,
                        const char* address, int64_t timeout_ms, void* blob,
                        int64_t capacity, int64_t* blob_bytes, int32_t debug,
                        al_group** group);
al_status al_group_connect(al_group* group, const void* blobs, int64_t bytes);

/**
 * Its device may have been closed before. Returns at once; what peers have yet
 * to receive still arrives, for which the process waits when it ends.
 */
al_status al_group_close(al_group* group);

/**
 * Fails if what has this origin is lost, since a collective that it was
 * computed from is known to have failed.
 */
al_status al_origin_check(al_device* device, double origin);

/**
 * `count` buffers of one dtype (floating or integer; AL_AVG floating only)
 * reduced in place as one collective. The two arrays are host memory. *origin
 * is that of the buffers, before and after: also if the call fails, which they
 * are lost by if it has touched them.
 */
al_status al_all_reduce(al_group* group, int32_t dtype, int32_t op,
                        int32_t count, void* const* buffers,
                        const int64_t* sizes, double* origin);

al_status al_broadcast(al_group* group, void* buffer, int64_t bytes,
                       int32_t root, double* origin);

/**
 * Starts to add up counts over the replicas, in one collective: counts[i] of
 * host memory, which wait for no work of the device, or device_counts[i] of
 * device memory if counts is NULL. Nothing waits for it before al_count_totals
 * is called with *ticket, which must be done exactly once. Doubles, since sums
 * of weights are among them: counts are exact up to 2^53. device_counts may be
 * freed when the call returns. *origin is that of device_counts, and then of
 * the sums.
 */
al_status al_count_all_reduce(al_group* group, int32_t n, const double* counts,
                              const double* device_counts, double* origin,
                              int64_t* ticket);

/** What a factor is made of, in host memory: one for each count. */
typedef struct {
  double group_weight;
  int32_t groups;     /* those of a task of groups, with its first; -1 with its
                         others; 0: of a task without */
  int32_t of_weights; /* 1: a sum of weights, of any size */
} al_divisor;

/**
 * totals[i] (device memory) = the i-th sum N behind the ticket, and factors[i]:
 *   1 / N, with N at least `minimum`
 *   1 / N, and 0 where N is 0, for a sum of weights
 *   c / N / (sum of c over the groups with N > 0) for a group of weight c; 0
 *   where N or that sum is 0
 * divisors NULL: all are of the first kind. What reads them on this device
 * afterwards is ordered behind the collective. group NULL: of device_counts,
 * those of this replica alone.
 */
al_status al_count_totals(al_device* device, al_group* group, int64_t ticket,
                          int32_t n, const double* device_counts,
                          double minimum, const al_divisor* divisors,
                          double* totals, double* factors);

/**
 * Gives a ticket of al_count_all_reduce back whose counts nobody needs, instead
 * of al_count_totals.
 */
al_status al_count_drop(al_group* group, int64_t ticket);

/** Returns when every replica has called it and the device is idle. */
al_status al_barrier(al_group* group);

/* ---- recordings ----------------------------------------------------------*/

/**
 * From here on to al_record_end() what would be enqueued on the device, or by
 * its groups, is put on a list instead, with a copy of the host memory that it
 * is given; memory is handed out and taken back as always. Not to be called for
 * what waits or gives something to the host: downloads, barriers. A ticket of
 * counts is good for the same recording alone.
 */
al_status al_record_begin(al_device* device, al_recording** recording);
al_status al_record_end(al_recording* recording);

/**
 * Makes the calls of the list, in their order, so many times, until one fails.
 * What they use must be there still: memory, groups and the device. numbers is
 * host memory, [times, n], of those that each replay is given anew in the order
 * of the calls: step and lr of al_adam_step and al_sgd_step, weight of
 * al_average_update. *done = how many of them calls that succeeded have taken.
 * *origin is that of all that the calls read, and then of all that they write;
 * also if one fails.
 */
al_status al_replay(al_recording* recording, int64_t times,
                    const double* numbers, double* origin, int64_t* done);

/** Its device may have been closed before. */
al_status al_recording_close(al_recording* recording);

#ifdef __cplusplus
}
#endif

#endif /* ATOMLOSS_H */
