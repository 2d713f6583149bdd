/**
 * How a function of the ABI fails: al_fail() keeps the message under a ticket
 * and returns the status that carries it, al_guard() turns what C++ throws
 * into such a status. Shared by both libraries.
 */
#ifndef ATOMLOSS_STATUS_H
#define ATOMLOSS_STATUS_H

#include <exception>
#include <new>

#include "atomloss.h"

/** Keeps a printf-formatted message and returns the status that names it. */
__attribute__((format(printf, 2, 3))) al_status al_fail(al_status_code code,
                                                        const char* format,
                                                        ...);

/** Thrown inside the library to leave several frames at once. */
struct al_error : std::exception {
  al_status status;
  explicit al_error(al_status failed) : status(failed) {}
};

/** Runs f, which returns an al_status, and lets no exception out. */
template <class F>
al_status al_guard(F&& f) noexcept {
  try {
    return f();
  } catch (const al_error& error) {
    return error.status;
  } catch (const std::bad_alloc&) {
    return al_fail(AL_OUT_OF_MEMORY, "out of host memory");
  } catch (const std::exception& error) {
    return al_fail(AL_INTERNAL, "%s", error.what());
  } catch (...) {
    return al_fail(AL_INTERNAL, "unknown exception");
  }
}

#endif /* ATOMLOSS_STATUS_H */
