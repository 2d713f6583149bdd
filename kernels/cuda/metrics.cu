/**
 * Evaluation on the GPU: three small launches, one for a batch without forces,
 * and nothing that waits. Here the launcher; the kernels are in
 * metrics_kernels.cuh.
 */
#include "device.cuh"
#include "metrics_kernels.cuh"

namespace atomloss {
namespace {

/** The first two launches. */
al_status launch_forces(al_device* device, const Natoms& natoms,
                        const al_compared& forces, double threshold,
                        const Structures& structures, AtomSums* partials,
                        int blocks) {
  const cudaStream_t stream = device->compute;
  launch_kernel(metrics_offsets, 1, kMetricsThreads, stream, natoms,
                forces.rows, is_selective(forces), structures);
  return with_float_type(forces.dtype, [&](auto type) {
    using S = typename decltype(type)::type;
    launch_kernel(metrics_forces<S>, blocks, kMetricsThreads, stream, forces,
                  threshold, structures, partials);
    return static_cast<al_status>(AL_OK);
  });
}

}  // namespace
}  // namespace atomloss

using namespace atomloss;

al_status al_metrics_add(al_device* device, int64_t structures,
                         const void* natoms, int32_t natoms_dtype,
                         const al_compared* energy, const al_compared* forces,
                         const al_compared* stress, double energy_threshold,
                         double force_threshold, al_metrics_sums* sums) {
  AL_RECORD(device, al_metrics_add, device, structures, natoms, natoms_dtype,
            copies(energy, 1), copies(forces, 1), copies(stress, 1),
            energy_threshold, force_threshold, sums);
  return al_guard([&]() -> al_status {
    const al_compared energies = or_none(energy), atoms = or_none(forces),
                      stresses = or_none(stress);
    if (al_status bad =
            check_metrics(structures, natoms_dtype, energies, atoms, stresses))
      return bad;
    const CurrentDevice current(device->ordinal);
    const Natoms counts = {natoms, natoms_dtype == AL_INT64};
    const bool has_forces = atoms.pred != nullptr;
    // The grid follows from the sizes alone, and with it the order of the sums.
    const int blocks =
        has_forces
            ? device->grid((atoms.rows + kMetricsThreads - 1) / kMetricsThreads)
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
      if (al_status bad = launch_forces(device, counts, atoms, force_threshold,
                                        all, partials, blocks))
        return bad;
    }
    launch_kernel(metrics_finish, 1, kMetricsThreads, device->compute, counts,
                  atoms.rows, all, partials, blocks, energies, stresses,
                  energy_threshold, sums);
    return AL_OK;
  });
}
