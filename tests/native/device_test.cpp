/** Devices, their memory, and statuses. */
#include <cstdio>
#include <cstring>
#include <vector>

#include "array.h"
#include "library_test.h"
#include "on_device.h"

namespace native {
namespace {

void test_library() {
  check(al_abi_version() == AL_ABI_VERSION, "the ABI version differs");
  char text[512];
  succeeds(al_versions(text, sizeof text), "al_versions");
  check(text[0] == '{' && text[strlen(text) - 1] == '}', "versions: %s", text);
  succeeds(al_versions(text, 8), "al_versions of 8 bytes");
  check(strlen(text) == 7, "versions of 8 bytes: %s", text);
  succeeds(al_sources(text, sizeof text), "al_sources");
  int32_t count = 0;
  succeeds(al_device_count(&count), "al_device_count");
  check(count == 1, "%d devices", count);
  al_device* none = nullptr;
  fails(al_device_open(1, &none), AL_NO_DEVICE, "not 1", "al_device_open(1)");
  fails(al_device_open(-1, &none), AL_NO_DEVICE, "not -1",
        "al_device_open(-1)");
}

void test_messages() {
  al_device* none = nullptr;
  const al_status first = al_device_open(7, &none);
  char text[8];
  memset(text, 'x', sizeof text);
  al_take_error(first, nullptr, 0);
  al_take_error(first, text, 4);
  check(memcmp(text, "the\0xxxx", 8) == 0, "a message of 4 bytes: %s", text);
  check(message(first) == "no message is kept", "a message is given twice");
  check(message(AL_OK) == "no message is kept", "success has a message");
  // Only so many are kept.
  std::vector<al_status> statuses;
  statuses.reserve(300);
  for (int32_t i = 0; i < 300; ++i)
    statuses.push_back(al_device_open(i + 1, &none));
  check(message(statuses.front()) == "no message is kept",
        "the oldest of 300 messages is kept");
  fails(statuses.back(), AL_NO_DEVICE, "not 300", "the latest of 300 messages");
  for (const al_status status : statuses) message(status);
}

void test_memory() {
  Device device;
  int64_t state[4];
  const auto blocks = [&] {
    succeeds(al_memory_state(device, state), "al_memory_state");
    return state[0];
  };
  check(blocks() == 0 && state[1] == 0 && state[2] == 0 && state[3] > 0,
        "a new device holds memory");
  for (const int64_t bytes : {0, 1, 255, 256, 257, 5000, 1 << 20}) {
    void* memory = nullptr;
    if (!succeeds(al_alloc(device, bytes, &memory), "al_alloc")) continue;
    check(reinterpret_cast<uintptr_t>(memory) % 256 == 0, "%p is not aligned",
          memory);
    memset(memory, 1, static_cast<size_t>(bytes));
    check(blocks() == 1 && state[1] >= bytes, "%lld blocks of %lld bytes",
          static_cast<long long>(state[0]), static_cast<long long>(state[1]));
    succeeds(al_free(device, memory), "al_free");
    fails(al_free(device, memory), AL_INVALID_ARGUMENT, "freed before",
          "a second al_free");
    check(blocks() == 0 && state[1] == 0 && state[2] >= bytes,
          "a freed block is in use");
    void* again = nullptr;
    succeeds(al_alloc(device, bytes, &again), "al_alloc");
    check(again == memory, "a freed block is not used again");
    succeeds(al_free(device, again), "al_free");
  }
  int outside = 0;
  fails(al_free(device, &outside), AL_INVALID_ARGUMENT, "not memory",
        "al_free of unknown memory");
  fails(al_free(device, nullptr), AL_INVALID_ARGUMENT, "not memory",
        "al_free of NULL");
  void* memory = nullptr;
  fails(al_alloc(device, -1, &memory), AL_INVALID_ARGUMENT, "-1 bytes",
        "al_alloc of -1 bytes");
  for (const int64_t bytes :
       {INT64_MAX, INT64_MAX - 300, INT64_MAX / 2 + 1, int64_t{1} << 60})
    fails(al_alloc(device, bytes, &memory), AL_OUT_OF_MEMORY, "out of memory",
          "al_alloc of more than there is");
  // What is not freed goes with the device.
  succeeds(al_alloc(device, 1000, &memory), "al_alloc");
}

void test_copies() {
  Device device;
  Random random(2);
  // Up to where copies have several threads and go past the caches.
  for (const int64_t n : {0, 1, 63, 64, 65, 1 << 18, (1 << 18) + 1, 5 << 20}) {
    Array host(AL_BOOL, n), back(AL_BOOL, n, true);
    for (int64_t i = 0; i < n; ++i)
      host.set(i, static_cast<double>(random.below(256)));
    OnDevice first(device, n), second(device, n);
    succeeds(al_upload(device, first, host.data(), n), "al_upload");
    succeeds(al_copy(device, second, first, n), "al_copy");
    int64_t ticket = -1;
    succeeds(al_download(device, second, back.data(), n, 0, &ticket),
             "al_download");
    check(ticket == 0, "a download of the CPU is not done");
    check(memcmp(host.data(), back.data(), static_cast<size_t>(n)) == 0,
          "%lld bytes came back different", static_cast<long long>(n));
    succeeds(al_zero(device, second, n), "al_zero");
    bool zero = true;
    for (int64_t i = 0; i < n; ++i)
      zero &= static_cast<const char*>(static_cast<void*>(second))[i] == 0;
    check(zero, "al_zero leaves something");
  }
  // Nothing to do: the pointers are not looked at.
  succeeds(al_upload(device, nullptr, nullptr, 0), "al_upload of nothing");
  succeeds(al_copy(device, nullptr, nullptr, 0), "al_copy of nothing");
  succeeds(al_zero(device, nullptr, 0), "al_zero of nothing");
  fails(al_download_wait(device, 1, nullptr, 0, 0), AL_INVALID_ARGUMENT,
        "ticket 1", "al_download_wait of no ticket");
  succeeds(al_synchronize(device, 1), "al_synchronize");
  int something = 0;
  void* stream = &something;
  succeeds(al_device_stream(device, &stream), "al_device_stream");
  check(stream == nullptr, "the CPU has a stream");
}

}  // namespace

void test_device() {
  test_library();
  test_messages();
  test_memory();
  test_copies();
}

}  // namespace native
