/**
 * What a process that hangs waits for: written to a file of the folder
 * CUDA_PLATFORM_STATES, named by the process, when SIGUSR2 comes. What each
 * stream has to do, and where each thread of the host is that is in code of
 * this package. Without that variable there is nothing here.
 */
#include <dirent.h>
#include <dlfcn.h>
#include <execinfo.h>
#include <semaphore.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <string>
#include <thread>
#include <vector>

#include "kernel.h"
#include "report.h"
#include "work.h"

namespace cuda_platform {
namespace {

/** Where a thread is. */
struct Stack {
  void* frames[64];
  int depth;
  std::string kernel; /* which of its threads, if it runs one */
};

struct State {
  sem_t wanted, taken;
  std::atomic<pid_t> asked{0}; /* the thread whose stack is wanted */
  void* frames[64];
  int depth;
  RunningBlock* block;
};

State& state() {
  static State* const all = new State;
  return *all;
}

pid_t thread_id() { return static_cast<pid_t>(syscall(SYS_gettid)); }

/** For the process: all is wanted. For a thread that was asked: its stack. */
void on_signal(int) {
  State& all = state();
  if (all.asked != thread_id()) {
    sem_post(&all.wanted);
    return;
  }
  all.asked = 0;
  all.depth = backtrace(all.frames, 64);
  all.block = running_block;
  sem_post(&all.taken);
}

/** Those of this process but for this one. */
std::vector<pid_t> other_threads() {
  std::vector<pid_t> threads;
  DIR* const folder = opendir("/proc/self/task");
  if (folder == nullptr) return threads;
  while (const dirent* const entry = readdir(folder)) {
    const pid_t thread = atoi(entry->d_name);
    if (thread > 0 && thread != thread_id()) threads.push_back(thread);
  }
  closedir(folder);
  return threads;
}

/** False: the thread does not answer, or has ended. */
bool take_stack(pid_t thread, Stack* stack) {
  State& all = state();
  all.asked = thread;
  timespec limit;
  clock_gettime(CLOCK_REALTIME, &limit);
  limit.tv_sec += 1;
  if (syscall(SYS_tgkill, getpid(), thread, SIGUSR2) != 0 ||
      sem_timedwait(&all.taken, &limit) != 0)
    return false;
  stack->depth = all.depth;
  for (int i = 0; i < all.depth; ++i) stack->frames[i] = all.frames[i];
  stack->kernel = all.block ? describe(*all.block) : "";
  return true;
}

bool is_of_package(const void* pc) {
  Dl_info module;
  return dladdr(pc, &module) != 0 &&
         std::string(module.dli_fname).find("atomloss") != std::string::npos;
}

void write_states() {
  const std::string path = std::string(getenv("CUDA_PLATFORM_STATES")) + "/" +
                           std::to_string(getpid());
  FILE* const file = fopen(path.c_str(), "w");
  if (file == nullptr) return;
  const char* const rank = getenv("RANK");
  fprintf(file, "stand-in: process %d, rank %s\n%s", getpid(),
          rank ? rank : "-", describe_streams().c_str());
  for (const pid_t thread : other_threads()) {
    Stack stack;
    if (!take_stack(thread, &stack)) {
      fprintf(file, "   thread %d does not answer\n", thread);
      continue;
    }
    std::string text;
    for (int i = 0; i < stack.depth; ++i)
      if (is_of_package(stack.frames[i])) text += source_of(stack.frames[i]);
    if (text.empty()) continue;
    fprintf(file, "   thread %d%s\n%s", thread, stack.kernel.c_str(),
            text.c_str());
    fflush(file);
  }
  fclose(file);
}

__attribute__((constructor)) void listen() {
  if (getenv("CUDA_PLATFORM_STATES") == nullptr) return;
  State& all = state();
  sem_init(&all.wanted, 0, 0);
  sem_init(&all.taken, 0, 0);
  // What it loads when it is first called cannot be loaded in a signal.
  backtrace(all.frames, 1);
  std::thread([&all] {
    for (;;)
      if (sem_wait(&all.wanted) == 0) write_states();
  }).detach();
  struct sigaction action = {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;
  sigaction(SIGUSR2, &action, nullptr);
}

}  // namespace
}  // namespace cuda_platform
