/**
 * Evaluation on the GPU: three small launches, one for a batch without forces,
 * and nothing that waits. Here the launcher; the kernels are in
 * metrics_kernels.cuh.
 */
#include "device.cuh"
#include "metrics_kernels.cuh"

namespace atomloss {
namespace {

/** Forces of a batch. */
struct Forces {
  int32_t dtype;
  const void* pred;
  const void* target;
  const uint8_t* mask;
  int64_t atoms;
  double threshold;
};

/** The first two launches. */
al_status launch_forces(al_device* device, const Natoms& natoms,
                        const Forces& forces, const Structures& structures,
                        AtomSums* partials, int blocks) {
  const cudaStream_t stream = device->compute;
  launch_kernel(metrics_offsets, 1, kMetricsThreads, stream, natoms,
                forces.atoms, forces.mask != nullptr, structures);
  return with_float_type(forces.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    launch_kernel(metrics_forces<S>, blocks, kMetricsThreads, stream,
                  static_cast<const S*>(forces.pred),
                  static_cast<const S*>(forces.target), forces.mask,
                  forces.atoms, forces.threshold, structures, partials);
    return static_cast<al_status>(AL_OK);
  });
}

}  // namespace
}  // namespace atomloss

using namespace atomloss;

al_status al_metrics_add(al_device* device, int64_t structures,
                         const void* natoms, int32_t natoms_dtype,
                         int32_t energy_dtype, const void* energy_pred,
                         const void* energy_target, int64_t atoms,
                         int32_t forces_dtype, const void* forces_pred,
                         const void* forces_target, const void* mask,
                         double energy_threshold, double force_threshold,
                         al_metrics_sums* sums) {
  return al_guard([&]() -> al_status {
    if (al_status bad = check_metrics(structures, atoms, natoms_dtype))
      return bad;
    const CurrentDevice current(device->ordinal);
    const Natoms counts = {natoms, natoms_dtype == AL_INT64};
    const bool has_forces = forces_pred != nullptr;
    // The grid follows from the sizes alone, and with it the order of the sums.
    const int blocks =
        has_forces
            ? device->grid((atoms + kMetricsThreads - 1) / kMetricsThreads)
            : 0;
    const int64_t partial_bytes = blocks * int64_t{sizeof(AtomSums)};
    const int64_t offset_bytes = (structures + 1) * int64_t{sizeof(int64_t)};
    const ScopedBlock scratch(
        device, has_forces ? partial_bytes + offset_bytes +
                                 structures * int64_t{sizeof(unsigned)}
                           : 0);
    auto* const partials = static_cast<AtomSums*>(scratch.memory());
    Structures all = {structures, nullptr, nullptr};
    if (has_forces) {
      auto* const bytes = static_cast<uint8_t*>(scratch.memory());
      all.offsets = reinterpret_cast<int64_t*>(bytes + partial_bytes);
      all.marks =
          reinterpret_cast<unsigned*>(bytes + partial_bytes + offset_bytes);
      const Forces forces = {forces_dtype,  forces_pred,
                             forces_target, static_cast<const uint8_t*>(mask),
                             atoms,         force_threshold};
      if (al_status bad =
              launch_forces(device, counts, forces, all, partials, blocks))
        return bad;
    }
    // Without energies the dtype does not matter.
    return with_float_type(
        energy_pred ? energy_dtype : AL_FLOAT64, [&](auto type) {
          using S = typename decltype(type)::type;
          launch_kernel(
              metrics_finish<S>, 1, kMetricsThreads, device->compute, counts,
              atoms, all, partials, blocks, static_cast<const S*>(energy_pred),
              static_cast<const S*>(energy_target), energy_threshold, sums);
          return static_cast<al_status>(AL_OK);
        });
  });
}
