/** Memory lent by DLPack: its deleters come late and from anywhere. */
#include "shared/dlpack.h"

#include <cstring>
#include <thread>
#include <vector>

#include "library_test.h"
#include "on_device.h"

namespace native {
namespace {

using atomloss::DLManagedTensor;
using atomloss::DLManagedTensorVersioned;

DLManagedTensor* lend(al_device* device, void* memory,
                      const std::vector<int64_t>& shape,
                      int32_t dtype = AL_FLOAT32) {
  void* managed = nullptr;
  succeeds(al_dlpack_export(device, memory, dtype,
                            static_cast<int32_t>(shape.size()), shape.data(), 0,
                            &managed),
           "al_dlpack_export");
  return static_cast<DLManagedTensor*>(managed);
}

void test_struct() {
  Device device;
  OnDevice memory(device, 24);
  const std::vector<int64_t> shape = {2, 3, 1};
  void* managed = nullptr;
  succeeds(al_dlpack_export(device, memory, AL_BFLOAT16, 3, shape.data(), 1,
                            &managed),
           "al_dlpack_export, versioned");
  auto* tensor = static_cast<DLManagedTensorVersioned*>(managed);
  const atomloss::DLTensor& it = tensor->dl_tensor;
  check(tensor->version.major == 1 && tensor->flags == 0, "version, flags");
  check(it.data == memory && it.ndim == 3 && it.byte_offset == 0 &&
            it.device.device_type == atomloss::kDLCPU,
        "the tensor is another");
  check(it.dtype.code == atomloss::kDLBfloat && it.dtype.bits == 16 &&
            it.dtype.lanes == 1,
        "the dtype is another");
  const int64_t strides[] = {3, 1, 1};
  check(memcmp(it.shape, shape.data(), sizeof strides) == 0 &&
            memcmp(it.strides, strides, sizeof strides) == 0,
        "shape or strides are others");
  tensor->deleter(tensor);

  const int bits[] = {32, 64, 16, 16, 32, 64, 8};
  for (int32_t dtype = AL_FLOAT32; dtype <= AL_BOOL; ++dtype) {
    DLManagedTensor* lent = lend(device, memory, {0, 4}, dtype);
    check(lent->dl_tensor.data == nullptr && lent->dl_tensor.ndim == 2 &&
              lent->dl_tensor.dtype.bits == bits[dtype],
          "an empty tensor of dtype %d", dtype);
    lent->deleter(lent);
  }
  DLManagedTensor* scalar = lend(device, memory, {});
  check(scalar->dl_tensor.data == memory, "a scalar");
  scalar->deleter(scalar);
}

void test_refusals() {
  Device device;
  int outside = 0;
  const int64_t shape[] = {1};
  void* managed = nullptr;
  fails(al_dlpack_export(device, &outside, AL_FLOAT32, 1, shape, 0, &managed),
        AL_INVALID_ARGUMENT, "not memory of this device",
        "a loan of unknown memory");
  OnDevice memory(device, 4);
  fails(al_dlpack_export(device, memory, 99, 1, shape, 1, &managed),
        AL_INVALID_ARGUMENT, "dtype 99", "a loan of an unknown dtype");
  void* freed = nullptr;
  succeeds(al_alloc(device, 4, &freed), "al_alloc");
  succeeds(al_free(device, freed), "al_free");
  fails(al_dlpack_export(device, freed, AL_FLOAT32, 1, shape, 0, &managed),
        AL_INVALID_ARGUMENT, "freed before", "a loan of freed memory");
}

void test_freed_before() {
  Device device;
  void* memory = nullptr;
  succeeds(al_alloc(device, 512, &memory), "al_alloc");
  DLManagedTensor* first = lend(device, memory, {4, 32});
  DLManagedTensor* second = lend(device, memory, {128});
  succeeds(al_free(device, memory), "al_free of a lent block");
  fails(al_free(device, memory), AL_INVALID_ARGUMENT, "freed before",
        "a second al_free of a lent block");
  OnDevice other(device, 512);
  check(other != memory, "a lent block is handed out again");
  memset(first->dl_tensor.data, 1, 512);
  std::thread([&] { first->deleter(first); }).join();
  int64_t state[4];
  succeeds(al_memory_state(device, state), "al_memory_state");
  check(state[0] == 2, "%lld blocks in use", static_cast<long long>(state[0]));
  memset(second->dl_tensor.data, 2, 512);
  second->deleter(second);
  OnDevice again(device, 512);
  check(again == memory, "a block that came back is not used again");
}

void test_closed_before() {
  auto* device = new Device;
  void* freed = nullptr;
  void* kept = nullptr;
  succeeds(al_alloc(*device, 512, &freed), "al_alloc");
  succeeds(al_alloc(*device, 512, &kept), "al_alloc");
  DLManagedTensor* a = lend(*device, freed, {128});
  DLManagedTensor* b = lend(*device, kept, {128});
  DLManagedTensor* c = lend(*device, kept, {128});
  succeeds(al_free(*device, freed), "al_free");
  delete device;
  std::vector<std::thread> threads;
  for (DLManagedTensor* lent : {a, b, c})
    threads.emplace_back([lent] {
      // Reading is allowed to both that share a block.
      volatile char byte = static_cast<const char*>(lent->dl_tensor.data)[511];
      static_cast<void>(byte);
      lent->deleter(lent);
    });
  for (std::thread& thread : threads) thread.join();
}

/** Deleters, frees, new blocks and the end of the device, all at once. */
void test_at_once() {
  for (int round = 0; round < 20; ++round) {
    std::vector<std::thread> threads;
    {
      Device device;
      for (int i = 0; i < 3; ++i) {
        void* memory = nullptr;
        succeeds(al_alloc(device, 4096, &memory), "al_alloc");
        memset(memory, i, 4096);
        for (int loan = 0; loan < 3; ++loan) {
          DLManagedTensor* lent = lend(device, memory, {1024});
          threads.emplace_back([lent] { lent->deleter(lent); });
        }
        if (i != 1) succeeds(al_free(device, memory), "al_free");
      }
      for (int i = 0; i < 10; ++i) {
        OnDevice memory(device, 4096);
        memset(memory, i, 4096);
      }
    }
    for (std::thread& thread : threads) thread.join();
  }
}

}  // namespace

void test_dlpack() {
  test_struct();
  test_refusals();
  test_freed_before();
  test_closed_before();
  test_at_once();
}

}  // namespace native
