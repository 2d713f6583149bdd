/**
 * Faults that the checker finds, told on stderr: which access, in which kernel
 * or copy, of which block. A process with a report fails when it ends.
 */
#ifndef CUDA_PLATFORM_REPORT_H
#define CUDA_PLATFORM_REPORT_H

#include "access.h"

namespace cuda_platform {

/** An access that is not ordered with the one before it. */
void report_race(const char* address, const Slot& before, const Access& now,
                 const void* pc, const char* what);

/** An access to memory that is not of a block in use. */
void report_dead(const char* address, size_t bytes, const Access& now,
                 const void* pc, const char* what);

/** A read of what nobody has written. */
void report_unwritten(const char* address, const Access& now, const void* pc,
                      const char* what);

/** Any other fault of a kernel, at an address. */
void report_at(const std::string& fault, const char* address, const Access& now,
               const void* pc);

/** File and line of code, and the functions that it was inlined into. */
std::string source_of(const void* pc);

/** The name of a function, by the debug information. */
std::string function_at(const void* function);

/** How many there were so far. */
int64_t reports();

}  // namespace cuda_platform

#endif /* CUDA_PLATFORM_REPORT_H */
