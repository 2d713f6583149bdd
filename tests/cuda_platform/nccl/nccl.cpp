/**
 * libnccl on a CPU: the functions, groups, and which call is allowed when. Read
 * beside NCCL's src/init.cc, src/group.cc and src/enqueue.cc, which it follows:
 * what a communicator that does not block answers, what an error leaves behind.
 */
#include <nccl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <mutex>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "communicator.h"
#include "platform.h"
#include "reduce.h"

using namespace cuda_platform;

namespace {

/* ---- errors --------------------------------------------------------------*/

std::mutex last_error_mutex;
char last_error[1024];

ncclResult_t fail(ncclResult_t code, const std::string& why) {
  std::lock_guard<std::mutex> lock(last_error_mutex);
  snprintf(last_error, sizeof last_error, "%s", why.c_str());
  return code;
}

bool is_error(ncclResult_t code) {
  return code != ncclSuccess && code != ncclInProgress;
}

/* ---- groups --------------------------------------------------------------*/

/** What a call does when its group ends. */
struct Job {
  ncclComm_t comm;
  bool ends_it; /* the communicator */
  std::function<ncclResult_t()> work;
};

/** The calls between ncclGroupStart() and ncclGroupEnd() of this thread. */
struct Group {
  int depth = 0;
  ncclResult_t error = ncclSuccess;
  std::vector<Job> jobs; /* init, finalize, destroy: beside each other */
  std::vector<std::pair<ncclComm_t, Operation>> operations; /* in order */

  std::set<ncclComm_t> communicators() const {
    std::set<ncclComm_t> all;
    for (const Job& job : jobs)
      if (!job.ends_it) all.insert(job.comm);
    for (const auto& operation : operations) all.insert(operation.first);
    return all;
  }
};

thread_local Group group;

/** Calls of different communicators, which may have to meet each other. */
ncclResult_t run_beside(const std::vector<std::function<ncclResult_t()>>& all) {
  std::vector<ncclResult_t> results(all.size(), ncclSuccess);
  std::vector<std::thread> threads;
  for (size_t i = 1; i < all.size(); ++i)
    threads.emplace_back([&, i] { results[i] = all[i](); });
  if (!all.empty()) results[0] = all[0]();
  for (std::thread& thread : threads) thread.join();
  for (const ncclResult_t result : results)
    if (is_error(result)) return result;
  return ncclSuccess;
}

/** Everything of a group; returns when it is on the streams. */
ncclResult_t run(const Group& calls) {
  std::vector<std::function<ncclResult_t()>> all;
  for (const Job& job : calls.jobs) all.push_back(job.work);
  if (const ncclResult_t bad = run_beside(all)) return bad;
  // Communicator by communicator each in its order, all beside each other.
  all.clear();
  for (ncclComm_t comm : calls.communicators())
    all.push_back([&calls, comm]() -> ncclResult_t {
      for (const auto& [of, operation] : calls.operations) {
        if (of != comm) continue;
        if (const ncclResult_t bad = comm->connect(operation)) return bad;
      }
      return ncclSuccess;
    });
  if (!calls.operations.empty())
    if (const ncclResult_t bad = run_beside(all)) return bad;
  for (const auto& [comm, operation] : calls.operations)
    if (const ncclResult_t bad = comm->launch(operation)) return bad;
  return ncclSuccess;
}

void start_group() { ++group.depth; }

ncclResult_t end_group() {
  if (group.depth == 0)
    return fail(ncclInvalidUsage, "ncclGroupEnd: not in a group call");
  if (--group.depth > 0) return ncclSuccess;
  const Group calls = std::move(group);
  group = {};
  const std::set<ncclComm_t> comms = calls.communicators();
  const auto set_state = [comms](ncclResult_t state) {
    for (ncclComm_t comm : comms)
      if (!comm->blocking) comm->state = state;
  };
  if (calls.error != ncclSuccess) {
    set_state(calls.error);
    return calls.error;
  }
  const auto blocks = [](ncclComm_t comm) { return comm->blocking; };
  if (std::all_of(comms.begin(), comms.end(), blocks)) return run(calls);
  if (std::any_of(comms.begin(), comms.end(), blocks)) {
    set_state(ncclInvalidArgument);
    return fail(ncclInvalidArgument,
                "blocking and nonblocking communicators in one group");
  }
  // All of it on a thread of its own: the caller asks how far it is.
  set_state(ncclInProgress);
  for (ncclComm_t comm : comms) comm->launching = true;
  std::thread([calls, comms, set_state] {
    delay();
    const ncclResult_t result = run(calls);
    set_state(result);
    for (ncclComm_t comm : comms) comm->launching = false;
  }).detach();
  return ncclInProgress;
}

/* ---- calls ---------------------------------------------------------------*/

/** A thread inside of a call: there must be no other in the communicator. */
class Caller {
 public:
  Caller(ncclComm_t comm, const char* name) : comm_(comm) {
    if (comm == nullptr) return;
    if (comm->destroyed)
      report(std::string(name) + ": the communicator has been destroyed");
    if (comm->callers++ > 0)
      report(std::string(name) +
             ": another thread is in a call of this communicator");
  }
  ~Caller() {
    if (comm_ != nullptr) --comm_->callers;
  }
  Caller(const Caller&) = delete;
  Caller& operator=(const Caller&) = delete;

