#include "work.h"

#include <chrono>
#include <map>
#include <set>
#include <thread>

#include "device.h"

using cuda_platform::Clocks;
using cuda_platform::Moment;
using cuda_platform::Operation;

namespace cuda_platform {
namespace {

/** Work of a stream. */
struct Work {
  const char* name;
  std::shared_ptr<const Clocks> told; /* what the host knew */
  std::function<void(Clocks* known)> run;
  bool even_if_lost; /* what others wait for ends on a lost device as well */
};

/** What this thread works on; no id: it is a thread of the host. */
thread_local Operation running;
thread_local const Clocks* running_known = nullptr;
thread_local cudaStream_t running_stream = nullptr;

int64_t now_microseconds() {
  return std::chrono::duration_cast<std::chrono::microseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

}  // namespace
}  // namespace cuda_platform

/** Never deleted: a handle that is used too long is told, not followed. */
struct CUstream_st {
  int device;
  bool blocking; /* for the default stream, and the other way round */
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<cuda_platform::Work> queue;
  bool closing = false;
  bool ended = false;          /* takes nothing any more */
  cuda_platform::Clocks known; /* its thread's, until it has ended */

  /** Whether it has taken the work. */
  bool push(cuda_platform::Work work) {
    const auto places =
        static_cast<size_t>(cuda_platform::setting("QUEUE", 32));
    std::unique_lock<std::mutex> lock(mutex);
    changed.wait(lock, [&] { return queue.size() < places; });
    // Closed by another thread while this one had it from a list.
    if (ended) return false;
    queue.push_back(std::move(work));
    changed.notify_all();
    return true;
  }

