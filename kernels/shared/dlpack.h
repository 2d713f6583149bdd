/**
 * The structs of DLPack 1.0, through which array libraries lend each other
 * memory, and what a device of either library lends it with.
 *
 * Written from the specification, https://dmlc.github.io/dlpack/latest/c_api.
 */
#ifndef ATOMLOSS_DLPACK_H
#define ATOMLOSS_DLPACK_H

#include <cstdint>
#include <memory>

#include "atomloss.h"
#include "shared/block_cache.h"

namespace atomloss {

struct DLPackVersion {
  uint32_t major, minor;
};

enum DLDeviceType : int32_t { kDLCPU = 1, kDLCUDA = 2 };

struct DLDevice {
  DLDeviceType device_type;
  int32_t device_id;
};

enum DLDataTypeCode : uint8_t {
  kDLInt = 0,
  kDLFloat = 2,
  kDLBfloat = 4,
  kDLBool = 6
};

struct DLDataType {
  uint8_t code, bits;
  uint16_t lanes;
};

struct DLTensor {
  void* data;
  DLDevice device;
  int32_t ndim;
  DLDataType dtype;
  int64_t* shape;
  int64_t* strides; /* in elements */
  uint64_t byte_offset;
};

struct DLManagedTensor {
  DLTensor dl_tensor;
  void* manager_ctx;
  void (*deleter)(DLManagedTensor* self);
};

struct DLManagedTensorVersioned {
  DLPackVersion version;
  void* manager_ctx;
  void (*deleter)(DLManagedTensorVersioned* self);
  uint64_t flags;
  DLTensor dl_tensor;
};

static_assert(sizeof(DLTensor) == 48 && sizeof(DLManagedTensor) == 64 &&
                  sizeof(DLManagedTensorVersioned) == 80,
              "the ABI of DLPack on 64-bit machines");

/** What a lent block needs of its device, for longer than the device lives. */
struct Lender {
  std::shared_ptr<BlockCache> blocks;
  DLDevice device;
  /** Gives a surplus block back to the system, on any thread. */
  void (*release)(void* block, int32_t device_id);
};

/** Written by each library for its devices. */
Lender lender(al_device* device);

}  // namespace atomloss

#endif /* ATOMLOSS_DLPACK_H */