 private:
  ncclComm_t comm_;
};

/** Why the communicator can take no call; ncclSuccess if it can. */
ncclResult_t check_ready(ncclComm_t comm, const char* name) {
  if (comm == nullptr)
    return fail(ncclInvalidArgument, std::string(name) + ": comm is NULL");
  const ncclResult_t now = comm->answer();
  if (now != ncclInProgress) return now;
  return fail(ncclInvalidArgument,
              std::string(name) +
                  ": attempt to use communicator before the previous operation "
                  "returned ncclSuccess");
}

/**
 * The end of a call: what has failed is what its group fails with, and what a
 * communicator that does not block is in from now on.
 */
ncclResult_t end_call(ncclComm_t comm, ncclResult_t result) {
  const bool asks = comm != nullptr && !comm->blocking;
  if (is_error(result)) {
    group.error = result;
    if (asks) comm->state = result;
  }
  const ncclResult_t ended = end_group();
  if (is_error(ended)) return ended;
  if (asks) return comm->answer();
  return is_error(result) ? result : ended;
}

ncclResult_t call_operation(const char* name, const Operation& operation,
                            ncclComm_t comm) {
  const Caller caller(comm, name);
  if (comm == nullptr) return check_ready(comm, name);
  start_group();
  ncclResult_t result = static_cast<ncclResult_t>(begin_call(name));
  if (result == ncclSuccess) result = check_ready(comm, name);
  if (result == ncclSuccess) {
    if (size_of(operation.type) == 0 || operation.op < 0 ||
        operation.op >= ncclNumOps || operation.root < 0 ||
        operation.root >= comm->ranks)
      result = fail(ncclInvalidArgument,
                    std::string(name) + ": invalid type, operation or root");
    // NCCL drops empty ones: they wait for nobody.
    else if (operation.count > 0)
      group.operations.emplace_back(comm, operation);
  }
  return end_call(comm, result);
}

}  // namespace