  /** The stream's thread, until it is closed and has nothing left. */
  void work() {
    using namespace cuda_platform;
    running_stream = this;
    const uint32_t lane = take_lane();
    std::shared_ptr<const Clocks> told;
    for (;;) {
      Work next;
      {
        std::unique_lock<std::mutex> lock(mutex);
        changed.wait(lock, [&] { return closing || !queue.empty(); });
        ended = queue.empty();
        if (ended) break;
        // It keeps its place until it is done.
        next = std::move(queue.front());
      }
      delay();
      if (next.told != told) known.join(*next.told);
      told = next.told;
      const Operation operation = begin_operation(lane, next.name, &known);
      if (next.even_if_lost || device_error(device) == cudaSuccess) {
        const Running now(operation, &known);
        next.run(&known);
      }
      next = {};
      std::lock_guard<std::mutex> lock(mutex);
      queue.pop_front();
      changed.notify_all();
    }
    give_lane(lane);
  }
};

struct CUevent_st {
  int device;
  unsigned flags;
  std::mutex mutex;
  std::shared_ptr<Moment> last; /* nullptr: never recorded */
};

namespace cuda_platform {
namespace {

struct State {
  std::mutex mutex;
  std::set<cudaStream_t> streams;
  std::set<cudaEvent_t> events;
  cudaStream_t legacy[kMaxGpus] = {};
  std::set<cudaStream_t> blocking[kMaxGpus]; /* without the legacy one */
};

State& state() {
  static State* const all = new State;
  return *all;
}

cudaStream_t new_stream(int device, bool blocking) {
  auto* const stream = new CUstream_st{};
  stream->device = device;
  stream->blocking = blocking;
  std::thread([stream] { stream->work(); }).detach();
  return stream;
}

/** This thread's own default stream. */
cudaStream_t per_thread_stream(State& all, int device) {
  static thread_local cudaStream_t streams[kMaxGpus] = {};
  if (streams[device] == nullptr) {
    streams[device] = new_stream(device, true);
    all.streams.insert(streams[device]);
    all.blocking[device].insert(streams[device]);
  }
  return streams[device];
}

/** The stream that is meant; nullptr: there is none. */
cudaStream_t resolve(cudaStream_t stream) {
  State& all = state();
  std::lock_guard<std::mutex> lock(all.mutex);
  const int device = current_device();
  if (stream == cudaStreamPerThread) return per_thread_stream(all, device);
  if (stream != nullptr && stream != cudaStreamLegacy) {
    if (all.streams.count(stream)) return stream;
    report("a stream is used that has been destroyed, or never was");
    return nullptr;
  }
  if (all.legacy[device] == nullptr)
    all.legacy[device] = new_stream(device, true);
  return all.legacy[device];
}

std::shared_ptr<Moment> push_moment(cudaStream_t stream) {
  const auto moment = std::make_shared<Moment>();
  const bool taken = stream->push(
      {"a wait", tell_work(),
       [moment](Clocks* known) { moment->end(*known, now_microseconds()); },
       true});
  if (!taken) moment->end(stream->known, now_microseconds());
  return moment;
}

void push_wait(cudaStream_t stream, std::shared_ptr<Moment> moment) {
  stream->push({"a wait", tell_work(),
                [moment](Clocks* known) {
                  moment->wait();
                  known->join(moment->known());
                },
                true});
}

/** Orders a blocking stream with the default stream, or that with all. */
void join_legacy(cudaStream_t stream) {
  State& all = state();
  std::set<cudaStream_t> others;
  {
    std::lock_guard<std::mutex> lock(all.mutex);
    const cudaStream_t legacy = all.legacy[stream->device];
    if (!stream->blocking || legacy == nullptr) return;
    if (stream == legacy)
      others = all.blocking[stream->device];
    else
      others = {legacy};
  }
  for (const cudaStream_t other : others) push_wait(stream, push_moment(other));
}

bool is_event(cudaEvent_t event) {
  State& all = state();
  std::lock_guard<std::mutex> lock(all.mutex);
  if (all.events.count(event)) return true;
  report("an event is used that has been destroyed, or never was");
  return false;
}

std::shared_ptr<Moment> last_of(cudaEvent_t event) {
  std::lock_guard<std::mutex> lock(event->mutex);
  return event->last;
}

}  // namespace

void Moment::wait() {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [&] { return over_; });
}

bool Moment::is_over() {
  std::lock_guard<std::mutex> lock(mutex_);
  return over_;
}

void Moment::end(const Clocks& known, int64_t microseconds) {
  std::lock_guard<std::mutex> lock(mutex_);
  known_ = known;
  microseconds_ = microseconds;
  over_ = true;
  changed_.notify_all();
}

Access access_of_thread(Kind kind) {
  Access access;
  access.kind = kind;
  if (running.id != 0) {
    access.operation = running;
    access.known = running_known;
  } else {
    // Kept until this thread asks again.
    static thread_local std::shared_ptr<const Clocks> known;
    access.operation = host_operation(&known);
    access.known = known.get();
  }
  return access;
}

bool runs_work() { return running.id != 0; }

Running::Running(const Operation& operation, const Clocks* known) {
  running = operation;
  running_known = known;
}

Running::~Running() { running = {}; }

cudaError_t enqueue_work(cudaStream_t stream, const char* name,
                         std::function<void(Clocks* known)> work) {
  const cudaStream_t to = resolve(stream);
  if (to == nullptr) return cudaErrorInvalidResourceHandle;
  if (const cudaError_t error = device_error(to->device)) return error;
  join_legacy(to);
  to->push({name, tell_work(), std::move(work), false});
  return cudaSuccess;
}

cudaError_t enqueue(cudaStream_t stream, const std::string& name,
                    std::function<void()> work) {
  return enqueue_work(stream, intern(name),
                      [work = std::move(work)](Clocks*) { work(); });
}

std::shared_ptr<Moment> mark(cudaStream_t stream) {
  const cudaStream_t to = resolve(stream);
  if (to == nullptr) return nullptr;
  join_legacy(to);
  return push_moment(to);
}

void wait_for_device(int device) {
  State& all = state();
  std::set<cudaStream_t> streams;
  {
    std::lock_guard<std::mutex> lock(all.mutex);
    for (const cudaStream_t stream : all.streams)
      if (stream->device == device) streams.insert(stream);
    if (all.legacy[device]) streams.insert(all.legacy[device]);
  }
  for (const cudaStream_t stream : streams) {
    const auto moment = push_moment(stream);
    moment->wait();
    host_learns(moment->known());
  }
}

std::string describe_streams() {
  State& all = state();
  // Who hangs may have it.
  const std::unique_lock<std::mutex> lock(all.mutex, std::try_to_lock);
  if (!lock) return "   the list of streams is locked\n";
  std::set<cudaStream_t> streams = all.streams;
  for (const cudaStream_t legacy : all.legacy)
    if (legacy) streams.insert(legacy);
  std::string text;
  for (const cudaStream_t stream : streams) {
    text += "   a stream of cuda:" + std::to_string(stream->device);
    const std::unique_lock<std::mutex> own(stream->mutex, std::try_to_lock);
    if (!own)
      text += " is locked";
    else if (stream->queue.empty())
      text += " has nothing to do";
    // The first one keeps its place until it is done.
    for (size_t i = 0; own && i < stream->queue.size(); ++i)
      text += (i == 0   ? " runs "
               : i == 1 ? ", then "
                        : ", ") +
              std::string(stream->queue[i].name);
    text += "\n";
  }
  return text;
}

void lose_device(cudaError_t error) {
  lose_device(running_stream ? running_stream->device : current_device(),
              error);
}

int device_of(cudaStream_t stream) {
  const cudaStream_t found = resolve(stream);
  return found ? found->device : current_device();
}

}  // namespace cuda_platform

/* ---- CUDA's functions ----------------------------------------------------*/

using namespace cuda_platform;

