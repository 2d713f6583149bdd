/**
 * Tensors lent to other libraries by DLPack. The struct that the borrower holds
 * and its deleter are made here and not in TypeScript, because a borrower may
 * call the deleter on any thread, and after the device is closed. For both
 * libraries.
 */
#include "shared/dlpack.h"

#include <vector>

#include "shared/status.h"

namespace atomloss {
namespace {

DLDataType data_type(int32_t dtype) {
  switch (dtype) {
    case AL_FLOAT32:
      return {kDLFloat, 32, 1};
    case AL_FLOAT64:
      return {kDLFloat, 64, 1};
    case AL_FLOAT16:
      return {kDLFloat, 16, 1};
    case AL_BFLOAT16:
      return {kDLBfloat, 16, 1};
    case AL_INT32:
      return {kDLInt, 32, 1};
    case AL_INT64:
      return {kDLInt, 64, 1};
    case AL_BOOL:
      return {kDLBool, 8, 1};
  }
  throw al_error(al_fail(AL_INVALID_ARGUMENT, "dtype %d is unknown", dtype));
}

/** A loan: the struct that the borrower sees, and all that it points at. */
template <class Managed>
struct Loan {
  Managed managed{};
  Lender lender;
  void* block;
  std::vector<int64_t> shape, strides;

  Loan(const Lender& lender, void* block, int32_t dtype, int32_t ndim,
       const int64_t* lengths)
      : lender(lender),
        block(block),
        shape(lengths, lengths + ndim),
        strides(static_cast<size_t>(ndim)) {
    int64_t size = 1;
    for (int32_t i = ndim - 1; i >= 0; --i) {
      strides[i] = size;
      size *= shape[i];
    }
    DLTensor& tensor = managed.dl_tensor;
    // The specification wants NULL where there is nothing to point at.
    tensor.data = size == 0 ? nullptr : block;
    tensor.device = lender.device;
    tensor.ndim = ndim;
    tensor.dtype = data_type(dtype);
    tensor.shape = shape.data();
    tensor.strides = strides.data();
    managed.manager_ctx = this;
    managed.deleter = end;
  }

  static void end(Managed* managed) noexcept {
    const std::unique_ptr<Loan> loan(static_cast<Loan*>(managed->manager_ctx));
    const Lender& lender = loan->lender;
    if (lender.blocks->unshare(loan->block))
      lender.release(loan->block, lender.device.device_id);
  }
};

/** Shares the block with a borrower, from now until the deleter is called. */
template <class Managed>
Managed* lend(std::unique_ptr<Loan<Managed>> loan) {
  if (!loan->lender.blocks->share(loan->block))
    throw al_error(al_fail(
        AL_INVALID_ARGUMENT,
        "%p is not memory of this device, or was freed before", loan->block));
  return &loan.release()->managed;
}

}  // namespace
}  // namespace atomloss

al_status al_dlpack_export(al_device* device, void* memory, int32_t dtype,
                           int32_t ndim, const int64_t* shape,
                           int32_t versioned, void** managed) {
  using namespace atomloss;
  return al_guard([&]() -> al_status {
    const Lender from = lender(device);
    if (versioned) {
      auto loan = std::make_unique<Loan<DLManagedTensorVersioned>>(
          from, memory, dtype, ndim, shape);
      loan->managed.version = {1, 0};
      *managed = lend(std::move(loan));
    } else {
      *managed = lend(std::make_unique<Loan<DLManagedTensor>>(
          from, memory, dtype, ndim, shape));
    }
    return AL_OK;
  });
}