extern "C" {

ncclResult_t ncclGetVersion(int* version) {
  if (version == nullptr) return ncclInvalidArgument;
  *version = NCCL_VERSION_CODE;
  return ncclSuccess;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  if (const int failed = begin_call(__func__))
    return static_cast<ncclResult_t>(failed);
  if (id == nullptr) return ncclInvalidArgument;
  *id = {};
  std::random_device random;
  snprintf(id->internal, sizeof id->internal, "cuda_platform_nccl_%d_%08x%08x",
           getpid(), random(), random());
  return ncclSuccess;
}

const char* ncclGetErrorString(ncclResult_t result) {
  static const char* const texts[] = {
      "no error",
      "unhandled cuda error (run with NCCL_DEBUG=INFO for details)",
      "unhandled system error (run with NCCL_DEBUG=INFO for details)",
      "internal error - please report this issue to the NCCL developers",
      "invalid argument (run with NCCL_DEBUG=WARN for details)",
      "invalid usage (run with NCCL_DEBUG=WARN for details)",
      "remote process exited or there was a network error",
      "NCCL operation in progress",
      "timeout"};
  return result >= 0 && result < ncclNumResults ? texts[result]
                                                : "unknown result code";
}

const char* ncclGetLastError(ncclComm_t) { return last_error; }

ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int ranks,
                                    ncclUniqueId id, int rank,
                                    ncclConfig_t* config) {
  start_group();
  ncclResult_t result = static_cast<ncclResult_t>(begin_call(__func__));
  int count = 0;
  if (comm != nullptr) *comm = nullptr;
  if (result == ncclSuccess && cudaGetDeviceCount(&count) != cudaSuccess)
    result = ncclUnhandledCudaError;
  if (result == ncclSuccess &&
      (comm == nullptr || ranks < 1 || rank < 0 || rank >= ranks))
    result = fail(ncclInvalidArgument, "ncclCommInitRankConfig: invalid rank");
  if (result == ncclSuccess && config && config->magic != NCCL_API_MAGIC)
    result = fail(ncclInvalidArgument, "ncclConfig_t argument not initialized");
  if (result != ncclSuccess) return end_call(nullptr, result);
  const ncclComm_t made =
      new ncclComm(id, rank, ranks, config == nullptr || config->blocking != 0);
  *comm = made;
  group.jobs.push_back({made, false, [made] {
                          const ncclResult_t done = made->initialize();
                          if (made->blocking) made->state = done;
                          return done;
                        }});
  return end_call(made, ncclSuccess);
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) {
  const Caller caller(comm, __func__);
  if (comm == nullptr) return ncclSuccess;
  start_group();
  ncclResult_t result = static_cast<ncclResult_t>(begin_call(__func__));
  if (result == ncclSuccess) result = check_ready(comm, __func__);
  if (result == ncclSuccess && comm->finalized)
    result = fail(ncclInvalidArgument, "ncclCommFinalize: called twice");
  if (result == ncclSuccess) {
    comm->finalized = true;
    group.jobs.push_back({comm, false, [comm] { return comm->finalize(); }});
  }
  return end_call(comm, result);
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  const Caller caller(comm, __func__);
  if (comm == nullptr) return ncclSuccess;
  if (const int failed = begin_call(__func__))
    return static_cast<ncclResult_t>(failed);
  start_group();
  // As in NCCL, whose thread stays in a group when it returns here.
  if (const ncclResult_t bad = check_ready(comm, __func__)) return bad;
  comm->destroyed = true;
  group.jobs.push_back({comm, true, [comm] { return comm->destroy(); }});
  return end_group();
}

ncclResult_t ncclCommAbort(ncclComm_t comm) {
  const Caller caller(comm, __func__);
  if (comm == nullptr) return ncclSuccess;
  begin_call(__func__);
  start_group();
  comm->aborted = true;
  while (comm->launching)
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  comm->destroyed = true;
  group.jobs.push_back({comm, true, [comm] { return comm->destroy(); }});
  return end_group();
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* error) {
  const Caller caller(comm, __func__);
  if (comm == nullptr || error == nullptr) return ncclInvalidArgument;
  if (const int failed = begin_call(__func__))
    return static_cast<ncclResult_t>(failed);
  *error = comm->answer();
  return ncclSuccess;
}

ncclResult_t ncclGroupStart() {
  if (const int failed = begin_call(__func__))
    return static_cast<ncclResult_t>(failed);
  start_group();
  return ncclSuccess;
}

ncclResult_t ncclGroupEnd() {
  if (const int failed = begin_call(__func__)) {
    if (group.depth > 0) group.error = static_cast<ncclResult_t>(failed);
  }
  return end_group();
}

ncclResult_t ncclAllReduce(const void* send, void* receive, size_t count,
                           ncclDataType_t type, ncclRedOp_t op, ncclComm_t comm,
                           cudaStream_t stream) {
  return call_operation(
      __func__,
      {Operation::kAllReduce, send, receive, count, type, op, 0, stream}, comm);
}

ncclResult_t ncclBroadcast(const void* send, void* receive, size_t count,
                           ncclDataType_t type, int root, ncclComm_t comm,
                           cudaStream_t stream) {
  return call_operation(__func__,
                        {Operation::kBroadcast, send, receive, count, type,
                         ncclSum, root, stream},
                        comm);
}

ncclResult_t ncclAllGather(const void* send, void* receive, size_t count,
                           ncclDataType_t type, ncclComm_t comm,
                           cudaStream_t stream) {
  return call_operation(
      __func__,
      {Operation::kAllGather, send, receive, count, type, ncclSum, 0, stream},
      comm);
}

}  // extern "C"