extern "C" {

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags,
                                         int priority) {
  CALL();
  if (stream == nullptr || flags > cudaStreamNonBlocking)
    return fail(cudaErrorInvalidValue);
  (void)priority;  // out of range it is clamped; it is a hint
  const bool blocking = flags == cudaStreamDefault;
  *stream = new_stream(current_device(), blocking);
  State& all = state();
  std::lock_guard<std::mutex> lock(all.mutex);
  all.streams.insert(*stream);
  if (blocking) all.blocking[(*stream)->device].insert(*stream);
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  return cudaStreamCreateWithPriority(stream, flags, 0);
}

cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  return cudaStreamCreateWithPriority(stream, cudaStreamDefault, 0);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  CALL();
  State& all = state();
  {
    std::lock_guard<std::mutex> lock(all.mutex);
    if (all.streams.erase(stream) == 0) {
      report("a stream is destroyed that has been already, or never was");
      return fail(cudaErrorInvalidResourceHandle);
    }
    all.blocking[stream->device].erase(stream);
  }
  // Returns at once; what is enqueued is done all the same.
  std::lock_guard<std::mutex> lock(stream->mutex);
  stream->closing = true;
  stream->changed.notify_all();
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  CALL();
  const auto moment = mark(stream);
  if (moment == nullptr) return fail(cudaErrorInvalidResourceHandle);
  moment->wait();
  host_learns(moment->known());
  release_over_threshold(device_of(stream));
  return fail(device_error(device_of(stream)));
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
  CALL();
  const cudaStream_t found = resolve(stream);
  if (found == nullptr) return fail(cudaErrorInvalidResourceHandle);
  {
    std::lock_guard<std::mutex> lock(found->mutex);
    if (!found->queue.empty()) return fail(cudaErrorNotReady);
  }
  return cudaStreamSynchronize(stream);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event,
                                unsigned flags) {
  CALL();
  if (flags != 0) return fail(cudaErrorInvalidValue);
  const cudaStream_t to = resolve(stream);
  if (to == nullptr || !is_event(event))
    return fail(cudaErrorInvalidResourceHandle);
  if (const auto moment = last_of(event)) push_wait(to, moment);
  return cudaSuccess;
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function,
                               void* data) {
  CALL();
  return fail(enqueue_work(stream, "cudaLaunchHostFunc",
                           [=](Clocks*) { function(data); }));
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  CALL();
  if (event == nullptr ||
      flags > (cudaEventBlockingSync | cudaEventDisableTiming))
    return fail(cudaErrorInvalidValue);
  *event = new CUevent_st{};
  (*event)->device = current_device();
  (*event)->flags = flags;
  State& all = state();
  std::lock_guard<std::mutex> lock(all.mutex);
  all.events.insert(*event);
  return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t* event) {
  return cudaEventCreateWithFlags(event, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  CALL();
  State& all = state();
  std::lock_guard<std::mutex> lock(all.mutex);
  if (all.events.erase(event) == 0) {
    report("an event is destroyed that has been already, or never was");
    return fail(cudaErrorInvalidResourceHandle);
  }
  event->last = nullptr;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  CALL();
  const cudaStream_t to = resolve(stream);
  if (to == nullptr || !is_event(event) || event->device != to->device)
    return fail(cudaErrorInvalidResourceHandle);
  const auto moment = mark(to);
  std::lock_guard<std::mutex> lock(event->mutex);
  event->last = moment;
  return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  CALL();
  if (!is_event(event)) return fail(cudaErrorInvalidResourceHandle);
  const auto moment = last_of(event);
  if (moment == nullptr) return cudaSuccess;
  if (const cudaError_t error = device_error(event->device)) return fail(error);
  if (!moment->is_over()) return fail(cudaErrorNotReady);
  host_learns(moment->known());
  return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  CALL();
  if (!is_event(event)) return fail(cudaErrorInvalidResourceHandle);
  const auto moment = last_of(event);
  if (moment == nullptr) return cudaSuccess;
  moment->wait();
  host_learns(moment->known());
  release_over_threshold(event->device);
  return fail(device_error(event->device));
}

cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t start,
                                 cudaEvent_t end) {
  CALL();
  if (!is_event(start) || !is_event(end))
    return fail(cudaErrorInvalidResourceHandle);
  const auto first = last_of(start), last = last_of(end);
  if (first == nullptr || last == nullptr ||
      (start->flags | end->flags) & cudaEventDisableTiming)
    return fail(cudaErrorInvalidResourceHandle);
  if (!first->is_over() || !last->is_over()) return fail(cudaErrorNotReady);
  *ms = static_cast<float>(last->microseconds() - first->microseconds()) / 1e3f;
  return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize(void) {
  CALL();
  wait_for_device(current_device());
  release_over_threshold(current_device());
  return fail(device_error(current_device()));
}
}
