#include "communicator.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "platform.h"
#include "reduce.h"

using namespace cuda_platform;

namespace {

const char* const kNames[] = {"ncclAllReduce", "ncclBroadcast",
                              "ncclAllGather"};

/** Of all that ranks must agree on. */
uint64_t hash_of(const Operation& operation) {
  uint64_t hash = 14695981039346656037u;
  for (const uint64_t part :
       {uint64_t{operation.kind}, uint64_t{operation.count},
        static_cast<uint64_t>(operation.type),
        static_cast<uint64_t>(operation.op),
        static_cast<uint64_t>(operation.root)})
    hash = (hash ^ part) * 1099511628211u;
  return hash;
}

/** A host to NCCL is what NCCL_HOSTID says, if it says something. */
std::string host() {
  if (const char* const id = std::getenv("NCCL_HOSTID")) return id;
  char name[256] = {};
  gethostname(name, sizeof name - 1);
  return name;
}

/** Unless this is 0, peers are connected when they are first needed. */
bool connects_late() {
  const char* const value = std::getenv("NCCL_RUNTIME_CONNECT");
  return value == nullptr || strcmp(value, "0") != 0;
}

/** The communicator's device as the current one, until the end of a scope. */
class OnDevice {
 public:
  explicit OnDevice(int device) : before_(current_device()) {
    cudaSetDevice(device);
  }
  ~OnDevice() { cudaSetDevice(before_); }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  int before_;
};

}  // namespace

ncclComm::ncclComm(const ncclUniqueId& id, int rank_, int ranks_,
                   bool blocking_)
    : rank(rank_),
      ranks(ranks_),
      device(current_device()),
      blocking(blocking_),
      name(id.internal, strnlen(id.internal, sizeof id.internal)) {}

bool ncclComm::stopped() {
  if (aborted) return true;
  if (setting("NCCL_NOTICES_DEATH", 0) && failure == ncclSuccess &&
      exchange_->a_rank_died())
    failure = ncclRemoteError;
  return false;
}

ncclResult_t ncclComm::initialize() {
  const OnDevice here(device);
  const auto stop = [this] { return stopped(); };
  if (lost() != cudaSuccess) return ncclUnhandledCudaError;
  try {
    exchange_ = std::make_unique<Exchange>(name, rank, ranks);
  } catch (const std::string&) {
    return ncclSystemError;
  }
  char bus[32] = {};
  if (cudaDeviceGetPCIBusId(bus, sizeof bus, device) != cudaSuccess)
    return ncclUnhandledCudaError;
  if (!exchange_->join(host() + " " + bus, stop)) return ncclInternalError;
  // "Duplicate GPU detected"
  if (!exchange_->same_gpu().empty()) return ncclInvalidUsage;
  if (!connects_late() && !exchange_->connect(Exchange::kEverything, stop))
    return ncclInternalError;
  initialized = true;
  return ncclSuccess;
}

ncclResult_t ncclComm::connect(const Operation& operation) {
  if (!connects_late()) return ncclSuccess;
  const auto stop = [this] { return stopped(); };
  return exchange_->connect(1u << operation.kind, stop) ? ncclSuccess
                                                        : ncclInternalError;
}

ncclResult_t ncclComm::launch(const Operation& operation) {
  // A kernel cannot be launched on another device's stream.
  if (device_of(operation.stream) != device) return ncclUnhandledCudaError;
  // NCCL would put them in order; nobody needs that here.
  if (stream_ != nullptr && stream_ != operation.stream)
    report("a communicator on two streams: the stand-in does not know that");
  stream_ = operation.stream;
  // Counts as under way until the stream has run it or dropped it.
  ++under_way;
  const std::shared_ptr<void> one(nullptr, [this](void*) { --under_way; });
  const cudaError_t code = enqueue(operation.stream, kNames[operation.kind],
                                   [this, operation, one] { run(operation); });
  return code == cudaSuccess ? ncclSuccess : ncclUnhandledCudaError;
}

void ncclComm::run(const Operation& operation) {
  const size_t size = size_of(operation.type);
  const size_t bytes = operation.count * size;
  const size_t received = operation.kind == Operation::kAllGather
                              ? bytes * static_cast<size_t>(ranks)
                              : bytes;
  const bool sends =
      operation.kind != Operation::kBroadcast || operation.root == rank;
  if (sends) note_read(operation.send, bytes, "sendbuff");
  note_write(operation.receive, received, "recvbuff");
  delay();
  // A failure of the transport: it never gets on, until it is aborted.
  if (const int failed = begin_call("ncclKernel"))
    failure = static_cast<ncclResult_t>(failed);
  while (failure != ncclSuccess && !aborted)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  if (!aborted && transfer(operation)) return;
  // "Nothing can be assumed about the completion or correctness."
  memset(operation.receive, 0xff, received / 2);
}

bool ncclComm::transfer(const Operation& operation) {
  const size_t size = size_of(operation.type);
  const size_t most = Exchange::kChunkBytes / size;
  const auto* const send = static_cast<const char*>(operation.send);
  auto* const receive = static_cast<char*>(operation.receive);
  const size_t bytes = operation.count * size;
  const uint64_t hash = hash_of(operation);
  for (size_t first = 0; first < operation.count; first += most) {
    const size_t count = std::min(most, operation.count - first);
    const size_t at = first * size, some = count * size;
    const auto take = [&](const char* areas) {
      const auto area = [&](int i) {
        return areas + static_cast<size_t>(i) * Exchange::kChunkBytes;
      };
      switch (operation.kind) {
        case Operation::kAllReduce:
          reduce(operation.type, operation.op, areas, Exchange::kChunkBytes,
                 ranks, count, receive + at);
          break;
        case Operation::kBroadcast:
          memcpy(receive + at, area(operation.root), some);
          break;
        case Operation::kAllGather:
          for (int i = 0; i < ranks; ++i)
            memcpy(receive + static_cast<size_t>(i) * bytes + at, area(i),
                   some);
      }
    };
    const bool sends =
        operation.kind != Operation::kBroadcast || operation.root == rank;
    if (!exchange_->step(hash, send + at, sends ? some : 0, take,
                         [this] { return stopped(); }))
      return false;
  }
  return true;
}

void ncclComm::wait_for_streams() {
  while (under_way > 0 && lost() == cudaSuccess)
    std::this_thread::sleep_for(std::chrono::microseconds(100));
}

ncclResult_t ncclComm::finalize() {
  if (!initialized) return ncclSuccess;
  const OnDevice here(device);
  wait_for_streams();
  exchange_->leave();
  exchange_->all_have_left([this] { return stopped(); });
  return ncclSuccess;
}

ncclResult_t ncclComm::destroy() {
  // Also of an aborted one: its kernels end when their streams reach them.
  if (!finalized) finalize();
  if (exchange_ && !initialized) exchange_->leave();
  if (under_way == 0) exchange_.reset();
  return ncclSuccess;
}
