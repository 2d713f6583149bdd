#include <algorithm>
#include <string>
#include <utility>

#include "cuda/group.cuh"

using namespace atomloss;

namespace {

/** A timeout that no arithmetic of clocks overflows: thirty years. */
constexpr int64_t kLongest = int64_t{1000} * 1000 * 1000 * 1000;

/** NCCL's few blocks are not to queue behind those of a loss. */
Stream new_urgent_stream() {
  int least, most;
  AL_CHECK(cudaDeviceGetStreamPriorityRange(&least, &most));
  return new_stream(most);
}

/** The token of barriers; its value does not matter, but is defined. */
DeviceMemory<int> make_token(cudaStream_t stream) {
  DeviceMemory<int> token = new_device_memory<int>(1);
  // On the stream that will read it.
  AL_CHECK(cudaMemsetAsync(token, 0, sizeof(int), stream));
  return token;
}

}  // namespace

al_group::al_group(al_device* on, int this_rank, int ranks, const char* address,
                   int64_t timeout_ms, bool compare)
    : device(on),
      rank(this_rank),
      world_size(ranks),
      timeout(std::min(timeout_ms, kLongest)),
      debug(compare),
      stream(new_urgent_stream()),
      token(make_token(stream)),
      roll_call(this_rank, ranks, address) {}

al_group::~al_group() {
  // What was aborted ends at once, what was not has ended.
  cudaStreamSynchronize(stream);
  // Counts are written and read there, and cudaFree() waits for no stream where
  // their memory came by cudaMallocAsync().
  if (watched)
    al_guard([&]() -> al_status {
      wait_for(device->compute);
      return AL_OK;
    });
}

ncclResult_t al_group::state() const {
  if (communicator == nullptr) return ncclSuccess;
  ncclResult_t state = ncclSuccess;
  const ncclResult_t code = ncclCommGetAsyncError(communicator, &state);
  return code == ncclSuccess ? state : code;
}

void al_group::connect(const ncclUniqueId& id) {
  Pending* mine;
  {
    std::lock_guard<std::mutex> lock(mutex);
    mine = &pending.emplace_back(Call::connect(), calls);
    changed.notify_all();
  }
  roll_call.enter(calls++, Call::connect());
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  hand_over(*mine, [&] {
    return ncclCommInitRankConfig(&communicator, world_size, id, rank, &config);
  });
  mine->stage = Pending::kEnqueued;
  roll_call.leave();
}

cudaEvent_t al_group::arrival(const CountSlot& slot) {
  std::lock_guard<std::mutex> lock(mutex);
  reap();
  if (slot.failed || (slot.done && !broken.empty()))
    throw al_error(al_fail(broken_code, "%s", broken.c_str()));
  return slot.done;
}

void al_group::check_unbroken() {
  std::lock_guard<std::mutex> lock(mutex);
  if (!broken.empty())
    throw al_error(al_fail(broken_code, "%s", broken.c_str()));
}

Event al_group::take_event() {
  if (events.empty()) return new_event();
  Event event = std::move(events.back());
  events.pop_back();
  return event;
}

Pending& al_group::begin(const Call& call, bool waits) {
  const int64_t number = calls++;
  roll_call.enter(number, call);
  std::lock_guard<std::mutex> lock(mutex);
  reap();
  if (!broken.empty())
    throw al_error(al_fail(AL_COLLECTIVE_FAILED,
                           "%s on rank %d of %d: the group is broken since %s",
                           call.text().c_str(), rank, world_size,
                           broken.c_str()));
  Event done = take_event();
  Event ready = waits ? take_event() : Event();
  Pending& mine = pending.emplace_back(call, number);
  mine.done = std::move(done);
  mine.ready = std::move(ready);
  if (pending.size() == 1) changed.notify_all();
  return mine;
}

void al_group::leave(const Call& call) {
  std::lock_guard<std::mutex> lock(mutex);
  reap();
  set_broken(AL_COLLECTIVE_FAILED,
             call.text() + " on rank " + std::to_string(rank) + " of " +
                 std::to_string(world_size) + " failed before it was enqueued");
  // All before it are enqueued.
  if (!pending.empty() && pending.back().stage != Pending::kEnqueued)
    pending.back().stage = Pending::kFailed;
}

void al_group::compare_calls(const Call& call) {
  std::unique_ptr<CallCheck> check;
  {
    std::lock_guard<std::mutex> lock(mutex);
    if (!checks.empty()) {
      check = std::move(checks.back());
      checks.pop_back();
    }
  }
  if (!check) check = std::make_unique<CallCheck>(world_size);
  const size_t bytes = sizeof(CallRecord);
  CallRecord* const host = check->host();
  CallRecord* const records = check->device;
  CallRecord* const mine = records + world_size;
  host[world_size] = CallRecord(call);
  Pending& exchange = begin(call, false);
  exchange.check = std::move(check);
  AL_CHECK(cudaMemcpyAsync(mine, host + world_size, bytes,
                           cudaMemcpyHostToDevice, stream));
  hand_over(exchange, [&] {
    return ncclAllGather(mine, records, bytes, ncclInt8, communicator, stream);
  });
  AL_CHECK(cudaMemcpyAsync(host, records, bytes * world_size,
                           cudaMemcpyDeviceToHost, stream));
  AL_CHECK(cudaEventRecord(exchange.done, stream));
  exchange.stage = Pending::kEnqueued;
}

void al_group::reap() {
  while (!pending.empty()) {
    Pending& first = pending.front();
    const Pending::Stage stage = first.stage;
    if (stage == Pending::kPreparing || stage == Pending::kHandedOver) return;
    const cudaError_t code = stage == Pending::kEnqueued && first.done
                                 ? cudaEventQuery(first.done)
                                 : cudaSuccess;
    if (code == cudaErrorNotReady && broken.empty()) return;
    // An aborted one, or a broken device, is not to be waited for.
    if (code != cudaSuccess && broken.empty())
      set_broken(AL_COLLECTIVE_FAILED,
                 first.call.text() + " on rank " + std::to_string(rank) +
                     " of " + std::to_string(world_size) +
                     " failed: " + cudaGetErrorString(code));
    const bool arrived = stage == Pending::kEnqueued && code == cudaSuccess;
    if (CountSlot* const slot = first.slot) {
      slot->failed = !arrived;
      cudaEvent_t done = first.done;  // unless it is taken again
      slot->done.compare_exchange_strong(done, nullptr);
    }
    if (first.check) {
      const std::string others =
          arrived ? describe_others(first.check->host(), world_size, rank) : "";
      if (!others.empty())
        set_broken(AL_COLLECTIVE_FAILED,
                   "replicas disagree: call " + std::to_string(first.number) +
                       " of rank " + std::to_string(rank) + " of " +
                       std::to_string(world_size) + " is " + first.call.text() +
                       "; " + others);
      checks.push_back(std::move(first.check));
    }
    if (first.origin > 0 && debug) device->collectives.end(first.origin);
    if (first.ready) events.push_back(std::move(first.ready));
    if (first.done) events.push_back(std::move(first.done));
    pending.pop_front();
  }
}

void al_group::set_broken(al_status_code code, const std::string& why) {
  if (!broken.empty()) return;
  broken = why;
  broken_code = code;
  roll_call.give_up();
  const auto first =
      std::find_if(pending.begin(), pending.end(),
                   [](const Pending& each) { return each.origin > 0; });
  if (first != pending.end())
    device->collectives.fail(first->origin, code, why);
  changed.notify_all();
}
